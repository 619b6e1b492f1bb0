"""Fast gradient sign method.

Not to be confused with `BIM`, which takes many small steps, or with the training recipe `fast`, which uses one such step.

Source: Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015, arXiv:1412.6572.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from evaluators.attacks.base import SingleStep
from evaluators.attacks.losses import Loss, cross_entropy
from evaluators.attacks.supported_norms import check_not_l1
from evaluators.norms import Linf, Norm

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle


@final
@dataclass(frozen=True, kw_only=True)
class FGSM(SingleStep):
    """Fast gradient sign method: one step of length epsilon in the direction of steepest ascent of the loss.

    Not to be confused with FGSM from a random start, which is `PGD(steps=1, step_size=1.25)`.

    Attributes:
        norm: Shape of the ball: linf, or l2 (fast gradient method).
        loss: Loss to maximise: cross_entropy, margin or dlr.

    Raises:
        ValueError: norm is l1.
    """

    norm: Norm = Linf()
    loss: Loss = cross_entropy

    def __post_init__(self) -> None:
        check_not_l1(self.norm, "FGSM")

    def direction(self, target: GradientOracle, x: Tensor) -> Tensor:
        """Returns the direction of steepest ascent of the loss at the clean images, (N, ...)."""
        return self.norm.ascent(target.gradient(x, self.loss))
