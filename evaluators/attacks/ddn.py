"""Decoupled direction and norm.

Not to be confused with `FMN`, which works in every norm and takes its first radii from the linearisation.

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
from evaluators.attacks.settings import check_counts
from evaluators.norms import L2, Norm, broadcast_per_image

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise


@final
@dataclass(frozen=True, kw_only=True)
class DDN(MinimumNorm):
    """Decoupled direction and norm: gradient steps on a sphere around the image, L2 only.

    The sphere shrinks when the point is misclassified and grows otherwise. Two deviations from the paper: points are not
    rounded to 8 bits, and at the end, a bisection moves the nearest misclassified point closer to the image.

    Attributes:
        norm: Norm to minimise, l2.
        loss: Loss to maximise: cross_entropy, margin or dlr. If its gradient is zero, the step is random. For cross_entropy,
            this happens if the logits are very far apart.
        steps: Number of gradient steps.
        gamma: Share by which the sphere shrinks or grows at each step, in (0, 1). The radius of the sphere
            starts at 1.

    Raises:
        ValueError: norm is not l2, steps is below 1, or gamma is not between 0 and 1.
    """

    norm: Norm = L2()
    loss: Loss = cross_entropy
    steps: int = 100
    gamma: float = 0.05

    def __post_init__(self) -> None:
        if self.norm != L2():
            raise ValueError(f"norm must be l2 for DDN, got {self.norm.name}; FMN takes every norm")
        check_counts(steps=self.steps)
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma must be between 0 and 1, got {self.gamma}")

    def minimise(self, target: GradientOracle, x: Tensor, noise: ImageNoise) -> None:
        """Takes the gradient steps, then moves the nearest misclassified point closer to x by a bisection."""

        def judged(logits: Tensor, y: Tensor) -> Tensor:
            # The value is the margin and the gradient is that of the loss: one pass gives both the decision and the step.
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
            # Where the gradient is zero, the direction is random, as in the authors' code.
            flat = gradient.flatten(1).abs().amax(1) == 0
            gradient = torch.where(broadcast_per_image(flat, x), noise.normal(x, step), gradient)
            radius = radius * torch.where(wrong, 1 - self.gamma, 1 + self.gamma).to(x.dtype)
            delta = broadcast_per_image(radius, x) * self.norm.ascent(delta + length * self.norm.ascent(gradient))
            delta = (x + delta).clamp(0, 1) - x
        bisect(target, self.norm, x, nearest, 10)
