"""Decoupled direction and norm.

Source: Rony et al., "Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks and Defenses",
CVPR 2019, arXiv:1811.09600.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evaluators.attacks.base import MinimumNorm
from evaluators.attacks.bisection import bisect
from evaluators.attacks.losses import Loss, cross_entropy, margin
from evaluators.norms import L2, Norm, broadcast_per_image

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise


@final
@dataclass(frozen=True, kw_only=True)
class DDN(MinimumNorm):
    """Walks on a sphere around the image, which shrinks while the point fools and grows while it does not.

    L2 only. The points are not rounded to 8 bits, and at the end the nearest found is drawn towards the image by a few
    decisions; the paper does the one and not the other.

    Attributes:
        norm: What is minimised, l2.
        loss: What the steps increase, cross_entropy, margin or dlr. Where logits are so far apart that the gradient of
            the first is zero, steps are random.
        steps: Number of gradient steps.
        gamma: Share by which the sphere, of radius 1 at first, shrinks or grows at each step.

    Raises:
        ValueError: norm is not l2, steps is below 1, or gamma is not between 0 and 1.
    """

    norm: Norm = L2()
    loss: Loss = cross_entropy
    steps: int = 100
    gamma: float = 0.05

    def __post_init__(self) -> None:
        if self.norm != L2():
            raise ValueError(f"norm must be l2 for DDN, got {self.norm.name}; FMN takes both norms")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma must be between 0 and 1, got {self.gamma}")

    def minimise(self, target: GradientOracle, x: Tensor, noise: ImageNoise) -> None:
        """Asks about the points of the walk, then about the way back from the nearest that fooled."""

        def judged(logits: Tensor, y: Tensor) -> Tensor:
            # The gradient of the loss, the value of the margin: whether the point fools costs no second pass.
            loss = self.loss(logits, y)
            return margin(logits.detach(), y) + (loss - loss.detach())

        delta, nearest = torch.zeros_like(x), x
        radius, best = x.new_ones(len(x)), x.new_full((len(x),), math.inf)
        for step in range(self.steps):
            length = 0.01 + 0.99 * (1 + math.cos(math.pi * step / self.steps)) / 2
            points = (x + delta).clamp(0, 1)
            value, gradient = target.value_and_gradient(points, judged)
            wrong, size = value > 0, self.norm.size(points - x)
            closer = wrong & (size < best)
            best, nearest = torch.where(closer, size, best), torch.where(broadcast_per_image(closer, x), points, nearest)
            # Where the gradient is zero, a random direction, as in the authors' code.
            flat = gradient.flatten(1).abs().amax(1) == 0
            gradient = torch.where(broadcast_per_image(flat, x), noise.normal(x, step), gradient)
            radius = radius * torch.where(wrong, 1 - self.gamma, 1 + self.gamma)
            delta = broadcast_per_image(radius, x) * self.norm.ascent(delta + length * self.norm.ascent(gradient))
            delta = (x + delta).clamp(0, 1) - x
        bisect(target, self.norm, x, nearest, 10)
