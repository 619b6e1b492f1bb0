"""The smallest radius of several attacks, as the best upper bound on the exact radius.

Each minimum-norm attack fails on some images, and different attacks fail on different images. An attack with a
given epsilon, such as PGD, fools almost every image if epsilon is large enough. But the smallest epsilon at which it
succeeds is often larger than the exact radius.
The smallest radius of all attacks is the one to report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from evaluators.attacks.base import Attack, AttackEnsemble
from evaluators.attacks.ddn import DDN
from evaluators.attacks.deepfool import DeepFool
from evaluators.attacks.fmn import FMN
from evaluators.attacks.losses import margin
from evaluators.attacks.pgd import PGD
from evaluators.norms import L2, Linf, Norm


@final
@dataclass(frozen=True, kw_only=True)
class MinimumNormEnsemble(AttackEnsemble):
    """The smallest radius of DeepFool, FMN, DDN (L2 only) and PGD on the margin loss.

    Use it with an `EpsilonGrid` that has a tolerance: the function `radii` then bisects the radii under PGD.

    Attributes:
        norm: Shape of the ball, linf or l2.
        steps: Number of gradient steps of each attack.

    Raises:
        ValueError: steps is below 1.
    """

    norm: Norm = Linf()
    steps: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def members(self) -> tuple[Attack, ...]:
        """Returns the three attacks of Linf or the four attacks of L2."""
        norm, steps = self.norm, self.steps
        only_l2 = (DDN(norm=norm, steps=steps),) if isinstance(norm, L2) else ()
        return (
            DeepFool(norm=norm, steps=steps),
            FMN(norm=norm, steps=steps),
            *only_l2,
            PGD(norm=norm, loss=margin, steps=steps, step_size=0.1, random_start=False),
        )
