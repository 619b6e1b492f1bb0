"""The walk that the iterated attacks share: normalised steps up a loss, each followed by a projection."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from evaluators.norms import Norm


def check_steps(steps: int, step_size: float) -> None:
    """Checks the number of steps and the length of one, as a fraction of epsilon.

    Raises:
        ValueError: steps is below 1, or step_size is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 < step_size < math.inf:
        raise ValueError(f"step_size must be positive, a fraction of epsilon, got {step_size}")


def gradient_steps(
    gradient: Callable[[Tensor], Tensor],
    norm: Norm,
    x: Tensor,
    start: Tensor,
    epsilon: Tensor,
    *,
    steps: int,
    step_size: float,
) -> Tensor:
    """Returns the perturbation (N, ...) at the end of a walk from point to point, all in the ball and the pixel range.

    The points are what is carried from step to step, as in the libraries that others use: a perturbation carried instead
    rounds otherwise, which turns the sign of gradients that all but vanish.

    Args:
        gradient: Returns the gradient of the loss that the steps increase at points (N, ...), shaped alike.
        norm: Shape of the ball.
        x: Clean images, (N, ...).
        start: Where to begin, shaped like x, in the ball and the pixel range.
        epsilon: Radius of each image's ball, (N, 1, ...).
        steps: Number of gradient steps.
        step_size: Length of one step, as a fraction of epsilon.
    """
    points, step = start, step_size * epsilon
    for _ in range(steps):
        moved = points + step * norm.ascent(gradient(points))
        points = norm.inside(x, moved - x, epsilon)
    return points - x
