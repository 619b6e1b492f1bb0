"""The moves of the square attack in L1: whole images are projected after each change, which makes the change sparse.

Not to be confused with the moves in L2 (square.py), which do not change the length of the perturbation.

Source: Croce and Hein, "Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers", ICML 2021,
arXiv:2103.01208.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evaluators.attacks.square_patterns import drawn_bumps, squares, tiled, unit
from evaluators.norms import L1

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.engine.noise import ImageNoise

# The projection is onto a slightly smaller ball: rounding of many small changes could otherwise leave the ball.
WITHIN = 1 - 1e-5


def sparse_tiles(x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
    """Returns images plus a grid of bumps with random signs, moved into the ball and the pixel range, shaped like x."""
    return L1().inside(x, tiled(x, noise, power=1), WITHIN * epsilon)


def sparse_shift(
    points: Tensor, x: Tensor, epsilon: Tensor, sizes: Tensor, left: Tensor, drawn: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """Empties one square, fills another one with more than the ball allows, and projects the images, in place.

    The projection removes the smallest changes of the image first. Arguments and return values are those of `recolour` in
    square.py; here, all pixels of an image may change.
    """
    clean, delta = x[left], points[left] - x[left]
    numbers = torch.arange(len(left), device=x.device)
    into, out = squares(delta, numbers, drawn[:, :2], side), squares(delta, numbers, drawn[:, 2:4], side)
    change = delta.view(-1)
    old = change[into]
    freed = change[out].abs().sum(2, keepdim=True)
    change[out] = 0
    freed = freed + change[into].abs().sum(2, keepdim=True)  # Where the squares overlap, a pixel counts once.
    unused = (epsilon[left].flatten() - sizes[left]).clamp(min=0).view(-1, 1, 1)
    channels = x.shape[1]
    bump = drawn_bumps(x, drawn, side, power=1)
    change[into] = unit(bump + unit(old, 1), 1) * (freed * channels + unused)
    moved = L1().inside(clean, delta, WITHIN * epsilon[left])
    pixels = x[0].numel()
    whole = left[:, None] * pixels + torch.arange(pixels, device=x.device)
    before = points.view(-1)[whole]
    points.view(-1)[whole] = moved.flatten(1)
    return whole, before
