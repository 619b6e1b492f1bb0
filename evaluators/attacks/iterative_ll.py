"""Iterative least-likely class method: many small steps towards the least likely class.

Not to be confused with `BIM`, which moves away from the true class instead of towards another one.

Source: Kurakin, Goodfellow and Bengio, "Adversarial examples in the physical world", ICLR 2017 workshop, arXiv:1607.02533.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from evaluators.attacks.base import Attack
from evaluators.attacks.gradient_steps import check_steps, gradient_steps
from evaluators.attacks.losses import Loss, cross_entropy, targeted
from evaluators.norms import Linf, Norm

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise


@final
@dataclass(frozen=True, kw_only=True)
class IterativeLL(Attack):
    """Iterative least-likely class method: small steps towards the class of the smallest clean logit.

    The target class does not change during the steps. `StepLL` is the version with a single step.

    Attributes:
        norm: Shape of the ball: linf, l2 or l1.
        loss: Loss whose targeted form is maximised: cross_entropy (as in the paper), margin or dlr.
        steps: Number of gradient steps.
        step_size: Length of one step, as a fraction of epsilon.

    Raises:
        ValueError: steps is below 1, step_size is not positive and finite, or the loss has no targeted form.
    """

    norm: Norm = Linf()
    loss: Loss = cross_entropy
    steps: int = 10
    step_size: float = 0.2

    def __post_init__(self) -> None:
        check_steps(self.steps, self.step_size)
        targeted(self.loss)

    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the perturbation after the last step."""
        least_likely, loss = target.logits(x).argmin(1), targeted(self.loss)
        return gradient_steps(
            lambda points: target.gradient(points, loss, least_likely),
            self.norm,
            x,
            x,
            epsilon,
            steps=self.steps,
            step_size=self.step_size,
        )
