"""Auto-PGD in L1: sparse gradient steps with an adaptive number of pixels and an adaptive step size.

Not to be confused with `climb` of apgd.py, the algorithm for Linf and L2, which takes dense steps with momentum.

Source: Croce and Hein, "Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers", ICML 2021,
arXiv:2103.01208.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evaluators.engine.l1_steps import sparse_step
from evaluators.norms import L1, broadcast_per_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from evaluators.engine.noise import ImageNoise

# Radii of the balls of the three phases as multiples of epsilon, and the share of the steps in each phase.
PHASES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
# A step changes this share of the pixels at first. Later, it changes as many as the best point, divided by SPARSER.
FIRST_SHARE, SPARSER = 0.2, 1.5
# The step size is reset where the best point has fewer than this share of the changed pixels at the checkpoint before.
FEWER = 0.95
# The step size is divided by the first number at most checkpoints, and is at least epsilon divided by the second one.
SMALLER_STEP, SMALLEST_STEP = 1.5, 10.0


def climb_l1(
    ascend: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, epsilon: Tensor, noise: ImageNoise, *, steps: int
) -> tuple[Tensor, Tensor]:
    """Returns the point of largest loss of one run within epsilon, (N, ...), and that loss, (N,).

    The first steps search larger balls, of three and two times epsilon. The point of largest loss is then projected onto the
    next smaller ball, where the search continues. If `GradientOracle` drops a fooled image, the loss is infinite and the
    gradient zero there. The image's final point is then ignored.

    Args:
        ascend: Function that returns the loss, (N,), and its gradient, (N, ...), at points (N, ...).
        x: Clean images, (N, ...).
        epsilon: Radius of each image's ball, (N, 1, ...), in pixel units.
        noise: Random numbers for the start.
        steps: Number of gradient steps of all phases.
    """
    points, sparsity, done = x + noise.normal(x), torch.full((len(x),), FIRST_SHARE * x[0].numel(), device=x.device), 0
    value = x.new_zeros(len(x))
    for number, (multiple, part) in enumerate(PHASES):
        last = number == len(PHASES) - 1
        count = steps - done if last else int(part * steps)
        if count == 0:
            continue
        done += count
        ball = multiple * epsilon
        start = L1().inside(x, points - x, ball)
        if number:
            sparsity = _changed(start, x) / SPARSER
        points, value = _phase(ascend, x, start, ball, sparsity, steps=count, every=max(int(0.04 * steps), 1))
    return points, value


def _phase(
    ascend: Callable[[Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    start: Tensor,
    ball: Tensor,
    sparsity: Tensor,
    *,
    steps: int,
    every: int,
) -> tuple[Tensor, Tensor]:
    """Returns the point of largest loss in a ball of fixed radius, (N, ...), and that loss, (N,). Algorithm 1 of the paper.

    Args:
        ascend: As for `climb_l1`.
        x: Clean images, (N, ...).
        start: First points, shaped like x, in the ball and the pixel range.
        ball: Radius of each image's ball, (N, 1, ...), in pixel units.
        sparsity: Number of pixels that the first steps change, (N,), rounded to whole pixels, but at least 1.
        steps: Number of gradient steps.
        every: Number of steps between two checkpoints.
    """
    points = start
    value, gradient = ascend(points)
    best, best_points, best_gradient = value, points, gradient
    largest = ball.flatten()
    length, changed = largest, torch.full_like(sparsity, x[0].numel())
    for number in range(1, steps + 1):
        moved = points + broadcast_per_image(length, x) * sparse_step(points, gradient, sparsity.round().long().clamp(min=1))
        points = L1().inside(x, moved - x, ball)
        value, gradient = ascend(points)
        better = broadcast_per_image(value > best, x)
        best = torch.maximum(value, best)
        best_points = torch.where(better, points, best_points)
        best_gradient = torch.where(better, gradient, best_gradient)
        if number % every == 0:
            now = _changed(best_points, x)
            sparser = now < FEWER * changed
            length = torch.where(sparser, largest, torch.maximum(length / SMALLER_STEP, largest / SMALLEST_STEP))
            sparsity, changed = now / SPARSER, now
            again = broadcast_per_image(sparser, x)
            points, gradient = torch.where(again, best_points, points), torch.where(again, best_gradient, gradient)
    return best_points, best


def _changed(points: Tensor, x: Tensor) -> Tensor:
    """Returns the number of pixels that differ from x, (N,) float32."""
    return (points != x).flatten(1).float().sum(1)
