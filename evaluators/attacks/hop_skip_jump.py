"""HopSkipJump: a decision-based attack, which uses only the predicted class.

Not to be confused with `Square`, which uses the logits and needs an epsilon.

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
from evaluators.attacks.settings import check_counts
from evaluators.attacks.supported_norms import check_not_l1
from evaluators.norms import L2, Linf, Norm, broadcast_per_image

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise

# Queries reserved for the search of the first misclassified point, and for the search of each step length.
STARTS, LENGTHS = 30, 10


@final
@dataclass(frozen=True, kw_only=True)
class HopSkipJump(MinimumNorm):
    """HopSkipJump: steps along the decision boundary towards the image. It uses only the predicted class.

    Each iteration has three parts. Random probes around a point on the boundary estimate the direction towards
    misclassified points. A step follows this direction. A bisection returns to the boundary. The attack uses neither
    gradients nor logits, so gradient masking does not affect it. It fails on images for which no misclassified start is
    found.

    Unlike in the paper, each part of an iteration has a fixed number of queries. The result of an image therefore does not
    depend on the other images of its batch.

    Attributes:
        norm: Norm to minimise, linf or l2.
        queries: Largest number of queries per image. With fewer than 1000, the perturbations found are much larger
            than the smallest ones.
        probes: Number of random probes in the first iteration. Iteration i uses sqrt(i) times as many, if enough queries are
            left.

    Raises:
        ValueError: norm is l1, queries is below 100, which may not suffice for one iteration, or probes is below 1.
    """

    norm: Norm = Linf()
    queries: int = 1000
    probes: int = 100

    def __post_init__(self) -> None:
        check_not_l1(self.norm, "HopSkipJump")
        if self.queries < 100:
            raise ValueError(f"queries must be at least 100, so that one iteration is possible, got {self.queries}")
        check_counts(probes=self.probes)

    def minimise(self, target: GradientOracle, x: Tensor, noise: ImageNoise) -> None:
        """Runs iterations until the queries are used up. Each iteration looks for points on the boundary nearer to x."""
        pixels = x[0].numel()
        # The bisection stops at the paper's precision theta, pixels^(-3/2) in L2 and pixels^(-2) in Linf, but at the
        # latest after 24 halvings, the precision of float32.
        halvings = min(math.ceil((2 if self.norm == Linf() else 1.5) * math.log2(pixels)), 24)
        points = bisect(target, self.norm, x, self._start(target, x, noise), halvings)
        left, iteration = self.queries - STARTS - halvings, 1
        while (probes := min(round(self.probes * math.sqrt(iteration)), left - LENGTHS - halvings)) > 0:
            size = self.norm.size(points - x)
            direction = estimate_direction(target, self.norm, points, size / pixels, probes, noise.fork(iteration))
            points = search_step(target, points, direction, size / math.sqrt(iteration))
            points = bisect(target, self.norm, x, points, halvings)
            left, iteration = left - probes - LENGTHS - halvings, iteration + 1

    def _start(self, target: GradientOracle, x: Tensor, noise: ImageNoise) -> Tensor:
        """Returns a start for each image, (N, ...): a misclassified point, or the image itself if none is found.

        An image that is misclassified is its own start.
        """
        points, misclassified = x, target.wrong(x)
        for draw in range(STARTS - 1):
            if misclassified.all():
                break
            # Many networks predict one class for all noise images. The starts therefore alternate between noise, black and
            # white pixels, and a constant random grey.
            pixels = noise.uniform(x, draw)
            tried = (pixels, pixels.round(), broadcast_per_image(pixels.flatten(1)[:, 0], x).expand_as(x))[draw % 3]
            wrong = target.wrong(tried) & ~misclassified
            points, misclassified = torch.where(broadcast_per_image(wrong, x), tried, points), misclassified | wrong
        return points


def estimate_direction(
    target: GradientOracle, norm: Norm, points: Tensor, width: Tensor, probes: int, noise: ImageNoise
) -> Tensor:
    """Returns the estimated direction towards misclassified points, (N, ...), of size 1.

    Args:
        target: The attacked network.
        norm: Norm in which the direction has size 1.
        points: Points on the decision boundary, (N, ...).
        width: L2 distance of the probes from the points, (N,).
        probes: Number of random probes.
        noise: Random numbers of the probes.
    """
    moves, gains, mean = torch.zeros_like(points), torch.zeros_like(points), torch.zeros_like(width)
    for draw in range(probes):
        probe = (points + broadcast_per_image(width, points) * L2().ascent(noise.normal(points, draw))).clamp(0, 1)
        move = probe - points
        answer = torch.where(target.wrong(probe), 1.0, -1.0).to(points.dtype)
        moves, gains, mean = moves + move, gains + broadcast_per_image(answer, points) * move, mean + answer / probes
    # An answer is 1 for a misclassified probe, else -1. Subtracting the mean answer lowers the variance. Where all answers
    # are equal, the estimate would then be zero, so nothing is subtracted.
    baseline = torch.where(mean.abs() > 1 - 0.5 / probes, 0, mean)
    return norm.ascent(gains - broadcast_per_image(baseline, points) * moves)


def search_step(target: GradientOracle, points: Tensor, direction: Tensor, length: Tensor) -> Tensor:
    """Moves points along a direction by length, length / 2, ... until they are misclassified, and returns them, (N, ...).

    At most `LENGTHS` lengths are tried. A point for which no length succeeds stays unchanged.

    Args:
        target: The attacked network.
        points: Points, (N, ...).
        direction: Direction of each point, (N, ...).
        length: First step length of each point, (N,).
    """
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
