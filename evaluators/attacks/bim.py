"""Basic iterative method.

Not to be confused with `PGD`, which takes the same steps but starts at a random point of the ball by default.

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
    """Basic iterative method: small FGSM steps from the clean image, each followed by a projection onto the ball.

    It equals `PGD(random_start=False)` with the same steps and step size. In the paper a step is 1/255 for every epsilon.
    Here it is a fraction of epsilon, so that one setting fits a whole grid of epsilons.

    Attributes:
        norm: Shape of the ball: linf, l2 or l1.
        loss: Loss to maximise: cross_entropy, margin or dlr.
        steps: Number of gradient steps.
        step_size: Length of one step, as a fraction of epsilon.

    Raises:
        ValueError: steps is below 1, or step_size is not positive and finite.
    """

    norm: Norm = Linf()
    loss: Loss = cross_entropy
    steps: int = 10
    step_size: float = 0.2

    def __post_init__(self) -> None:
        check_steps(self.steps, self.step_size)

    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the perturbation after the last step."""
        return gradient_steps(
            lambda points: target.gradient(points, self.loss),
            self.norm,
            x,
            x,
            epsilon,
            steps=self.steps,
            step_size=self.step_size,
        )
