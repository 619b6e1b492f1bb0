"""Single-step least-likely class method.

Not to be confused with `FGSM`, which moves away from the true class instead of towards another one.

Source: Kurakin, Goodfellow and Bengio, "Adversarial Machine Learning at Scale", ICLR 2017, arXiv:1611.01236.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from evaluators.attacks.base import SingleStep
from evaluators.attacks.losses import Loss, cross_entropy, targeted
from evaluators.attacks.supported_norms import check_not_l1
from evaluators.norms import Linf, Norm

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle


@final
@dataclass(frozen=True, kw_only=True)
class StepLL(SingleStep):
    """Single-step least-likely class method: one step of length epsilon towards the class of the smallest clean logit.

    Attributes:
        norm: Shape of the ball, linf or l2.
        loss: Loss whose targeted form is maximised: cross_entropy (as in the paper), margin or dlr.

    Raises:
        ValueError: norm is l1, or the loss has no targeted form.
    """

    norm: Norm = Linf()
    loss: Loss = cross_entropy

    def __post_init__(self) -> None:
        check_not_l1(self.norm, "StepLL")
        targeted(self.loss)

    def direction(self, target: GradientOracle, x: Tensor) -> Tensor:
        """Returns the direction of steepest ascent of the targeted loss at the clean images, (N, ...)."""
        aimed = targeted(self.loss)
        return self.norm.ascent(target.gradient(x, lambda logits, y: aimed(logits, y, logits.argmin(1))))
