"""A variant of AutoAttack: the worst case of four different attacks.

Not to be confused with the package `autoattack`. The original runs APGD on cross-entropy, targeted APGD on DLR, targeted
FAB and Square. This variant differs in two points:

- FMN replaces FAB and runs second. One run of FMN finds the radii of the images. Square and targeted APGD (the most
  expensive attack) then run only on the images and epsilons that are left.
- Square gets a tenth of the original's queries. Its purpose is to detect gradient masking. This needs few queries.

Source: Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks",
ICML 2020, arXiv:2003.01690.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from evaluators.attacks.apgd import APGD, TargetedAPGD
from evaluators.attacks.base import Attack, AttackEnsemble
from evaluators.attacks.fmn import FMN
from evaluators.attacks.settings import check_counts
from evaluators.attacks.square import Square
from evaluators.norms import Linf, Norm


@final
@dataclass(frozen=True, kw_only=True)
class AutoAttack(AttackEnsemble):
    """The worst case of APGD on cross-entropy, FMN, targeted APGD and Square. Only the norm and the budget are configurable.

    Square runs only on images (N, C, H, W).

    Attributes:
        norm: Shape of the ball: linf, l2 or l1.
        steps: Number of gradient steps of APGD, of FMN, and of targeted APGD per target class.
        targets: Number of target classes of targeted APGD.
        queries: Number of queries of Square per image.

    Raises:
        ValueError: steps, targets or queries is below 1.
    """

    norm: Norm = Linf()
    steps: int = 100
    targets: int = 9
    queries: int = 500

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, targets=self.targets, queries=self.queries)

    def members(self) -> tuple[Attack, ...]:
        """Returns the four attacks."""
        return (
            APGD(norm=self.norm, steps=self.steps),
            FMN(norm=self.norm, steps=self.steps),
            TargetedAPGD(norm=self.norm, targets=self.targets, steps=self.steps),
            Square(norm=self.norm, queries=self.queries),
        )
