"""Rounding of adversarial images to the 256 values of a pixel that an image file can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evaluators.norms import broadcast_per_image

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.norms import Norm

LEVELS = 255
# Perturbations are scaled by these numbers, the largest first, until the rounded image is inside the ball.
SCALES = (1.0, 0.99, 0.97, 0.94, 0.9)


def check_eight_bit(x: Tensor) -> None:
    """Checks that all pixels are multiples of 1/255, up to the rounding of their number format.

    Raises:
        ValueError: a pixel is not, or x is neither float32 nor float64.
    """
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x must be float32 or float64 for eight_bit, because {x.dtype} is too coarse for 256 exact values")
    scaled = LEVELS * x.double()
    away = (scaled - scaled.round()).abs()
    # Images in double precision are often loaded in single precision.
    precision = max(torch.finfo(x.dtype).eps, torch.finfo(torch.float32).eps)
    if bool((away > 2 * LEVELS * precision).any()):
        example = float(x.flatten()[away.argmax()])
        raise ValueError(
            f"x must have pixels that are multiples of 1/255 for eight_bit, got {example:.6g}; round the images, or attack "
            "without eight_bit"
        )


def rounded(x: Tensor, points: Tensor, norm: Norm, epsilon: Tensor) -> Tensor:
    """Returns points rounded to multiples of 1/255 and inside the ball around x, (N, ...).

    Pixels are rounded to the nearest multiple. If the image is then outside the ball, its perturbation is scaled down first.
    If that is not enough, each pixel is rounded towards the clean image.

    Args:
        x: Clean images, (N, ...), whose pixels are multiples of 1/255.
        points: Perturbed images, (N, ...).
        norm: Shape of the ball.
        epsilon: Radius of each image's ball, (N,), in pixel units.
    """
    levels, change = (LEVELS * x).round(), LEVELS * (points - x)
    slack = 2 * LEVELS * torch.finfo(x.dtype).eps
    # The slack allows for rounding: a change of 8 that was computed as 7.99999 stays 8.
    best = levels + change.sign() * (change.abs() + slack).floor()
    for scale in reversed(SCALES):
        near = levels + (scale * change).round()
        inside = norm.size((near - levels) / LEVELS) <= epsilon * (1 + 1e-5)
        best = torch.where(broadcast_per_image(inside, x), near, best)
    return best.clamp(0, LEVELS) / LEVELS
