"""Basic iterative method.

Source: Kurakin, Goodfellow and Bengio, "Adversarial examples in the physical world", ICLR 2017 workshop, arXiv:1607.02533.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from evaluators.attacks.base import Attack
from evaluators.attacks.gradient_steps import check_steps, gradient_steps
from evaluators.attacks.losses import Loss, cross_entropy
from evaluators.norms import Linf, Norm

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise


@final
@dataclass(frozen=True, kw_only=True)
class BIM(Attack):
    """Repeats small steps of FGSM from the clean image, and clips to the ball after each.

    The same points as `PGD(random_start=False)`. The paper steps by 1/255, whatever epsilon; here a step is a fraction of
    it, so that one setting serves a whole grid.

    Attributes:
        norm: Shape of the ball, linf or l2.
        loss: What the steps increase, cross_entropy, margin or dlr.
        steps: Number of gradient steps.
        step_size: Length of one step, as a fraction of epsilon.

    Raises:
        ValueError: steps is below 1, or step_size is not positive.
    """

    norm: Norm = Linf()
    loss: Loss = cross_entropy
    steps: int = 10
    step_size: float = 0.2

    def __post_init__(self) -> None:
        check_steps(self.steps, self.step_size)

    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the last point of the walk, minus x."""
        return gradient_steps(
            lambda points: target.gradient(points, self.loss),
            self.norm,
            x,
            x,
            epsilon,
            steps=self.steps,
            step_size=self.step_size,
        )
