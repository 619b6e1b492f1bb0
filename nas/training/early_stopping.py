"""Early stopping by asynchronous successive halving.

Rungs are fixed epochs. A trial continues from a rung if it is among the best 1/reduction of the trials that have reached the
rung so far, itself included. The best trial always continues. Trials with several metrics are ordered by Pareto front, and
within a front by the first metric.

The first metric is the adversarial error at the rung, because the clean error during training does not predict robustness.
If the clean error, parameters or macs are objectives, they are the other metrics.

Source: Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, arXiv:1810.05934. Trials are stopped,
as in the paper's stopping variant, and never paused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, final

import numpy as np

from nas.pareto import front_ranks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evaluators.attacks import Attack

# With fewer images the error is too noisy to stop a trial.
FEWEST_IMAGES = 64
MOST_REDUCTION = 1000
# Tolerance for floating point: 0.07 * 100 is slightly above 7, and 33 / 1.1 slightly below 30.
_ROUNDING = 1e-9


@final
@dataclass(frozen=True, kw_only=True)
class Halving:
    """Stops trials that are not among the best at a rung.

    Attributes:
        first: Epoch of the first rung, as a share of all epochs. The epoch of each next rung is `reduction` times as large.
        reduction: The best 1/reduction of the trials continue from a rung.
        images: Share of the validation images that are attacked at the first rung. It grows to 1 at the last epoch.
        steps: Share of the selection attack's steps at the first rung. It grows to 1 at the last epoch.

    Raises:
        ValueError: a share is not in (0, 1], or reduction is not in (1, 1000].
    """

    first: float = 0.2
    reduction: float = 3.0
    images: float = 0.5
    steps: float = 0.5

    def __post_init__(self) -> None:
        for name in ("first", "images", "steps"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {value:g}")
        if not 1 < self.reduction <= MOST_REDUCTION:
            raise ValueError(f"reduction must be above 1 and at most {MOST_REDUCTION}, got {self.reduction:g}")

    def rungs(self, epochs: int) -> dict[int, AttackBudget]:
        """Returns the attack budget of each rung, by epoch. All rungs are before the last epoch."""
        budgets, reached = {}, max(1, math.ceil(epochs * self.first - _ROUNDING))
        first = reached
        while reached < epochs:
            # Both shares are log-linear in the epoch: as configured at the first rung, and 1 at the last epoch.
            way = math.log(reached / first) / math.log(epochs / first)
            budgets[reached] = AttackBudget(self.images ** (1 - way), self.steps ** (1 - way))
            reached = max(reached + 1, math.ceil(reached * self.reduction - _ROUNDING))
        return budgets

    def should_continue(self, point: Sequence[float], others: Sequence[Sequence[float]]) -> bool:
        """Returns whether a trial continues from a rung.

        Args:
            point: Metrics of the trial, (M,). Smaller is better.
            others: Metrics of the trials that reached the rung before, (N, M).
        """
        points = np.array([*others, point], dtype=np.float64)
        ranks = front_ranks(points)
        mine = (ranks[-1], points[-1, 0])
        better = sum((rank, first) < mine for rank, first in zip(ranks[:-1], points[:-1, 0], strict=True))
        return bool(better < max(1, math.floor(len(points) / self.reduction + _ROUNDING)))


@final
@dataclass(frozen=True)
class AttackBudget:
    """Reduced attack budget of a rung.

    Attributes:
        images: Share of the validation images.
        steps: Share of the attack's steps.
    """

    images: float = 1.0
    steps: float = 1.0

    def count(self, images: int) -> int:
        """Returns the number of attacked images, given the number of available images.

        At least `FEWEST_IMAGES` are attacked, or all if there are fewer.
        """
        return min(images, max(FEWEST_IMAGES, math.ceil(images * self.images - _ROUNDING)))

    def of(self, attack: Attack) -> Attack:
        """Returns the attack with this share of its steps. An attack without steps is returned unchanged."""
        if self.steps == 1 or "steps" not in {f.name for f in fields(attack)}:  # type: ignore[arg-type]
            return attack
        fewer: Attack = replace(attack, steps=max(1, math.ceil(attack.steps * self.steps - _ROUNDING)))  # type: ignore[type-var,attr-defined]
        return fewer
