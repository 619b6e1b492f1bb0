"""Optimisers, and schedules of their learning rate and momentum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

OptimiserName = Literal["sgd", "adamw"]
ScheduleName = Literal["one_cycle", "cosine", "linear"]

# Share of the steps in which the schedules cosine and linear raise the learning rate from zero.
WARM_UP = 0.05
MOMENTUM = 0.9
# Learning rates at a batch of 64 images, where the config names none.
PEAKS: dict[OptimiserName, float] = {"sgd": 0.2, "adamw": 0.02}


def open_optimiser(name: OptimiserName, parameters: Sequence[Tensor], weight_decay: float) -> torch.optim.Optimizer:
    """Returns an optimiser. `set_rates` sets its learning rate and its momentum before each step.

    Args:
        name: sgd (with Nesterov momentum) or adamw.
        parameters: The parameters, at least one.
        weight_decay: L2 penalty on the weights for sgd; relative decay per unit of the learning rate for adamw.
    """
    settings: dict[str, Any] = {"weight_decay": weight_decay, "fused": parameters[0].device.type in ("cpu", "cuda")}
    if name == "adamw":
        return torch.optim.AdamW(parameters, **settings)
    return torch.optim.SGD(parameters, lr=1.0, momentum=MOMENTUM, nesterov=True, **settings)


def peak_rate(name: OptimiserName, rate: float | None, batch: int) -> float:
    """Returns the largest learning rate of a training: that of the config, or the rule for the optimiser.

    The rule is 0.2 for sgd and 0.02 for adamw at 64 images in a batch, and grows with the square root of this number.

    Args:
        name: Name of the optimiser.
        rate: Learning rate of the config, or None for the rule.
        batch: Number of images in a batch.
    """
    return PEAKS[name] * math.sqrt(batch / 64) if rate is None else rate


def set_rates(optimiser: torch.optim.Optimizer, learning_rate: float, momentum: float) -> None:
    """Sets the learning rate, and the momentum or first beta, of all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def rates(schedule: ScheduleName, peak: float, steps: int) -> list[tuple[float, float]]:
    """Returns the learning rate and the momentum of each step.

    - one_cycle: the rate rises along a half cosine from peak / 25 in the first quarter, and falls along another one almost
      to zero. The momentum goes from 0.95 to 0.85 and back. Source: Smith and Topin, arXiv:1708.07120, as in torch.
    - cosine: the rate rises linearly in the first 5 % of the steps, and falls along a half cosine to zero.
    - linear: the rate rises as for cosine, and falls linearly to zero.

    Args:
        schedule: Name of the schedule.
        peak: Largest learning rate.
        steps: Number of steps, at least 1.
    """
    if schedule == "one_cycle":
        return _one_cycle(peak, steps)
    fall: Callable[[float], float] = (lambda t: _half_cosine(1, 0, t)) if schedule == "cosine" else (lambda t: 1 - t)
    rising = max(1, round(WARM_UP * steps))
    table = [(peak * (step + 1) / (rising + 1), MOMENTUM) for step in range(min(rising, steps))]
    falling = steps - len(table)
    return table + [(peak * fall(step / falling), MOMENTUM) for step in range(falling)]


def _one_cycle(peak: float, steps: int) -> list[tuple[float, float]]:
    total = steps + 1
    # The rise takes a quarter of the steps, but at least 1.5 steps: with 1 step, there would be a division by zero.
    top = max(0.25, 1.5 / total) * total - 1
    first, last = peak / 25, peak / 25 / 1e4
    table = []
    for step in range(steps):
        rising = step <= top
        share = step / top if rising else (step - top) / (steps - top)
        start, end, heavy, light = (first, peak, 0.95, 0.85) if rising else (peak, last, 0.85, 0.95)
        table.append((_half_cosine(start, end, share), _half_cosine(heavy, light, share)))
    return table


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)
