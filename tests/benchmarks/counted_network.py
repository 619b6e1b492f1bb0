"""A network that counts the passes of each image, and keeps the smallest misclassified perturbation among all points.

An attack is then judged by the points that it visits, not by the points that it returns.

Source: Cinà et al., "AttackBench: Evaluating Gradient-based Attacks for Adversarial Examples", AAAI 2025, arXiv:2404.19460.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# A pixel may leave [0, 1] by this much. The sum of an image and its perturbation is rounded.
PIXEL_SLACK = 1e-6


class BudgetSpentError(Exception):
    """Raised at a pass in which no image has budget left. It ends the attack."""


class CountedNetwork(nn.Module):
    """A network with a budget of passes for each image. A forward pass and a backward pass count as one each.

    Points that are visited after the budget is spent are not recorded. A call with all images has them in their order. In a
    call with fewer points, each point belongs to the nearest clean image, and the order of the images must be kept.

    Attributes:
        passes: Number of passes of each image, (N,) int64.
        sizes: Size of the smallest misclassified perturbation of each image, (N,) float64; infinite if there is none.

    Args:
        network: Network from images (N, ...) to logits (N, K).
        x: Clean images, (N, ...), pixels in [0, 1].
        y: True labels, (N,).
        norm: Norm of the perturbations.
        budget: Number of passes of each image.
    """

    def __init__(self, network, x, y, norm, budget):
        super().__init__()
        self.network = network
        self._x, self._y, self._norm, self._budget = x, y, norm, budget
        # No buffers, because `evaluators` restores buffers after an attack.
        self.passes = torch.zeros(len(x), dtype=torch.int64)
        self.sizes = torch.full((len(x),), math.inf, dtype=torch.float64)

    def __deepcopy__(self, memo):
        raise TypeError("a counted network cannot be copied, because passes of the copy would not be counted")

    def forward(self, points):
        """Returns the logits of points (M, ...), (M, K), and counts and records them.

        Raises:
            BudgetSpentError: no image of the points has budget left.
            ValueError: the points do not keep the order of the images.
        """
        images = self._images(points.detach())
        left = self.passes[images] < self._budget
        if not left.any():
            raise BudgetSpentError
        self.passes[images] += 1
        counted = _CountedBackward.apply(points, self.passes, images) if torch.is_grad_enabled() else points
        logits = self.network(counted)
        self._record(images[left], points.detach()[left], logits.detach()[left])
        return logits

    def _images(self, points: Tensor) -> Tensor:
        """Returns the number of the image of each point, (M,)."""
        if len(points) == len(self._x):
            return torch.arange(len(points))
        images = torch.cdist(points.flatten(1), self._x.flatten(1)).argmin(1)
        if (images.diff() <= 0).any():
            raise ValueError(f"a call must keep the order of the images, got points near the images {images.tolist()}")
        return images

    def _record(self, images: Tensor, points: Tensor, logits: Tensor) -> None:
        wrong = (logits.argmax(1) != self._y[images]) | ~logits.isfinite().all(1)
        flat = points.flatten(1)
        wrong &= (flat.amin(1) >= -PIXEL_SLACK) & (flat.amax(1) <= 1 + PIXEL_SLACK)
        images, points = images[wrong], points[wrong]
        if len(images):
            size = self._norm.size(points.double() - self._x[images].double())
            self.sizes[images] = torch.minimum(self.sizes[images], size)


class _CountedBackward(torch.autograd.Function):
    """Returns the points unchanged, and counts one pass of each image whenever gradients flow back to them."""

    @staticmethod
    def forward(ctx, points, passes, images):
        ctx.passes, ctx.images = passes, images
        return points.view_as(points)

    @staticmethod
    def backward(ctx, gradient):
        ctx.passes[ctx.images] += 1
        return gradient, None, None
