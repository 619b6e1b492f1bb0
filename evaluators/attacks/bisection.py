"""The way back to the boundary, with which minimum-norm attacks make the most of a misclassified point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evaluators.norms import Norm, broadcast_per_image

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle


def bisect(target: GradientOracle, norm: Norm, x: Tensor, points: Tensor, steps: int) -> Tensor:
    """Returns misclassified points nearer to x, (N, ...), after `steps` decisions for each image.

    The perturbation is shortened by the norm's own projection, along the straight line in L2 and by clipping in Linf, and
    its size is halved between the largest that did not fool, at first 0, and the smallest that did, at first that of
    `points` (N, ...), pixels in [0, 1]. Points that do not fool may come back as they were.
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
