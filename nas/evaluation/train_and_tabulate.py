"""Evaluator of `hardcell tabulate`: learning curves and final errors at several epsilons, on validation and test images."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, final

import torch

from evaluators import NoPowerLaw, error_at, fit_power_law
from evaluators.engine.prepared import prepare
from evaluators.radius.measure import measure, radii
from nas.config.metrics import AT
from nas.config.schema import Config
from nas.data import Dataset, Split
from nas.evaluation.base import Evaluator
from nas.evaluation.train_and_attack import TrainAndAttack, validation_radii
from nas.executors.base import Job, Precheck, TrialResult
from nas.training.epoch import EpochMeasures
from nas.training.train import train
from search_spaces import SearchSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from torch import Tensor, nn

    from nas.training.checkpoints import Checkpoint
    from nas.training.epoch import EpochResult
    from nas.training.network import Normalised

# Prefix of the names of numbers that are measured on the test split.
TEST = "test_"


@final
@dataclass(frozen=True)
class TrainAndTabulate(Evaluator):
    """Trains an architecture as a search does, and measures it for a table.

    After each epoch, the errors of the averaged weights are measured under the selection attack. At the end, the errors of
    the network with the weights of the best epoch are measured under the attacks of the search, in the same way.

    Attributes:
        config: The settings of the run.
        space: The search space.
        data: Training and validation images, on the device of the training.
        test: Test images. They decide nothing: the weights are chosen on the validation split.
    """

    config: Config
    space: SearchSpace
    data: Dataset = field(repr=False)
    test: Split = field(repr=False)

    @property
    def trainer(self) -> TrainAndAttack:
        """The evaluator of a search with these settings."""
        return TrainAndAttack(self.config, self.space, self.data)

    @property
    def hashes(self) -> dict[str, str]:
        """The hashes of the training, validation and test splits."""
        return {**self.trainer.hashes, "test": self.test.hash}

    @property
    def source(self) -> str:
        """Text for the display."""
        return self.trainer.source

    @property
    def device(self) -> torch.device:
        """The device of the images."""
        return self.trainer.device

    def precheck(self, job: Job) -> Precheck:
        """Returns the properties of a candidate that need no training.

        Raises:
            Exception: any error of the network's construction or its forward pass.
        """
        return self.trainer.precheck(job)

    def measure(self, job: Job, checkpoint: Checkpoint) -> Generator[EpochResult, None, TrialResult]:
        """Yields the epochs of the training, with `measured` errors, and returns the final metrics.

        Raises:
            Exception: any error of the candidate.
        """
        training, evaluation, images = self.config.training, self.config.evaluation, self._images()
        network = self.trainer.build(job.architecture, job.seed)
        yield from train(
            network,
            self.data,
            training,
            epsilon=evaluation.epsilon,
            epochs=training.epochs,
            seed=job.seed,
            checkpoint=checkpoint,
            measures=EpochMeasures(function=partial(self._at_epoch, images=images, seed=job.seed)),
        )
        return TrialResult(metrics=self._final(network, images, job.seed))

    def _images(self) -> Split:
        """Returns the validation images, then the test images, so that one attack runs on all of them."""
        validation, test = self.data.validation, self.test.to(self.device)
        return Split(torch.cat([validation.x, test.x]), torch.cat([validation.y, test.y]), hash="")

    def _at_epoch(self, network: nn.Module, *, images: Split, seed: int) -> dict[str, float]:
        """Returns the errors of a network under the selection attack, on both splits."""
        attack, epsilon = self.config.training.selection, self.config.evaluation.epsilon
        # With the seed of the training loop, the errors on validation images equal those that the loop measures.
        at_epsilon = radii(network, images.x, images.y, attack, [epsilon], seed=seed)
        return self._both(self._errors, self._on_grid(network, images, at_epsilon, seed))

    def _final(self, network: Normalised, images: Split, seed: int) -> dict[str, float]:
        """Returns the errors of a trained network on both splits, and its power laws where they can be fitted."""
        measured, fooled = validation_radii(network, images, self.config.evaluation, seed)
        on_grid = torch.from_numpy(measured)
        # With attacks in several norms, the adversarial error counts all of them.
        error = self._both(lambda part: {"adversarial_error": float(part.double().mean())}, torch.from_numpy(fooled))
        return self._both(self._errors, on_grid) | error | self._both(self._law, on_grid)

    def _both(self, function: Callable[[Tensor], dict[str, float]], images: Tensor) -> dict[str, float]:
        """Returns the numbers of a function of validation images, and of test images with the prefix `test_`."""
        count = len(self.data.validation.x)
        of_test = {TEST + name: value for name, value in function(images[count:]).items()}
        return function(images[:count]) | of_test

    def _law(self, on_grid: Tensor) -> dict[str, float]:
        """Returns exponent and prefactor of the power law of radii (N,); {} if no law can be fitted."""
        law = fit_power_law(on_grid.numpy(), self.config.evaluation.grid())
        if isinstance(law, NoPowerLaw):
            return {}
        return {"power_law_exponent": law.exponent, "power_law_prefactor": law.prefactor}

    def _on_grid(self, network: nn.Module, images: Split, at_epsilon: Tensor, seed: int) -> Tensor:
        """Returns radii under the selection attack on the grid of the evaluation, (N,), from radii at its epsilon.

        Images that are fooled at epsilon are attacked at the smaller epsilons, and the others at the larger ones. The attack
        is thus taken to fail below an epsilon at which it fails, which saves about half of the work.

        Args:
            network: The network.
            images: The images.
            at_epsilon: Radius of each image, (N,): 0, epsilon, or infinity.
            seed: Seed of the attack.
        """
        attack, epsilon, grid = self.config.training.selection, self.config.evaluation.epsilon, self.config.evaluation.grid()
        smaller, larger = [e for e in grid if e < epsilon], [e for e in grid if e > epsilon]
        result = at_epsilon.clone()
        with prepare(network, images.x, images.y, attempts=len(grid)) as prepared:
            for part, wanted in ((smaller, at_epsilon.isfinite()), (larger, at_epsilon.isinf())):
                if part:
                    # An image with a known radius of 0 is not attacked.
                    known = measure(prepared, attack, part, seed=seed, known=torch.where(wanted, at_epsilon, 0.0))
                    result = torch.where(wanted, known, result)
        return result

    def _errors(self, on_grid: Tensor) -> dict[str, float]:
        """Returns clean_error, adversarial_error, and adversarial_error@E for each further epsilon, from radii (N,)."""
        evaluation = self.config.evaluation
        errors = {"clean_error": error_at(on_grid.numpy(), 0.0)}
        for epsilon in evaluation.grid():
            own = epsilon == evaluation.epsilon
            name = "adversarial_error" if own else f"{AT}{epsilon:g}"
            errors[name] = error_at(on_grid.numpy(), epsilon)
        return errors
