"""The nearest misclassified point, by every way we know: for exact radii.

Minimum-norm attacks fail on some images, each on others (references: FMN against L2 in two libraries); a ball attack that is
bisected never fails outright, but stops short. The smallest of their answers is what to report as a radius.
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
    """DeepFool, FMN, in L2 also DDN, then PGD on the margin: give `radii` a tolerance, and it bisects the last.

    Attributes:
        norm: Shape of the ball, linf or l2.
        steps: Gradient steps of each.

    Raises:
        ValueError: steps is below 1.
    """

    norm: Norm = Linf()
    steps: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def members(self) -> tuple[Attack, ...]:
        """Returns the attacks."""
        norm, steps = self.norm, self.steps
        only_l2 = (DDN(norm=norm, steps=steps),) if isinstance(norm, L2) else ()
        return (
            DeepFool(norm=norm, steps=steps),
            FMN(norm=norm, steps=steps),
            *only_l2,
            PGD(norm=norm, loss=margin, steps=steps, step_size=0.1, random_start=False),
        )
