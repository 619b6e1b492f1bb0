"""The worst case of four attacks that fail in different ways.

After AutoAttack: Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-Free
Attacks", ICML 2020, arXiv:2003.01690. Theirs is APGD on cross-entropy, targeted APGD on DLR, targeted FAB and Square. Here
FMN stands for FAB, and comes second: one run of a minimum-norm attack lowers the radii on the whole grid, so that the
targeted walks, nine times as dear as all before, see fewer images. Square gets a tenth of the queries there: it is for
networks that mask their gradients, and finds those out soon. Not to be confused with the package of that name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from evaluators.attacks.apgd import APGD, TargetedAPGD
from evaluators.attacks.base import Attack, AttackEnsemble
from evaluators.attacks.fmn import FMN
from evaluators.attacks.square import Square
from evaluators.norms import Linf, Norm


@final
@dataclass(frozen=True, kw_only=True)
class AutoAttack(AttackEnsemble):
    """APGD on cross-entropy, FMN, targeted APGD and, on pictures, Square: no settings to tune but the budget.

    Attributes:
        norm: Shape of the ball, linf or l2.
        steps: Gradient steps of each walk.
        targets: Number of classes towards which the targeted walks go.
        queries: Queries of Square.

    Raises:
        ValueError: one of them is below 1.
    """

    norm: Norm = Linf()
    steps: int = 100
    targets: int = 9
    queries: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "targets", "queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def members(self) -> tuple[Attack, ...]:
        """Returns the four attacks."""
        return (
            APGD(norm=self.norm, steps=self.steps),
            FMN(norm=self.norm, steps=self.steps),
            TargetedAPGD(norm=self.norm, targets=self.targets, steps=self.steps),
            Square(norm=self.norm, queries=self.queries),
        )
