"""HopSkipJump.

Source: Chen, Jordan and Wainwright, "HopSkipJumpAttack: A Query-Efficient Decision-Based Attack", S&P 2020,
arXiv:1904.02144.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evaluators.attacks.base import MinimumNorm
from evaluators.attacks.bisection import bisect
from evaluators.norms import L2, Linf, Norm, broadcast_per_image

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise

# Decisions set aside for the first misclassified point, and for the length of each step.
STARTS, LENGTHS = 30, 10


@final
@dataclass(frozen=True, kw_only=True)
class HopSkipJump(MinimumNorm):
    """Walks along the boundary towards the image, told nothing but whether points are misclassified.

    Each turn probes around a point on the boundary for the direction in which points become misclassified, steps that way,
    and halves its way back to the boundary. It sees neither gradients nor logits, so that what hides those cannot fool it.
    An image for which no start is found is given up. Unlike in the paper, every part of a turn has a fixed share of the
    queries, so that no image's result depends on the others of its batch.

    Attributes:
        norm: What is minimised, linf or l2.
        queries: Largest number of decisions about an image; below a thousand it does not get near.
        probes: Number of random probes in the first turn; it grows as the square root of the turn.

    Raises:
        ValueError: queries is below 100, which one turn may need, or probes is below 1.
    """

    norm: Norm = Linf()
    queries: int = 1000
    probes: int = 100

    def __post_init__(self) -> None:
        if self.queries < 100:
            raise ValueError(f"queries must be at least 100, which one turn may need, got {self.queries}")
        if self.probes < 1:
            raise ValueError(f"probes must be at least 1, got {self.probes}")

    def minimise(self, target: GradientOracle, x: Tensor, noise: ImageNoise) -> None:
        """Asks about points on the boundary, nearer and nearer to x, and about the probes around them."""
        pixels = x[0].numel()
        # The paper's precision, theta = pixels^-3/2 in L2 and pixels^-2 in Linf, as far as single precision can follow.
        halvings = min(math.ceil((2 if self.norm == Linf() else 1.5) * math.log2(pixels)), 24)
        points = bisect(target, self.norm, x, self._start(target, x, noise), halvings)
        left, turn = self.queries - STARTS - halvings, 1
        while (probes := min(round(self.probes * math.sqrt(turn)), left - LENGTHS - halvings)) > 0:
            size = self.norm.size(points - x)
            direction = estimate_direction(target, self.norm, points, size / pixels, probes, noise.fork(turn))
            points = search_step(target, points, direction, size / math.sqrt(turn))
            points = bisect(target, self.norm, x, points, halvings)
            left, turn = left - probes - LENGTHS - halvings, turn + 1

    def _start(self, target: GradientOracle, x: Tensor, noise: ImageNoise) -> Tensor:
        """Returns a misclassified point for each image, (N, ...); the image itself where it is wrong, or none is found."""
        points, misclassified = x, target.wrong(x)
        for draw in range(STARTS - 1):
            if misclassified.all():
                break
            # To many networks all noise is of one class: after it come black and white pixels, and a plain grey, in turn.
            pixels = noise.uniform(x, draw)
            tried = (pixels, pixels.round(), broadcast_per_image(pixels.flatten(1)[:, 0], x).expand_as(x))[draw % 3]
            wrong = target.wrong(tried) & ~misclassified
            points, misclassified = torch.where(broadcast_per_image(wrong, x), tried, points), misclassified | wrong
        return points


def estimate_direction(
    target: GradientOracle, norm: Norm, points: Tensor, width: Tensor, probes: int, noise: ImageNoise
) -> Tensor:
    """Returns the step of size 1 towards misclassified points, from random probes at a distance width (N,)."""
    moves, gains, mean = torch.zeros_like(points), torch.zeros_like(points), torch.zeros_like(width)
    for draw in range(probes):
        probe = (points + broadcast_per_image(width, points) * L2().ascent(noise.normal(points, draw))).clamp(0, 1)
        move = probe - points
        answer = torch.where(target.wrong(probe), 1.0, -1.0).to(points.dtype)
        moves, gains, mean = moves + move, gains + broadcast_per_image(answer, points) * move, mean + answer / probes
    # The mean answer is the baseline that lowers the variance, except where all answers are the same.
    baseline = torch.where(mean.abs() > 1 - 0.5 / probes, 0, mean)
    return norm.ascent(gains - broadcast_per_image(baseline, points) * moves)


def search_step(target: GradientOracle, points: Tensor, direction: Tensor, length: Tensor) -> Tensor:
    """Returns misclassified points along the direction, at the first of length, length / 2, ... that has one."""
    arrived = torch.zeros_like(length, dtype=torch.bool)
    for _ in range(LENGTHS):
        ahead = (points + broadcast_per_image(length, points) * direction).clamp(0, 1)
        wrong = target.wrong(ahead) & ~arrived
        points, arrived, length = (
            torch.where(broadcast_per_image(wrong, points), ahead, points),
            arrived | wrong,
            length / 2,
        )
        if arrived.all():
            break
    return points
