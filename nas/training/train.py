"""Training loop: a generator of epochs. At its end the network has the weights of the best epoch."""

from __future__ import annotations

import dataclasses
import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import torch

from evaluators.engine.frozen import frozen
from evaluators.engine.noise import ImageNoise
from evaluators.radius import radii
from nas.seeds import seed_of
from nas.training.augment import augment, first_mirrored
from nas.training.checkpoints import Checkpoint
from nas.training.early_stopping import AttackBudget
from nas.training.epoch import EpochResult
from nas.training.optimiser import open_optimiser, rates, set_rates
from nas.training.recipes.base import of_epoch
from nas.training.weight_average import average_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from nas.data import Dataset
    from nas.training.checkpoints import State
    from nas.training.config import TrainingConfig


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
    rungs: Mapping[int, AttackBudget] | None = None,
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
        rungs: Attack budgets of early stopping, by epoch from 1. Before the share `selection_from` of the epochs, validation
            errors at these epochs are measured with averaged weights and this budget. Afterwards, the errors of every epoch
            are measured with its own weights and the full budget.
        checkpoint: Checkpoint to read from and write to; None for none.

    Raises:
        DivergedError: the loss or a weight is not finite.
        CheckpointError: the checkpoint cannot be written.
    """
    x, y, validation = data.train.x, data.train.y, data.validation
    n, batch = len(x), min(config.batch_size, len(x))
    # Whole batches only: batch norm fails on a batch of one image.
    steps = n // batch
    parameters = list(network.parameters())
    optimiser = open_optimiser(config.optimiser, parameters, config.weight_decay)
    schedule = rates(config.schedule, config.learning_rate, epochs * steps)
    generator = torch.Generator().manual_seed(seed_of(seed, "batches"))
    mirrored = first_mirrored(n, seed).to(x.device) if config.flip else None
    autocast, modes = _uses_bfloat16(config, x.device), _Modes(network)
    first_selectable = min(math.floor(epochs * config.selection_from), epochs - 1)
    rungs, checkpoint = rungs or {}, checkpoint or Checkpoint()
    average = average_of(network) if rungs else None
    last_averaged_rung = max((epoch for epoch in rungs if epoch <= first_selectable), default=0)
    # The state that changes between epochs, which a checkpoint must hold.
    best: tuple[float, dict[str, Tensor]] = (math.inf, {})
    results: list[EpochResult] = []

    def state() -> State:
        return {
            "seed": seed,
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "average": average.state_dict() if average is not None else None,
            "generator": generator.get_state(),
            "best": best,
            "epochs": [dataclasses.asdict(epoch) for epoch in results],
        }

    stored = checkpoint.load()
    # The number of epochs of finalists may change at a resume. A checkpoint for another number of epochs is not used.
    if stored is not None and stored.get("seed") == seed and all(epoch["epochs"] == epochs for epoch in stored["epochs"]):
        network.load_state_dict(stored["network"])
        optimiser.load_state_dict(stored["optimiser"])
        generator.set_state(stored["generator"])
        if average is not None:
            average.load_state_dict(stored["average"])
        best = (stored["best"][0], {name: value.to(x.device) for name, value in stored["best"][1].items()})
        results += [EpochResult(**epoch) for epoch in stored["epochs"]]
        yield from results
    step = len(results) * steps
    for epoch in range(len(results), epochs):
        started = time.perf_counter()
        order = torch.randperm(n, generator=generator).to(x.device)
        recipe = of_epoch(config.recipe, (epoch + 1) / epochs)
        losses = torch.zeros((), device=x.device)
        with _seeded(seed_of(seed, "layers", epoch), x.device):
            for index in order[: steps * batch].split(batch):
                images = augment(
                    x[index],
                    shift=config.shift,
                    mirrored=mirrored[index] ^ bool(epoch % 2) if mirrored is not None else None,
                    cutout=config.cutout,
                    generator=generator,
                )
                noise = ImageNoise.of(seed, torch.arange(batch, device=x.device), stream=step)
                with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
                    modes.evaluation()
                    points = recipe.points(network, images, y[index], noise)
                    modes.training()
                    loss = recipe.loss(network, images, points, y[index])
                for parameter in parameters:  # Same as `zero_grad`, at a tenth of its cost.
                    parameter.grad = None
                loss.backward()
                if config.clip_gradients is not None:
                    torch.nn.utils.clip_grad_norm_(parameters, config.clip_gradients)
                set_rates(optimiser, *schedule[step])
                optimiser.step()
                if average is not None and epoch < last_averaged_rung:
                    average.update_parameters(network)
                losses += loss.detach()
                step += 1
        mean_loss = float(losses) / steps
        if not math.isfinite(mean_loss):
            raise DivergedError(f"training diverged: the loss is {mean_loss} in epoch {epoch + 1} of {epochs}")
        if not all(bool(parameter.isfinite().all()) for parameter in parameters):
            raise DivergedError(f"training diverged: weights are not finite in epoch {epoch + 1} of {epochs}")
        clean, adversarial = None, None
        if epoch >= first_selectable or epoch + 1 in rungs:
            # An epoch that may be kept is measured with its own weights and the full attack budget, even at a rung.
            selectable = epoch >= first_selectable
            budget = AttackBudget() if selectable else rungs[epoch + 1]
            evaluated = network if selectable or average is None else average.module
            count = budget.count(len(validation.x))
            attack = budget.of(config.selection)
            image_radii = radii(evaluated, validation.x[:count], validation.y[:count], attack, [epsilon], seed=seed)
            clean, adversarial = float((image_radii == 0).double().mean()), float((image_radii <= epsilon).double().mean())
        if epoch >= first_selectable and adversarial is not None and adversarial <= best[0]:
            best = (adversarial, {name: value.clone() for name, value in network.state_dict().items()})
        seconds = time.perf_counter() - started
        results.append(EpochResult(epoch + 1, epochs, mean_loss, clean, adversarial, seconds, rung=epoch + 1 in rungs))
        if epoch + 1 < epochs:
            checkpoint.save(state)
        yield results[-1]
    network.load_state_dict(best[1])
    network.eval()


@final
class _Modes:
    """Sets the mode of a network like `train` and `eval`, without a walk over its modules.

    Such a walk in every batch would take 4 % of the training time of a small network.
    """

    def __init__(self, network: nn.Module) -> None:
        self._evaluation = [(module, module.training) for module in network.eval().modules()]
        self._training = [(module, module.training) for module in network.train().modules()]

    def evaluation(self) -> None:
        _set(self._evaluation)

    def training(self) -> None:
        _set(self._training)


def _set(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, training in modes:
        module.__dict__["training"] = training  # Bypasses the slow __setattr__ of nn.Module.


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's global generators, for layers such as dropout, and restores them."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _uses_bfloat16(config: TrainingConfig, device: torch.device) -> bool:
    """Returns whether to train in bfloat16."""
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bfloat16"


def probe(network: nn.Module, x: Tensor) -> tuple[bool, float]:
    """Returns whether the logits do not depend on the images x (N, C, H, W), and the sum of the squared logits.

    The logits of some cells do not depend on the images: no path leads from the input to the output.
    """
    points = x.detach().clone().requires_grad_()
    with frozen(network), torch.enable_grad():
        # Squared, because the sum of the logits may have a zero gradient even if the logits depend on the images.
        value = network(points).square().sum()
    if not value.requires_grad:
        return True, float(value.detach())
    (gradient,) = torch.autograd.grad(value, points, allow_unused=True)
    return gradient is None or not bool((gradient != 0).any()), float(value.detach())
