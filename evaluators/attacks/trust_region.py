"""Trust-region attack: steps of steepest ascent whose length depends on how well the linearisation predicts the margin.

Not to be confused with `DeepFool`, whose steps always go to the boundary of the linearisation, however far away it is.

Source: Yao, Gholami, Xu, Keutzer and Mahoney, "Trust Region Based Adversarial Attack on Neural Networks", CVPR 2019,
arXiv:1812.06371.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evaluators.attacks.base import MinimumNorm
from evaluators.attacks.bisection import bisect
from evaluators.attacks.boundary_step import addition
from evaluators.attacks.rivals import check_candidates, margin_to_nearest
from evaluators.attacks.settings import check_counts
from evaluators.attacks.supported_norms import check_not_l1
from evaluators.norms import Linf, Norm, broadcast_per_image

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise

# The region grows where the margin rose by more than the first share of the predicted rise. It shrinks where the margin rose
# by less than the second share.
GROWS_ABOVE, SHRINKS_BELOW = 0.9, 0.5


@final
@dataclass(frozen=True, kw_only=True)
class TrustRegion(MinimumNorm):
    """Trust-region attack: steps of steepest ascent on the margin, inside a region where its linearisation is trusted.

    It needs few gradients, because an image is finished at its first misclassified point. There are two deviations from the
    paper. The first region of an image is a share of its first-order radius instead of a length common to all images. At the
    end, a bisection moves the misclassified point closer to the image.

    Attributes:
        norm: Norm to minimise, linf or l2.
        steps: Largest number of gradients after the choice of the class.
        first: Radius of the first region, as a share of the first-order radius.
        growth: Factor by which the region grows or shrinks.
        candidates: Number of classes considered: the true class and the others with the largest clean logits. With 2, the
            steps follow the wrong class with the largest logit at each point.
        bisections: Number of forward passes of the bisection at the end.

    Raises:
        ValueError: norm is l1, steps is below 1, first is not above 0 and at most 1, growth is not above 1, candidates is
            below 2, or bisections is negative.
    """

    norm: Norm = Linf()
    steps: int = 50
    first: float = 0.25
    growth: float = 1.5
    candidates: int = 10
    bisections: int = 10

    def __post_init__(self) -> None:
        check_not_l1(self.norm, "TrustRegion")
        check_counts(steps=self.steps)
        if not 0 < self.first <= 1:
            raise ValueError(f"first must be above 0 and at most 1, a share of the first-order radius, got {self.first}")
        if not 1 < self.growth < math.inf:
            raise ValueError(f"growth must be a finite number above 1, got {self.growth}")
        check_candidates(self.candidates)
        if self.bisections < 0:
            raise ValueError(f"bisections must be at least 0, got {self.bisections}")

    def minimise(self, target: GradientOracle, x: Tensor, noise: ImageNoise) -> None:
        """Takes steps until every image is misclassified, then moves its point closer to x by a bisection."""
        loss, classes = margin_to_nearest(target, self.norm, x, self.candidates)
        points, tiny = x, torch.finfo(x.dtype).tiny
        unfinished = torch.ones(len(x), dtype=torch.bool, device=x.device)
        radius = value_before = predicted = x.new_zeros(len(x))
        ties = torch.zeros_like(target.labels)
        for _ in range(self.steps):
            value, gradient = target.value_and_gradient(points, loss, *classes, only=unfinished)
            slope = self.norm.dual(gradient)
            # Where there is no slope, there is no direction either.
            unfinished = unfinished & (value <= 0) & (slope > 0)
            if not unfinished.any():
                break
            distance = -value / slope.clamp(min=tiny)
            ratio = (value - value_before) / predicted.clamp(min=tiny)
            growth, unchanged = torch.full_like(ratio, self.growth), torch.ones_like(ratio)
            shrunk = torch.where(ratio < SHRINKS_BELOW, 1 / growth, unchanged)
            radius = radius * torch.where(ratio > GROWS_ABOVE, growth, shrunk)
            # The radius is 0 before the first step, and after a tie of two logits. As in the paper, there is a smallest
            # radius: here a tenth of what the first radius would be at the current point.
            radius = torch.where(radius == 0, self.first * distance, radius).maximum(self.first / 10 * distance)
            # Slightly beyond the boundary of the linearisation is far enough.
            added, ties = addition(distance, self.norm.size(points - x), ties)
            step = torch.minimum(radius, 1.02 * distance) + added
            moved = (points + broadcast_per_image(step, x) * self.norm.ascent(gradient)).clamp(0, 1)
            # Clipped pixels are left out of the prediction, or else the region would shrink because of them.
            value_before, predicted = value, ((moved - points) * gradient).flatten(1).sum(1)
            points = torch.where(broadcast_per_image(unfinished, x), moved, points)
        else:
            target.wrong(points)
        bisect(target, self.norm, x, points, self.bisections)
