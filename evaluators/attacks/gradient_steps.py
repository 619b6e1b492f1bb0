"""The loop shared by iterative attacks: normalised gradient steps, each followed by a projection onto the ball."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from evaluators.attacks.settings import check_counts

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from evaluators.norms import Norm


def check_steps(steps: int, step_size: float) -> None:
    """Checks the number of steps and the step size, which is a fraction of epsilon.

    Raises:
        ValueError: steps is below 1, or step_size is not positive and finite.
    """
    check_counts(steps=steps)
    if not 0 < step_size < math.inf:
        raise ValueError(f"step_size must be positive and finite, a fraction of epsilon, got {step_size}")


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
    """Returns the perturbation after a number of gradient steps, (N, ...). All points are in the ball and the pixel range.

    As in other libraries, the loop updates points, not perturbations. Perturbations would be rounded differently, and this
    difference could change the sign of gradients that are almost zero.

    Args:
        gradient: Function from points (N, ...) to the gradient of the maximised loss, same shape.
        norm: Shape of the ball.
        x: Clean images, (N, ...).
        start: First points, shaped like x, in the ball and the pixel range.
        epsilon: Radius of each image's ball, (N, 1, ...), in pixel units.
        steps: Number of gradient steps.
        step_size: Length of one step, as a fraction of epsilon.
    """
    points, step = start, step_size * epsilon
    for _ in range(steps):
        moved = points + step * norm.step(points, gradient(points))
        points = norm.inside(x, moved - x, epsilon)
    return points - x
