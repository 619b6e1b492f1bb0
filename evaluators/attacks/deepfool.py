"""DeepFool.

Not to be confused with `SuperDeepFool`, which then looks for misclassified points nearer to the image.

Source: Moosavi-Dezfooli, Fawzi and Frossard, "DeepFool: a simple and accurate method to fool deep neural networks",
CVPR 2016, arXiv:1511.04599.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evaluators.attacks.base import MinimumNorm
from evaluators.attacks.boundary_step import addition, check_overshoot
from evaluators.attacks.losses import targeted_margin
from evaluators.attacks.rivals import check_candidates, rivals
from evaluators.attacks.supported_norms import check_not_l1
from evaluators.norms import Linf, Norm, broadcast_per_image

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise


@final
@dataclass(frozen=True, kw_only=True)
class DeepFool(MinimumNorm):
    """DeepFool: repeated steps to the nearest decision boundary of the network's linearisation at the current point.

    For a linear network it finds the nearest point, up to the overshoot, if no pixel is clipped. For other networks it is
    fast, but rarely finds the nearest point; FMN and DDN search longer. There are two deviations from the paper. Points are
    clipped to the pixel range at each step, and each step after the first is slightly longer than the distance to the
    boundary.

    Attributes:
        norm: Norm to minimise, linf or l2.
        steps: Largest number of linearisations.
        overshoot: Share by which the sum of the steps is lengthened, to cross the boundary.
        candidates: Number of classes considered: the true class and the others with the largest clean logits.

    Raises:
        ValueError: norm is l1, steps is below 1, overshoot is negative, or candidates is below 2.
    """

    norm: Norm = Linf()
    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 10

    def __post_init__(self) -> None:
        check_not_l1(self.norm, "DeepFool")
        check_overshoot(self.steps, self.overshoot)
        check_candidates(self.candidates)

    def minimise(self, target: GradientOracle, x: Tensor, noise: ImageNoise) -> None:
        """Takes steps until every image is misclassified or the number of steps is reached."""
        others = rivals(target, x, self.candidates)
        wrong = torch.zeros_like(target.fooled)
        delta, ties = torch.zeros_like(x), torch.zeros_like(target.labels)
        for _ in range(self.steps):
            points = (x + (1 + self.overshoot) * delta).clamp(0, 1)
            distance, step = x.new_full((len(x),), math.inf), torch.zeros_like(x)
            correct = ~wrong
            for rival in others:
                # The loss of images that are left out is infinite, so they stay wrong.
                value, gradient = target.value_and_gradient(points, targeted_margin, rival, only=correct)
                wrong |= value > 0
                # Where the gradient is zero, the distance to the boundary is infinite and the rival is not used.
                away = value.abs() / self.norm.dual(gradient)
                nearer = away < distance
                distance = torch.where(nearer, away, distance)
                step = torch.where(broadcast_per_image(nearer, x), self.norm.ascent(gradient), step)
            if wrong.all():
                return
            added, ties = addition(distance, self.norm.size(delta), ties)
            distance = distance + added
            delta = delta + broadcast_per_image(torch.where(~wrong & distance.isfinite(), distance, 0), x) * step
        target.wrong((x + (1 + self.overshoot) * delta).clamp(0, 1))
