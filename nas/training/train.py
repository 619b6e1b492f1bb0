"""Training: a generator of epochs, which leaves the network with the weights of the best."""

from __future__ import annotations

import dataclasses
import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import torch
from torch.optim.lr_scheduler import OneCycleLR

from evaluators.engine.frozen import frozen
from evaluators.engine.noise import ImageNoise
from evaluators.radius import radii
from nas.seeds import seed_of
from nas.training.augment import augment
from nas.training.checkpoints import Checkpoint
from nas.training.early_stopping import AttackBudget
from nas.training.epoch import EpochResult
from nas.training.weight_average import average_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from nas.data import Dataset
    from nas.training.checkpoints import State
    from nas.training.config import TrainingConfig


class DivergedError(Exception):
    """The training loss is not finite."""


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
    """Yields each epoch as it ends; after the last, the network has the weights of the best epoch.

    The best is the epoch with the least adversarial error on the validation split, under the selection attack at epsilon,
    among those from `selection_from` on; of equals, the last. The same seed gives the same weights, bit for bit on a CPU
    with the same number of threads, from a checkpoint on as from the start. Epochs before the checkpoint are yielded as they
    were.

    Args:
        network: On the device of the data; trained in place.
        data: Images to train on, and images to choose the epoch on.
        config: Recipe, schedule and augmentation.
        epsilon: Size of the ball for the choice of the epoch.
        epochs: Number of epochs.
        seed: Seed of order, augmentation and attacks.
        rungs: Epochs after which the validation errors are measured for early stopping, each with its effort, of the average
            of the last weights where the epoch cannot be kept: it shows sooner what the network will become.
        checkpoint: Where the training is written down on its way, and read from; None to keep nothing.

    Raises:
        DivergedError: the loss is not finite.
        CheckpointError: the checkpoint cannot be written.
    """
    x, y, validation = data.train.x, data.train.y, data.validation
    n, batch = len(x), min(config.batch_size, len(x))
    # Whole batches only, so that batch norm never sees a batch of one.
    steps = n // batch
    parameters = list(network.parameters())
    optimiser = torch.optim.SGD(
        parameters,
        lr=config.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=config.weight_decay,
        fused=x.device.type in ("cpu", "cuda"),
    )
    total = epochs * steps + 1
    # A quarter of the steps up; of very few, so many that the schedule divides by no zero.
    schedule = OneCycleLR(optimiser, config.learning_rate, total_steps=total, pct_start=max(0.25, 1.5 / total))
    generator = torch.Generator().manual_seed(seed_of(seed, "batches"))
    autocast, modes = _uses_bfloat16(config, x.device), _Modes(network)
    first_selectable = min(math.floor(epochs * config.selection_from), epochs - 1)
    rungs, checkpoint = rungs or {}, checkpoint or Checkpoint()
    average = average_of(network) if rungs else None
    last_averaged_rung = max((epoch for epoch in rungs if epoch <= first_selectable), default=0)
    # What changes from epoch to epoch, and so what a checkpoint holds.
    best: tuple[float, dict[str, Tensor]] = (math.inf, {})
    results: list[EpochResult] = []

    def state() -> State:
        return {
            "seed": seed,
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
            "average": average.state_dict() if average is not None else None,
            "generator": generator.get_state(),
            "best": best,
            "epochs": [dataclasses.asdict(epoch) for epoch in results],
        }

    stored = checkpoint.load()
    if stored is not None and stored.get("seed") == seed:
        network.load_state_dict(stored["network"])
        optimiser.load_state_dict(stored["optimiser"])
        schedule.load_state_dict(stored["schedule"])
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
        losses = torch.zeros((), device=x.device)
        with _seeded(seed_of(seed, "layers", epoch), x.device):
            for index in order[: steps * batch].split(batch):
                images = augment(x[index], shift=config.shift, flip=config.flip, generator=generator)
                noise = ImageNoise.of(seed, torch.arange(batch, device=x.device), stream=step)
                with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
                    modes.evaluation()
                    points = config.recipe.points(network, images, y[index], noise)
                    modes.training()
                    loss = config.recipe.loss(network, images, points, y[index])
                for parameter in parameters:  # As `zero_grad` does, at a tenth of its cost.
                    parameter.grad = None
                loss.backward()
                optimiser.step()
                schedule.step()
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
            # An epoch that may be kept is measured in full, and with its own weights, whatever the effort of its rung.
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
    """Sets a network's mode, as its own `train` and `eval` set it, without walking the tree of its modules each time.

    Done for every batch, that walk takes 4 % of the time of a small network.
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
        module.__dict__["training"] = training  # Past nn.Module's __setattr__, which looks for parameters first.


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's own generators, for layers that draw from them (dropout), and puts them back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _uses_bfloat16(config: TrainingConfig, device: torch.device) -> bool:
    """Returns whether to train in bfloat16."""
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bfloat16"


def has_input_gradient(network: nn.Module, x: Tensor) -> bool:
    """Returns whether logits depend on the pixels of images x (N, C, H, W): some cells let no path through."""
    points = x.detach().clone().requires_grad_()
    with frozen(network), torch.enable_grad():
        # Squared, for the sum of logits alone may have a gradient of zero.
        value = network(points).square().sum()
    if not value.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(value, points, allow_unused=True)
    return gradient is not None and bool((gradient != 0).any())
