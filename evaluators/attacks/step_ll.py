"""Step l.l.: one step towards the least likely class.

Source: Kurakin, Goodfellow and Bengio, "Adversarial Machine Learning at Scale", ICLR 2017, arXiv:1611.01236.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from evaluators.attacks.base import SingleStep
from evaluators.attacks.losses import least_likely
from evaluators.norms import Linf, Norm

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.target import Target


@final
@dataclass(frozen=True, kw_only=True)
class StepLL(SingleStep):
    """Takes one step of length epsilon that lowers the cross-entropy towards the class of the smallest clean logit.

    Attributes:
        norm: Shape of the ball.
    """

    norm: Norm = Linf()

    def direction(self, target: Target, x: Tensor) -> Tensor:
        """Returns the steepest descent towards the least likely class."""
        return self.norm.ascent(target.gradient(x, least_likely))
