"""SuperDeepFool: DeepFool steps to the decision boundary, each time followed by a projection onto the boundary's normal.

Not to be confused with `DeepFool`, which stops at the first misclassified point. That point is seldom the nearest one,
because the perturbation is not orthogonal to the boundary there.

Source: Abdolahpourrostam, Abroshan and Moosavi-Dezfooli, "SuperDeepFool: a new fast and accurate minimal adversarial
attack", NeurIPS 2024, arXiv:2303.12481.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evaluators.attacks.base import MinimumNorm
from evaluators.attacks.bisection import bisect
from evaluators.attacks.boundary_step import addition, check_overshoot
from evaluators.attacks.rivals import check_candidates, margin_to_nearest
from evaluators.attacks.supported_norms import check_not_l1
from evaluators.norms import Linf, Norm, broadcast_per_image

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise


@final
@dataclass(frozen=True, kw_only=True)
class SuperDeepFool(MinimumNorm):
    """SuperDeepFool: DeepFool steps to a misclassified point, which is then moved closer to the image, again and again.

    A correctly classified point takes a DeepFool step. A misclassified point lies on a plane that is orthogonal to the
    gradient there. The next point is the one of this plane that is nearest to the clean image. An image is finished when
    this no longer shortens its perturbation. There are four deviations from the paper:

    - It works in Linf, too: the nearest point of the plane is taken in this norm.
    - All steps aim at one class, the nearest one to first order at the clean image. The paper computes the gradients of all
      classes at each step.
    - The paper stops at the first misclassified projection. Here more projections follow, if they shorten the perturbation.
    - Points are clipped to the pixel range. At the end, a bisection moves the misclassified point closer to the image.

    Attributes:
        norm: Norm to minimise, linf or l2.
        steps: Largest number of gradients after the choice of the class.
        overshoot: Share by which a DeepFool step is lengthened, to cross the boundary.
        gain: Share by which a projection must shorten the perturbation, or else the image is finished.
        candidates: Number of classes considered: the true class and the others with the largest clean logits. With 2, the
            steps follow the wrong class with the largest logit at each point.

    Raises:
        ValueError: norm is l1, steps is below 1, overshoot is negative, gain is not between 0 and 1, or candidates is below
            2.
    """

    norm: Norm = Linf()
    steps: int = 30
    overshoot: float = 0.02
    gain: float = 0.005
    candidates: int = 10

    def __post_init__(self) -> None:
        check_not_l1(self.norm, "SuperDeepFool")
        check_overshoot(self.steps, self.overshoot)
        if not 0 < self.gain < 1:
            raise ValueError(f"gain must be between 0 and 1, a share of the perturbation, got {self.gain}")
        check_candidates(self.candidates)

    def minimise(self, target: GradientOracle, x: Tensor, noise: ImageNoise) -> None:
        """Takes steps until every image is finished, then moves the nearest misclassified point closer to x."""
        loss, classes = margin_to_nearest(target, self.norm, x, self.candidates)
        points = nearest = x
        best = x.new_full((len(x),), math.inf)
        unfinished, ties = torch.ones_like(best, dtype=torch.bool), torch.zeros_like(target.labels)
        for _ in range(self.steps):
            value, gradient = target.value_and_gradient(points, loss, *classes, only=unfinished)
            delta = points - x
            size, slope = self.norm.size(delta), self.norm.dual(gradient)
            wrong = unfinished & (value > 0)
            helped, closer = size < best * (1 - self.gain), wrong & (size < best)
            best, nearest = torch.where(closer, size, best), torch.where(broadcast_per_image(closer, x), points, nearest)
            unfinished = unfinished & (helped | ~wrong) & (slope > 0) & value.isfinite()
            if not unfinished.any():
                break
            added, ties = addition(value, size, ties)
            step = (1 + self.overshoot) * value.abs() / slope + added
            # Distance of the plane through the misclassified point from the clean image.
            distance = (delta * gradient).flatten(1).sum(1) / slope
            start = torch.where(broadcast_per_image(wrong, x), x, points)
            length = torch.where(wrong, distance, step)
            moved = (start + broadcast_per_image(length, x) * self.norm.ascent(gradient)).clamp(0, 1)
            points = torch.where(broadcast_per_image(unfinished, x), moved, points)
        else:
            crossed = target.wrong(points) & best.isinf()
            nearest = torch.where(broadcast_per_image(crossed, x), points, nearest)
        bisect(target, self.norm, x, nearest, 10)
