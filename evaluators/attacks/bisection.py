"""Bisection from a misclassified point back towards the clean image, for minimum-norm attacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evaluators.norms import Norm, broadcast_per_image

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle


def bisect(target: GradientOracle, norm: Norm, x: Tensor, points: Tensor, steps: int) -> Tensor:
    """Returns misclassified points nearer to x, (N, ...), found by bisection of the size of the perturbation.

    The norm's projection shortens the perturbation: along a straight line in L2, by clipping in Linf.

    Args:
        target: The attacked network.
        norm: Norm in which the size is measured.
        x: Clean images, (N, ...).
        points: Misclassified points, (N, ...), pixels in [0, 1]. Where no shorter perturbation is misclassified, the point
            is returned unchanged, even if it is classified correctly.
        steps: Number of bisection steps, one forward pass each.
    """
    delta = points - x
    low, high = torch.zeros_like(norm.size(delta)), norm.size(delta)
    for _ in range(steps):
        middle = (low + high) / 2
        shorter = norm.inside(x, delta, broadcast_per_image(middle, x))
        wrong = target.wrong(shorter)
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
        points = torch.where(broadcast_per_image(wrong, x), shorter, points)
    return points
