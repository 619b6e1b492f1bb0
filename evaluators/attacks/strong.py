"""The attack for final results: attacks of different kinds, each at the epsilons where it can still lower a radius.

Not to be confused with `AutoAttack`, which runs longer attacks at all epsilons. That protocol is for comparisons with
published results.

Sources, one for each member:

- SuperDeepFool: Abdolahpourrostam et al., NeurIPS 2024, arXiv:2303.12481.
- Constraint relaxation: "Efficient Robustness Evaluation via Constraint Relaxation", AAAI 2025. Its classes are ranked as in
  Melamed et al., "MALT Powers Up Adversarial Attacks", NeurIPS 2024, arXiv:2407.02240.
- Targeted APGD: Croce and Hein, ICML 2020, arXiv:2003.01690; in L1 Croce and Hein, ICML 2021, arXiv:2103.01208.
- Square: Andriushchenko et al., ECCV 2020, arXiv:1912.00049.
- FMN, in L1: Pintor et al., NeurIPS 2021, arXiv:2102.12827.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from evaluators.attacks.apgd import TargetedAPGD
from evaluators.attacks.base import Attack, AttackEnsemble
from evaluators.attacks.constraint_relaxation import ConstraintRelaxation
from evaluators.attacks.fmn import FMN
from evaluators.attacks.settings import check_counts
from evaluators.attacks.square import Square
from evaluators.attacks.super_deepfool import SuperDeepFool
from evaluators.norms import L1, Linf, Norm


@final
@dataclass(frozen=True, kw_only=True)
class Strong(AttackEnsemble):
    """The worst case of SuperDeepFool, constraint relaxation, a short targeted APGD, and Square.

    SuperDeepFool finds nearly the whole error curve in a few gradients. The others follow at the epsilons just below its
    radii. Targeted APGD finds more where gradients change from point to point. Square needs no gradients, so that masked
    gradients do not stop it. It runs only on images (N, C, H, W). In L1, FMN replaces SuperDeepFool.

    Attributes:
        norm: Shape of the ball: linf, l2 or l1.
        targets: Number of target classes of constraint relaxation and of targeted APGD.
        queries: Number of queries of Square per image.

    Raises:
        ValueError: targets or queries is below 1.
    """

    downwards: ClassVar[bool] = True
    norm: Norm = Linf()
    targets: int = 3
    queries: int = 500

    def __post_init__(self) -> None:
        check_counts(targets=self.targets, queries=self.queries)

    def members(self) -> tuple[Attack, ...]:
        """Returns the attacks, cheap ones first. In L1, FMN replaces SuperDeepFool."""
        in_l1 = isinstance(self.norm, L1)
        return (
            FMN(norm=self.norm, steps=30, candidates=10) if in_l1 else SuperDeepFool(norm=self.norm),
            ConstraintRelaxation(norm=self.norm, targets=self.targets),
            TargetedAPGD(norm=self.norm, targets=self.targets, steps=30),
            Square(norm=self.norm, queries=self.queries),
        )
