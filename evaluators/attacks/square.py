"""Square attack: a random search that uses the logits and no gradients.

Not to be confused with `HopSkipJump`, which needs only the predicted class and looks for the nearest adversarial image.

Source: Andriushchenko, Croce, Flammarion and Hein, "Square Attack: a Query-Efficient Black-Box Adversarial Attack via Random
Search", ECCV 2020, arXiv:1912.00049.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evaluators.attacks.base import Attack
from evaluators.attacks.losses import margin
from evaluators.attacks.settings import check_counts
from evaluators.attacks.square_l1 import sparse_shift, sparse_tiles
from evaluators.attacks.square_patterns import drawn_bumps, random_signs, squares, tiled, unit
from evaluators.norms import L2, Linf, Norm

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise

# Schedule for 10,000 queries: the area of the squares is 1/2, 1/4, 1/8, ... of the first area after these queries.
_SHRINK = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)

# Random numbers are drawn for this many queries at once. One draw per query would cost more than a small network's pass.
_LOT = 64


@final
@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Square attack: changes random squares of pixels and keeps each change that raises the margin loss.

    It uses no gradients and needs images (N, C, H, W).

    Attributes:
        norm: Shape of the ball: linf, l2 or l1.
        queries: Largest number of evaluated points per image. The search ends earlier once all images are misclassified.
        p_init: Share of an image's pixels that each of the first squares covers, in (0, 1].

    Raises:
        ValueError: norm is a custom norm, queries is below 1, or p_init is not above 0 and at most 1.
    """

    norm: Norm = Linf()
    queries: int = 5000
    p_init: float = 0.8

    def __post_init__(self) -> None:
        if self.norm.name not in MOVES:
            raise ValueError(f"norm must be linf, l2 or l1 for the square attack, got {self.norm.name}")
        check_counts(queries=self.queries)
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init must be above 0 and at most 1, a share of the pixels, got {self.p_init}")

    def supports(self, x: Tensor) -> bool:
        """Returns whether x has the shape (N, C, H, W)."""
        return x.ndim == 4

    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the perturbation with the largest margin loss that the search finds, (N, C, H, W).

        Raises:
            ValueError: x is not (N, C, H, W).
        """
        if not self.supports(x):
            raise ValueError(
                f"the square attack needs images (N, C, H, W), got {tuple(x.shape)}; flatten inside the network"
            )
        start, move = MOVES[self.norm.name]
        x = x.contiguous()
        points = start(x, epsilon, noise.fork(0))
        value, sizes = target.value(points, margin), self.norm.size(points - x)
        for query in range(1, self.queries):
            left = (value <= 0).nonzero().squeeze(1)
            if len(left) == 0:
                break
            lot, number = divmod(query - 1, _LOT)
            if number == 0:
                # Always in float32, so that images of every dtype get the same squares.
                drawn = noise.fork(1).uniform(x.new_empty(len(x), _LOT, 5 + x.shape[1], dtype=torch.float32), lot)
            changed, before = move(points, x, epsilon, sizes, left, drawn[left, number], self.side(query, x))
            asked = target.value(points, margin)[left]
            better = asked > value[left]
            kept = left[better]
            value[kept], sizes[kept] = asked[better], self.norm.size(points[kept] - x[kept])
            points.view(-1)[changed[~better]] = before[~better]
        return points - x

    def side(self, query: int, x: Tensor) -> int:
        """Returns the side of the squares of a query, in pixels, for images x (N, C, H, W)."""
        height, width = x.shape[2:]
        halvings = sum((query - 1) * 10_000 // self.queries > bound for bound in _SHRINK)
        side = round(math.sqrt(self.p_init / 2**halvings * height * width))
        if not isinstance(self.norm, Linf):  # Odd and at least 3, so that the bump has a middle.
            side = max(side, 3) // 2 * 2 + 1
        return min(max(side, 1), height, width)


def stripes(x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
    """Returns images with vertical stripes, shaped like x: each column of each channel changes by plus or minus epsilon."""
    return (x + epsilon * random_signs(noise.uniform(x[:, :, :1]))).clamp(0, 1)


def recolour(
    points: Tensor, x: Tensor, epsilon: Tensor, sizes: Tensor, left: Tensor, drawn: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """Sets one square of each channel to x plus or minus epsilon, in place. Algorithm 2 of the paper.

    Args:
        points: Current perturbed images, (N, C, H, W), contiguous.
        x: Clean images, (N, C, H, W), contiguous.
        epsilon: Radius of each image's ball, (N, 1, 1, 1), in pixel units.
        sizes: Size of the current perturbations, (N,). Not used in Linf.
        left: Indices of the images to change, (M,).
        drawn: Random numbers in [0, 1), (M, 5 + C): two for each of two positions, one for the orientation of a bump, and
            one for the sign in each channel. Linf does not use the second position and the orientation.
        side: Side of the square, in pixels.

    Returns:
        Flat indices of the changed pixels, (M, C, P), and their previous values, same shape, to undo the change.
    """
    square = squares(x, left, drawn[:, :2], side)
    before = points.view(-1)[square]
    change = random_signs(drawn[:, 5:, None]).to(x.dtype) * epsilon[left].view(-1, 1, 1)
    points.view(-1)[square] = (x.view(-1)[square] + change).clamp(0, 1)
    return square, before


def tiles(x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
    """Returns images plus a perturbation of L2 length epsilon, shaped like x: a grid of bumps with random signs."""
    return (x + epsilon * L2().ascent(tiled(x, noise, power=2))).clamp(0, 1)


def shift(
    points: Tensor, x: Tensor, epsilon: Tensor, sizes: Tensor, left: Tensor, drawn: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """Moves the L2 budget of one square into another square and adds a bump there, in place. Algorithm 3 of the paper.

    Arguments and return values are those of `recolour`.
    """
    into, out = squares(x, left, drawn[:, :2], side), squares(x, left, drawn[:, 2:4], side)
    now, clean = points.view(-1), x.view(-1)
    before_into, before_out = now[into], now[out]
    unused = (epsilon[left].flatten() ** 2 - sizes[left] ** 2).clamp(min=0).view(-1, 1, 1)
    old = before_into - clean[into]
    freed = (before_out - clean[out]).square().sum(2, keepdim=True)
    now[out] = clean[out]
    freed = freed + (now[into] - clean[into]).square().sum(2, keepdim=True)
    bump = drawn_bumps(x, drawn, side, power=2)
    fresh = unit(bump + unit(old, 2), 2) * (freed + unused / x.shape[1]).sqrt()
    now[into] = (clean[into] + fresh).clamp(0, 1)
    # Where the two squares overlap, both hold the same previous pixel values.
    return torch.cat([into, out], 2), torch.cat([before_into, before_out], 2)


# The start and the moves of each norm.
MOVES = {"linf": (stripes, recolour), "l2": (tiles, shift), "l1": (sparse_tiles, sparse_shift)}
