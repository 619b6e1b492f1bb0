"""Early stopping: asynchronous successive halving, judged on the adversarial error at rungs of epochs.

A trial that reaches a rung goes on if it is among the best 1/reduction of all trials that have reached it so far, itself
included; the best one always goes on. With several objectives the best are those of the first fronts.

Source: Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, arXiv:1810.05934 (its rule for
stopping, not the one for pausing: nothing is waited for). Judged by the adversarial metric because the clean error of a
trial on its way says nothing of its robustness at the end.
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

# Of fewer images an error says too little to stop a trial.
FEWEST_IMAGES = 64
MOST_REDUCTION = 1000
# In binary fractions 0.07 * 100 is a little more than 7, and 33 / 1.1 a little less than 30.
_ROUNDING = 1e-9


@final
@dataclass(frozen=True, kw_only=True)
class Halving:
    """Stops trials that are not among the best at a rung.

    Attributes:
        first: The first rung, as a share of the epochs; each further one is `reduction` times as far.
        reduction: One in so many goes on from a rung.
        images: Share of the validation images that are attacked at the first rung; it grows with the epochs to all of them.
        steps: Share of the selection attack's steps at the first rung; it grows likewise.
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
        """Returns the epochs at which trials are judged, below the last one, with the effort to be made there."""
        budgets, reached = {}, max(1, math.ceil(epochs * self.first - _ROUNDING))
        first = reached
        while reached < epochs:
            # From the first rung's share to 1 at the last epoch, in proportion to the logarithm of the epochs.
            way = math.log(reached / first) / math.log(epochs / first)
            budgets[reached] = AttackBudget(self.images ** (1 - way), self.steps ** (1 - way))
            reached = max(reached + 1, math.ceil(reached * self.reduction - _ROUNDING))
        return budgets

    def should_continue(self, point: Sequence[float], others: Sequence[Sequence[float]]) -> bool:
        """Returns whether a trial goes on from a rung.

        Args:
            point: What it is judged by, all better when smaller, (M,).
            others: That of the trials that reached the rung before, (N, M).
        """
        points = np.array([*others, point], dtype=np.float64)
        ranks = front_ranks(points)
        mine = (ranks[-1], points[-1, 0])
        better = sum((rank, first) < mine for rank, first in zip(ranks[:-1], points[:-1, 0], strict=True))
        return bool(better < max(1, math.floor(len(points) / self.reduction + _ROUNDING)))


@final
@dataclass(frozen=True)
class AttackBudget:
    """How hard a trial is attacked at a rung.

    Attributes:
        images: Share of the validation images.
        steps: Share of the attack's steps.
    """

    images: float = 1.0
    steps: float = 1.0

    def count(self, images: int) -> int:
        """Returns how many of so many images are attacked."""
        return min(images, max(FEWEST_IMAGES, math.ceil(images * self.images - _ROUNDING)))

    def of(self, attack: Attack) -> Attack:
        """Returns the attack with that share of its steps; an attack without steps stays."""
        if self.steps == 1 or "steps" not in {f.name for f in fields(attack)}:  # type: ignore[arg-type]
            return attack
        fewer: Attack = replace(attack, steps=max(1, math.ceil(attack.steps * self.steps - _ROUNDING)))  # type: ignore[type-var,attr-defined]
        return fewer
