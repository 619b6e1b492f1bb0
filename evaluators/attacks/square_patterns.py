"""Squares of pixels at random places, and the patterns that the square attack adds to them in L2 and L1.

Source: Andriushchenko, Croce, Flammarion and Hein, "Square Attack: a Query-Efficient Black-Box Adversarial Attack via Random
Search", ECCV 2020, arXiv:1912.00049. In L1 Croce and Hein, "Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image
Classifiers", ICML 2021, arXiv:2103.01208.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.engine.noise import ImageNoise


def tiled(x: Tensor, noise: ImageNoise, power: int) -> Tensor:
    """Returns a grid of `bumps` with random signs, about five along each side, shaped like images x (N, C, H, W).

    Pixels outside of the grid, at the border, are 0.

    Args:
        x: Clean images.
        noise: Random numbers of each image.
        power: Norm of the bumps, 1 or 2.
    """
    count, channels, height, width = x.shape
    side = max(min(height, width) // 5, 1)
    rows, columns = height // side, width // side
    signs = random_signs(noise.uniform(x.new_empty(count, channels, rows, columns)))
    turned = (noise.uniform(x.new_empty(count, 1, rows, columns), draw=1) < 0.5).long()
    grid = signs[..., None] * bumps(side, x.dtype, x.device, power)[turned]
    grid = grid.unflatten(-1, (side, side)).transpose(3, 4).reshape(count, channels, rows * side, columns * side)
    delta, top, start = torch.zeros_like(x), (height - rows * side) // 2, (width - columns * side) // 2
    delta[:, :, top : top + rows * side, start : start + columns * side] = grid
    return delta


@lru_cache(maxsize=64)
def bumps(side: int, dtype: torch.dtype, device: torch.device, power: int) -> Tensor:
    """Returns the pattern that the attack adds in L2 or L1, and its transpose, each of length 1, (2, side * side).

    One half of the square is a positive pyramid and the other half a negative one. Both halves have the same length. In L1,
    the pyramids are steeper.

    Args:
        side: Side of the square, in pixels.
        dtype: Floating-point type of the result.
        device: Device of the result.
        power: Norm in which the length is 1: 1 or 2.
    """
    half = side // 2
    upright = torch.cat([_pyramid(half, side, power), -_pyramid(side - half, side, power)])
    both = torch.stack([upright, upright.T]).flatten(1)
    return unit(both, power).to(device, dtype)


def drawn_bumps(x: Tensor, drawn: Tensor, side: int, power: int) -> Tensor:
    """Returns a bump with a random orientation and a random sign in each channel, (M, C, side * side).

    Args:
        x: Images (N, C, H, W), for the dtype and the device.
        drawn: Random numbers of M images, as for `recolour` of square.py.
        side: Side of the square, in pixels.
        power: Norm in which the length is 1: 1 or 2.
    """
    turned = (drawn[:, 4:5] < 0.5).long()
    return random_signs(drawn[:, 5:, None]).to(x.dtype) * bumps(side, x.dtype, x.device, power)[turned]


def _pyramid(height: int, width: int, power: int) -> Tensor:
    """Returns a pyramid of length 1, (height, width).

    Rings around the centre are numbered 1, 2, ... from the inside. The value at ring r is proportional to the sum over the
    rings k >= r of 1/k² in L2, and of 1/k⁴ in L1.
    """
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    rings = torch.arange(1, max(height, width) // 2 + 2)
    sums = rings.double().pow(-4 / power).flip(0).cumsum(0).flip(0)
    return unit(sums[torch.maximum(rows[:, None], columns[None, :])].flatten(), power).view(height, width)


def squares(x: Tensor, images: Tensor, drawn: Tensor, side: int) -> Tensor:
    """Returns the flat indices of random squares in x.view(-1), (M, C, side * side).

    Args:
        x: Images, (N, C, H, W).
        images: Indices of the images, (M,).
        drawn: Random numbers in [0, 1) for row and column, (M, 2).
        side: Side of the square, in pixels.
    """
    _, channels, height, width = x.shape
    top = (drawn[:, 0] * (height - side + 1)).long()
    start = (drawn[:, 1] * (width - side + 1)).long()
    corner = images * (channels * height * width) + top * width + start
    along = torch.arange(side, device=x.device)
    inside = (along[:, None] * width + along[None, :]).flatten()
    channel = torch.arange(channels, device=x.device) * (height * width)
    return corner[:, None, None] + channel[None, :, None] + inside[None, None, :]


def random_signs(drawn: Tensor) -> Tensor:
    """Returns -1 for numbers below 0.5 and 1 for the others, same shape; the numbers are in [0, 1)."""
    return torch.where(drawn < 0.5, -1.0, 1.0).to(drawn.dtype)


def unit(delta: Tensor, power: int) -> Tensor:
    """Returns delta (..., P) scaled to L1 or L2 length 1 along the last dimension; zeros stay zero."""
    scaled: Tensor = delta / torch.linalg.vector_norm(delta, ord=power, dim=-1, keepdim=True).clamp(min=1e-12)
    return scaled
