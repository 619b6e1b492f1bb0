"""Projected gradient descent.

Not to be confused with `FastPGD`, which takes shortcuts, or with `APGD`, whose step size adapts.

Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv:1706.06083.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evaluators.attacks.base import Attack
from evaluators.attacks.gradient_steps import check_steps, gradient_steps
from evaluators.attacks.losses import Loss, cross_entropy
from evaluators.attacks.settings import check_counts
from evaluators.norms import Linf, Norm, broadcast_per_image

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise


@final
@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent: repeats a normalised gradient step and a projection onto the ball.

    `PGD(steps=1, step_size=1.25)` is the attack of fast adversarial training (Wong, Rice and Kolter, "Fast is better than
    free", ICLR 2020, arXiv:2001.03994).

    Attributes:
        norm: Shape of the ball: linf, l2 or l1.
        loss: Loss to maximise: cross_entropy, margin or dlr.
        steps: Number of gradient steps.
        step_size: Length of one step, as a fraction of epsilon.
        random_start: Start at a random point of the ball instead of the clean image.
        restarts: Number of runs, each from a new random start. For each image, the run with the largest final loss counts.

    Raises:
        ValueError: steps or restarts is below 1, step_size is not positive and finite, or restarts is above 1 without
            random_start.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from evaluators import PGD
        >>> network = nn.Identity()  # The two pixels are the logits of two classes.
        >>> x, y = torch.tensor([[0.7, 0.5], [0.9, 0.1], [0.4, 0.5]]), torch.tensor([0, 0, 0])
        >>> PGD(steps=20)(network, x, y, epsilon=0.1)
        tensor([[0.6000, 0.6000],
                [0.8000, 0.2000],
                [0.3000, 0.6000]])
    """

    norm: Norm = Linf()
    loss: Loss = cross_entropy
    steps: int = 10
    step_size: float = 0.25
    random_start: bool = True
    restarts: int = 1

    def __post_init__(self) -> None:
        check_steps(self.steps, self.step_size)
        check_counts(restarts=self.restarts)
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts must be 1 without a random start, got {self.restarts}; set random_start to true")

    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the perturbation after the last step, of the restart with the largest loss."""
        delta = self._walk(target, x, epsilon, noise)
        if self.restarts == 1:
            return delta
        largest = target.value((x + delta).clamp(0, 1), self.loss)
        for restart in range(1, self.restarts):
            again = self._walk(target, x, epsilon, noise.fork(restart))
            value = target.value((x + again).clamp(0, 1), self.loss)
            delta = torch.where(broadcast_per_image(value > largest, x), again, delta)
            largest = torch.maximum(value, largest)
        return delta

    def _walk(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        start = (x + self.norm.sample(x, epsilon, noise)).clamp(0, 1) if self.random_start else x
        return gradient_steps(
            lambda points: target.gradient(points, self.loss),
            self.norm,
            x,
            start,
            epsilon,
            steps=self.steps,
            step_size=self.step_size,
        )
