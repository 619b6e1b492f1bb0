"""Momentum iterative fast gradient sign method.

Not to be confused with `BIM`, which has no momentum.

Source: Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018, arXiv:1710.06081.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evaluators.attacks.base import Attack
from evaluators.attacks.gradient_steps import check_steps
from evaluators.attacks.losses import Loss, cross_entropy
from evaluators.norms import Linf, Norm, broadcast_per_image

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise


@final
@dataclass(frozen=True, kw_only=True)
class MIFGSM(Attack):
    """Momentum iterative FGSM: steps along a running sum of gradients, each divided by its L1 norm.

    Other implementations divide by the mean absolute value instead of the L1 norm. This scales the sum by a constant,
    and the normalised step is the same. The paper's step is epsilon / steps.

    Attributes:
        norm: Shape of the ball: linf, l2 or l1.
        loss: Loss to maximise: cross_entropy, margin or dlr.
        steps: Number of gradient steps.
        step_size: Length of one step, as a fraction of epsilon.
        decay: Factor on the running sum at each step, at least 0. With 0 the attack is BIM.

    Raises:
        ValueError: steps is below 1, step_size is not positive and finite, or decay is negative or infinite.
    """

    norm: Norm = Linf()
    loss: Loss = cross_entropy
    steps: int = 10
    step_size: float = 0.2
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_steps(self.steps, self.step_size)
        if not 0 <= self.decay < math.inf:
            raise ValueError(f"decay must be finite and not negative, got {self.decay}")

    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the perturbation after the last step."""
        points, velocity = x, torch.zeros_like(x)
        for _ in range(self.steps):
            gradient = target.gradient(points, self.loss)
            length = broadcast_per_image(gradient.flatten(1).abs().sum(1), gradient).clamp(min=torch.finfo(x.dtype).tiny)
            velocity = self.decay * velocity + gradient / length
            moved = points + self.step_size * epsilon * self.norm.step(points, velocity)
            points = self.norm.inside(x, moved - x, epsilon)
        return points - x
