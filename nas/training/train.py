"""Training loop: a generator of epochs. At its end the network has the weights of the best epoch."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, final

import torch

from evaluators.attacks.usable_gradients import one_gradient_warning
from evaluators.engine.channels_last import is_channels_last
from evaluators.engine.folding import Folding
from evaluators.radius.measure import radii
from nas.seeds import seed_of
from nas.training import stopwatch
from nas.training.augment import augment, draw_placement, first_mirrored
from nas.training.batches import epoch_batches, images_in_batch
from nas.training.carried import Carried
from nas.training.checkpoints import Checkpoint
from nas.training.collapse import COLLAPSED, IMAGES, CollapsedError, collapse_gap
from nas.training.early_stopping import AttackBudget
from nas.training.epoch import EpochMeasures, EpochResult
from nas.training.recipes.base import of_epoch
from nas.training.recipes.carrying import CarryingRecipe
from nas.training.updates import NoGradientError, Updates
from nas.training.weight_average import WeightAverage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from nas.data import Dataset
    from nas.training.checkpoints import State
    from nas.training.config import TrainingConfig
    from nas.training.recipes.base import BallRecipe, Recipe
    from nas.training.stopwatch import Stopwatch


# Largest memory of the images that are augmented at once, in bytes. With all steps, this needs up to five times as much.
PART_BYTES = 2**26


class DivergedError(Exception):
    """The training loss or a weight is not finite."""


def train(
    network: nn.Module,
    data: Dataset,
    config: TrainingConfig,
    *,
    epsilon: float,
    epochs: int,
    seed: int,
    measures: EpochMeasures | None = None,
    checkpoint: Checkpoint | None = None,
) -> Iterator[EpochResult]:
    """Trains a network and yields the result of each epoch. After the last, the network has the weights of the best epoch.

    The best epoch has the smallest adversarial error on the validation split, under the selection attack at epsilon. Epochs
    in the share `selection_from` at the start are excluded. Among equal epochs the last one is best.

    The same seed gives the same weights, bit for bit on a CPU with the same number of threads. A training that
    resumes from a checkpoint gives the same weights, too, and first yields the stored results of the earlier epochs.

    Args:
        network: The network on the device of the data. It is trained in place.
        data: Training images, and validation images for the choice of the epoch.
        config: Recipe, schedule and augmentation.
        epsilon: Radius of the selection attack's ball, in pixel units.
        epochs: Number of epochs.
        seed: Seed of the batch order, the augmentation and the attacks.
        measures: Rungs of early stopping, and a function that measures the network after each epoch; None for neither.
        checkpoint: Checkpoint to read from and write to; None for none.

    Raises:
        DivergedError: the loss or a weight is not finite.
        CollapsedError: the training has collapsed, and the config says that this ends it.
        NoGradientError: the loss has no gradient for any weight.
        CheckpointError: the checkpoint cannot be written.
    """
    if not any(parameter.requires_grad for parameter in network.parameters()):
        if any(True for _ in network.parameters()):
            raise NoGradientError("all parameters of the network are frozen; use network.requires_grad_()")
        raise NoGradientError("the network has no parameters to train")
    measures = measures or EpochMeasures()
    training = _Training(network, data, config, epsilon=epsilon, epochs=epochs, seed=seed, measures=measures)
    checkpoint = checkpoint or Checkpoint()
    stored = checkpoint.load()
    if stored is not None and not stored.keys() >= training.state().keys():
        warnings.warn("the checkpoint is of an earlier version of Hardcell; the training starts anew", stacklevel=2)
    elif stored is not None and training.fits(stored):
        training.load(stored)
        yield from training.results
    for _ in range(len(training.results), epochs):
        training.run_epoch()
        if len(training.results) < epochs:
            checkpoint.save(training.state)
        yield training.results[-1]
    network.load_state_dict(training.best[1])
    network.eval()


@final
class _Training:
    """The state of one training, and its epochs.

    Attributes:
        results: Results of the finished epochs.
        best: Smallest adversarial error of the epochs that may be kept, and the weights with this error.
    """

    def __init__(
        self,
        network: nn.Module,
        data: Dataset,
        config: TrainingConfig,
        *,
        epsilon: float,
        epochs: int,
        seed: int,
        measures: EpochMeasures,
    ) -> None:
        self._network, self._data, self._config = network, data, config
        self._epsilon, self._epochs, self._seed = epsilon, epochs, seed
        self._rungs, self._measure = measures.rungs, measures.function
        n = len(data.train.x)
        self._batch = images_in_batch(config.batch_size, n)
        # Whole batches only: batch norm fails on a batch of one image.
        self._steps = n // self._batch
        self._generator = torch.Generator().manual_seed(seed_of(seed, "batches"))
        self._mirrored = first_mirrored(n, seed).to(self._device) if config.flip else None
        self._carried = Carried(config.recipe, data.train.x, self._batch, seed_of(seed, "carried"))
        self._channels_last = data.train.x.ndim == 4 and is_channels_last(network)
        self._first_selectable = min(math.floor(epochs * config.selection_from), epochs - 1)
        averaged = config.average or self._rungs
        self._average = WeightAverage(network) if averaged else None
        early = [epoch for epoch in self._rungs if epoch <= self._first_selectable]
        self._last_averaged = epochs if config.average else max(early, default=0)
        self._updates = Updates(network, config, data.train.x, batch=self._batch, count=epochs * self._steps, seed=seed)
        self._folding_of_average = Folding(self._average.module, data.train.x) if self._average is not None else None
        self._collapsed = False
        self.best: tuple[float, dict[str, Tensor]] = (math.inf, {})
        self.results: list[EpochResult] = []

    @property
    def _device(self) -> torch.device:
        return self._data.train.x.device

    def state(self) -> State:
        """Returns the state that changes between epochs, for a checkpoint."""
        return {
            "seed": self._seed,
            **self._weights(),
            "carried": self._carried.state_dict(),
            "parts": self._updates.parts,
            "best": self.best,
            "epochs": [dataclasses.asdict(epoch) for epoch in self.results],
        }

    def fits(self, state: State) -> bool:
        """Returns whether a stored state is of this training. The number of epochs of finalists may change at a resume."""
        same_average = (state["average"] is None) == (self._average is None)
        same_carried = state["collapsed"] or self._carried.fits(state["carried"])
        same_epochs = all(epoch["epochs"] == self._epochs for epoch in state["epochs"])
        return bool(same_average and same_carried and same_epochs and state["seed"] == self._seed)

    def load(self, state: State) -> None:
        """Continues after the epochs of a stored state."""
        self._load_weights(state)
        self._carried.load_state_dict(state["carried"])
        self._updates.parts = state["parts"]
        self.best = (state["best"][0], {name: value.to(self._device) for name, value in state["best"][1].items()})
        self.results = [EpochResult(**epoch) for epoch in state["epochs"]]

    def _weights(self) -> State:
        return {
            "network": self._network.state_dict(),
            "optimiser": self._updates.optimiser.state_dict(),
            "average": self._average.state_dict() if self._average is not None else None,
            "generator": self._generator.get_state(),
            "collapsed": self._collapsed,
        }

    def _load_weights(self, state: State) -> None:
        self._network.load_state_dict(state["network"])
        self._updates.optimiser.load_state_dict(state["optimiser"])
        self._generator.set_state(state["generator"])
        self._collapsed = state["collapsed"]
        if self._average is not None:
            self._average.load_state_dict(state["average"])

    def run_epoch(self) -> None:
        """Runs the next epoch, a second time with the remedy if the training collapses in it, and appends its result.

        Raises:
            DivergedError: the loss or a weight is not finite.
            CollapsedError: the training has collapsed, and the config says that this ends it.
        """
        epoch, started = len(self.results), time.perf_counter()
        recipe, watch = self._config.recipe, stopwatch.start(self._device)
        remedy = None if self._config.on_collapse == "ignore" else recipe.remedy()
        before = copy.deepcopy(self._weights()) if remedy is not None and not self._collapsed else None
        if self._collapsed and remedy is not None:
            recipe = remedy
        loss, collapsed = self._train(epoch, recipe, watch), False
        if before is not None and remedy is not None and self._has_collapsed(epoch, recipe, remedy):
            where = f"epoch {epoch + 1} of {self._epochs}"
            if self._config.on_collapse == "fail":
                raise CollapsedError(
                    f"training with one gradient step collapsed in {where}: the network resists this step, but not several; "
                    "choose the recipe pgd, or training.on_collapse: multi_step"
                )
            self._load_weights(before)
            self._carried.clear()
            self._collapsed = collapsed = True
            watch.lap("judging")
            loss = self._train(epoch, remedy, watch)
        with _seeded(seed_of(self._seed, "judging", epoch), self._device):
            errors = self._judge(epoch)
        watch.lap("judging")
        seconds = time.perf_counter() - started
        self.results.append(
            EpochResult(
                epoch + 1,
                self._epochs,
                loss,
                clean_error=errors.clean if errors is not None else None,
                adversarial_error=errors.adversarial if errors is not None else None,
                seconds=seconds,
                rung=epoch + 1 in self._rungs,
                averaged=errors is not None and errors.averaged,
                collapsed=collapsed,
                stages=watch.seconds(),
                measured=self._measured(epoch),
            )
        )

    def _train(self, epoch: int, recipe: Recipe, watch: Stopwatch) -> float:
        """Trains for one epoch and returns the mean loss.

        Raises:
            DivergedError: the loss or a weight is not finite.
        """
        x, y, batch = self._data.train.x, self._data.train.y, self._batch
        recipe = of_epoch(recipe, (epoch + 1) / self._epochs)
        self._updates.modes.evaluation()
        with _seeded(seed_of(self._seed, "folding", epoch), x.device):
            self._updates.folding.check(x)
        replays = recipe.replays if isinstance(recipe, CarryingRecipe) else 1
        order, updates = epoch_batches(len(x), batch, replays, epoch, seed=self._seed, generator=self._generator)
        counts = iter(updates)
        mirrored = None if self._mirrored is None else self._mirrored ^ bool(epoch % 2)
        losses = torch.zeros((), device=x.device)
        step = epoch * self._steps
        # The images of many batches are augmented at once, in at most PART_BYTES of memory.
        part = max(1, PART_BYTES // (batch * x[0].nbytes)) * batch
        with _seeded(seed_of(self._seed, "layers", epoch), x.device), one_gradient_warning():
            for index in order.to(x.device).split(part):
                images = x[index]
                placement = draw_placement(
                    images,
                    shift=self._config.shift,
                    mirrored=mirrored[index] if mirrored is not None else None,
                    generator=self._generator,
                )
                images = augment(images, placement=placement, cutout=self._config.cutout, generator=self._generator)
                if self._channels_last:
                    images = images.contiguous(memory_format=torch.channels_last)
                watch.lap("data")
                for start in range(0, len(index), batch):
                    rows = slice(start, start + batch)
                    image_batch, labels = images[rows], y[index[rows]]
                    for _ in range(next(counts)):
                        with self._carried.batch(recipe, index[rows], placement.select(rows)) as batch_recipe:
                            losses += self._updates.run(step, batch_recipe, image_batch, labels, watch)
                        if self._average is not None and step < self._last_averaged * self._steps:
                            self._average.update()
                        watch.lap("update")
                        step += 1
        where = f"epoch {epoch + 1} of {self._epochs}"
        mean_loss = float(losses) / self._steps
        if not math.isfinite(mean_loss):
            raise DivergedError(f"training diverged: the loss is {mean_loss} in {where}")
        if not bool(torch.stack([parameter.isfinite().all() for parameter in self._network.parameters()]).all()):
            raise DivergedError(f"training diverged: weights are not finite in {where}")
        return mean_loss

    def _has_collapsed(self, epoch: int, recipe: Recipe, remedy: BallRecipe) -> bool:
        """Returns whether the network resists one gradient step but not several, on one batch of held-out images."""
        x, y = self._data.validation.x[:IMAGES], self._data.validation.y[:IMAGES]
        recipe, remedy = of_epoch(recipe, (epoch + 1) / self._epochs), of_epoch(remedy, (epoch + 1) / self._epochs)
        self._updates.modes.evaluation()
        with _seeded(seed_of(self._seed, "collapse", epoch), self._device), self._updates.folding.applied():
            gap = collapse_gap(self._network, x, y, recipe, remedy, seed_of(self._seed, "collapse", epoch))
        return gap >= COLLAPSED

    def _judge(self, epoch: int) -> Errors | None:
        """Measures the errors of an epoch on the validation split, and keeps the weights if they are the best so far.

        Returns None if the epoch is no rung and too early for its weights to be kept.
        """
        if epoch < self._first_selectable:
            if epoch + 1 not in self._rungs:
                return None
            return self._errors(averaged=self._average is not None, budget=self._rungs[epoch + 1])
        # An epoch that may be kept is measured with the full attack budget, even at a rung.
        errors = self._errors(averaged=False, budget=AttackBudget())
        weights = self._network
        if self._config.average and self._average is not None:
            of_average = self._errors(averaged=True, budget=AttackBudget())
            if of_average.adversarial < errors.adversarial:
                errors, weights = of_average, self._average.module
        if errors.adversarial <= self.best[0]:
            self.best = errors.adversarial, {name: value.clone() for name, value in weights.state_dict().items()}
        return errors

    def _measured(self, epoch: int) -> Mapping[str, float]:
        """Returns the numbers of the caller's function for an epoch from 0; {} without such a function."""
        if self._measure is None:
            return {}
        with (
            _seeded(seed_of(self._seed, "measuring", epoch), self._device),
            self._for_evaluation(averaged=self._config.average) as network,
        ):
            return self._measure(network)

    @contextmanager
    def _for_evaluation(self, *, averaged: bool) -> Iterator[nn.Module]:
        """Yields the network, or the one with averaged weights, in evaluation mode with folded batch norm."""
        network, folding = self._network, self._updates.folding
        if averaged:
            assert self._average is not None
            assert self._folding_of_average is not None
            network, folding = self._average.module, self._folding_of_average
        network.eval()
        folding.check(self._data.train.x)
        with folding.applied():
            yield network

    def _errors(self, *, averaged: bool, budget: AttackBudget) -> Errors:
        """Returns the errors of the network, or of its averaged weights, under the selection attack."""
        x, y = self._data.validation.x, self._data.validation.y
        count = budget.count(len(x))
        attack = budget.of(self._config.selection)
        with self._for_evaluation(averaged=averaged) as network:
            image_radii = radii(network, x[:count], y[:count], attack, [self._epsilon], seed=self._seed)
        clean, adversarial = (image_radii == 0).double().mean(), (image_radii <= self._epsilon).double().mean()
        return Errors(float(clean), float(adversarial), averaged)


@final
class Errors(NamedTuple):
    """Clean and adversarial error, in [0, 1], and whether they are of averaged weights."""

    clean: float
    adversarial: float
    averaged: bool


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's global generators, for layers such as dropout, and restores them at exit."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
