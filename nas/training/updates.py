"""Updates of the weights: the points of the recipe, the gradients of their loss, and a step of the optimiser."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

from evaluators.engine.batches import out_of_memory
from evaluators.engine.folding import Folding
from evaluators.engine.noise import ImageNoise
from nas.training.modes import Modes
from nas.training.optimiser import open_optimiser, peak_rate, rates, set_rates
from nas.training.precision import default_precision
from nas.training.recipes.carrying import BatchRecipe
from nas.training.weight_perturbation import perturbed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nas.training.config import TrainingConfig
    from nas.training.recipes.base import Recipe
    from nas.training.stopwatch import Stopwatch


_NO_GRADIENT = (
    "the loss has no gradient for the weights; the network or the recipe may detach a tensor, use argmax or round, or "
    "compute without gradients"
)


class NoGradientError(Exception):
    """The loss has no gradient for any weight."""


@final
class Updates:
    """The updates of a training, one for each batch.

    Attributes:
        optimiser: The optimiser. Its state belongs into checkpoints.
        parts: Number of parts of a batch, each with its own passes; it becomes 2 when the memory runs out. Batch norm then
            normalises each half by itself.
        modes: Evaluation and training mode of the network.
        folding: Batch norm of the network to be folded in evaluation mode.

    Args:
        network: The network.
        config: Settings of the training.
        x: Training images, (N, C, H, W).
        batch: Number of images in a batch.
        count: Number of updates in the whole training.
        seed: Seed of the attacks.
    """

    def __init__(self, network: nn.Module, config: TrainingConfig, x: Tensor, *, batch: int, count: int, seed: int) -> None:
        self._network, self._config, self._seed = network, config, seed
        self._parameters = list(network.parameters())
        self._trained = [parameter for parameter in self._parameters if parameter.requires_grad]
        self._schedule = rates(config.schedule, peak_rate(config.optimiser, config.learning_rate, batch), count)
        precision = default_precision(x.device) if config.precision == "auto" else config.precision
        self._bfloat16 = precision == "bfloat16"
        self.parts = 1
        self.optimiser = open_optimiser(config.optimiser, self._parameters, config.weight_decay)
        self.folding = Folding(network.eval(), x)
        self.modes = Modes(network)

    def run(self, number: int, recipe: Recipe, x: Tensor, y: Tensor, watch: Stopwatch) -> Tensor:
        """Updates the weights on one batch, and returns the loss, a scalar.

        Args:
            number: Number of the update in the training, from 0.
            recipe: Recipe of the batch.
            x: Images, (N, C, H, W), augmented.
            y: Labels, (N,).
            watch: Stopwatch, for the laps `attack` and `gradient`.

        Raises:
            NoGradientError: the loss has no gradient for any weight.
        """
        noise = ImageNoise.of(self._seed, torch.arange(len(x), device=x.device), stream=number)
        loss = self._gradients(recipe, x, y, noise, watch)
        if loss is None:  # Memory ran out. From now on, each pass has half a batch.
            loss = self._gradients(recipe, x, y, noise, watch)
            assert loss is not None
        if self._config.clip_gradients is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._config.clip_gradients)
        set_rates(self.optimiser, *self._schedule[number])
        self.optimiser.step()
        return loss

    def _gradients(self, recipe: Recipe, x: Tensor, y: Tensor, noise: ImageNoise, watch: Stopwatch) -> Tensor | None:
        """Computes the gradients of all weights and returns the loss; None if the memory ran out for the first time."""
        for parameter in self._parameters:  # Same as `zero_grad`, at a tenth of its cost.
            parameter.grad = None
        total = torch.zeros((), device=x.device)
        try:
            for index in torch.arange(len(x), device=x.device).chunk(self.parts) if self.parts > 1 else [slice(None)]:
                share = len(x[index]) / len(x)
                part = recipe.select(index) if isinstance(recipe, BatchRecipe) else recipe
                total += share * self._pass(part, x[index], y[index], ImageNoise(noise.keys[index]), share, watch)
            return total
        except RuntimeError as error:
            if self.parts > 1 or len(x) < 4 or not out_of_memory(error):
                raise
        self.parts = 2
        return None

    def _pass(self, recipe: Recipe, x: Tensor, y: Tensor, noise: ImageNoise, share: float, watch: Stopwatch) -> Tensor:
        """Adds `share` times the gradients of the loss to the gradients of the weights, and returns the loss."""
        with self._precision(x):
            self.modes.evaluation()
            with self.folding.applied():
                points = recipe.points(self._network, x, y, noise)
            watch.lap("attack")
            self.modes.training()
            loss = recipe.loss(self._network, x, points, y)
        if not loss.requires_grad:
            raise NoGradientError(_NO_GRADIENT)
        size = self._config.weight_perturbation
        if size == 0:
            (loss if share == 1 else share * loss).backward()
        else:
            gradients = torch.autograd.grad(loss, self._trained, allow_unused=True)
            with perturbed(self._network, self._trained, gradients, size):
                with self._precision(x):
                    # The points stay those of the weights that were not moved.
                    moved_loss = recipe.loss(self._network, x, points.detach(), y)
                (share * moved_loss).backward()
        if all(parameter.grad is None for parameter in self._trained):
            raise NoGradientError(_NO_GRADIENT)
        watch.lap("gradient")
        return loss.detach()

    def _precision(self, x: Tensor) -> torch.autocast:
        """Returns the context of passes in the precision of the training."""
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self._bfloat16)
