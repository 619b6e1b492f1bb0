"""Fast minimum-norm attack.

Not to be confused with `DDN`, which works in L2 only and changes the radius by a fixed factor.

Source: Pintor et al., "Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints", NeurIPS 2021,
arXiv:2102.12827.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evaluators.attacks.base import MinimumNorm
from evaluators.attacks.bisection import bisect
from evaluators.attacks.rivals import check_candidates, margin_to_nearest
from evaluators.attacks.settings import check_counts
from evaluators.engine.l1_steps import movable
from evaluators.norms import L1, L2, Linf, Norm, broadcast_per_image

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise


@final
@dataclass(frozen=True, kw_only=True)
class FMN(MinimumNorm):
    """Fast minimum-norm attack: gradient ascent on the margin inside a ball of adaptive radius.

    The ball shrinks when the current point is misclassified and grows otherwise. Until the first misclassified point of an
    image, its ball extends slightly beyond the decision boundary of the network's linearisation. Deviations from the paper:

    - The length of a step is a fraction of the ball's radius. With the paper's absolute length of 1 in L2, up to 7 % of the
      images were never misclassified by small networks.
    - In Linf and L2, the direction of a step is the steepest one in the norm. In L1, it is the gradient, as in the paper,
      but pixels at the border of the pixel range that would leave it do not count.
    - At the end, a bisection moves the nearest misclassified point closer to the image.
    - With more than two candidates, all steps aim at the class that is nearest to first order at the clean image. This finds
      smaller perturbations on many images, and larger ones on a few.

    Attributes:
        norm: Norm to minimise: linf, l2 or l1.
        steps: Number of gradient steps.
        step_size: Length of the first step, as a fraction of the radius of the ball. It decays to a hundredth of this.
        gamma: Share by which the ball shrinks or grows at first, in [0.001, 1). It decays to 0.001.
        candidates: Number of classes considered: the true class and the others with the largest clean logits. With 2, the
            steps follow the wrong class with the largest logit at each point, as in the paper.

    Raises:
        ValueError: steps is below 1, step_size is not positive and finite, gamma is not between 0.001 and 1, or candidates
            is below 2.
    """

    norm: Norm = Linf()
    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05
    candidates: int = 2

    def __post_init__(self) -> None:
        check_counts(steps=self.steps)
        if not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be positive and finite, a fraction of the radius, got {self.step_size}")
        if not 0.001 <= self.gamma < 1:
            raise ValueError(f"gamma must be between 0.001 and 1, got {self.gamma}")
        check_candidates(self.candidates)

    def minimise(self, target: GradientOracle, x: Tensor, noise: ImageNoise) -> None:
        """Takes the gradient steps, then moves the nearest misclassified point closer to x by a bisection."""
        loss, classes = margin_to_nearest(target, self.norm, x, self.candidates)
        delta, nearest = torch.zeros_like(x), x
        radius = best = x.new_full((len(x),), math.inf)
        largest, tiny = self.norm.largest(x[0].numel()), torch.finfo(x.dtype).tiny
        for step in range(self.steps):
            annealed = (1 + math.cos(math.pi * step / self.steps)) / 2
            gamma = 0.001 + (self.gamma - 0.001) * annealed
            length = self.step_size * (0.01 + 0.99 * annealed)
            points = (x + delta).clamp(0, 1)
            value, gradient = target.value_and_gradient(points, loss, *classes)
            wrong, size = value > 0, self.norm.size(delta)
            closer = wrong & (size < best)
            best, nearest = torch.where(closer, size, best), torch.where(broadcast_per_image(closer, x), points, nearest)
            # This radius is slightly beyond the boundary of the linearisation. With a radius up to the boundary, the points
            # of a linear network would come close to the boundary, but never cross it.
            linear = (1 + gamma) * (size + value.abs() / self.norm.dual(gradient).clamp(min=tiny))
            grown = torch.where(best.isfinite(), (1 + gamma) * radius, linear)
            radius = torch.where(wrong, torch.minimum((1 - gamma) * radius, best), grown).clamp(max=largest)
            ball = broadcast_per_image(radius, x)
            delta = self.norm.inside(x, delta + length * ball * _direction(self.norm, points, gradient), ball) - x
        bisect(target, self.norm, x, nearest, 10)


def _direction(norm: Norm, points: Tensor, gradient: Tensor) -> Tensor:
    """Returns the direction of a step from points (N, ...), same shape.

    In L1, it has length 1 in L2, and the projection onto the ball makes the step sparse. Steps that are sparse from the
    start change too few pixels here: the radii of small networks were several percent larger.
    """
    if isinstance(norm, L1):
        return L2().ascent(movable(points, gradient))
    return norm.step(points, gradient)
