"""The walk that the iterated attacks share: normalised steps up a loss, each followed by a projection."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.losses import Loss
    from evaluators.attacks.target import Target
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


def walk(
    target: Target,
    norm: Norm,
    x: Tensor,
    delta: Tensor,
    epsilon: Tensor,
    loss: Loss,
    *classes: Tensor,
    steps: int,
    step_size: float,
) -> Tensor:
    """Returns the perturbation (N, ...) at the end of a walk that begins at delta, with x + delta in the pixel range.

    Args:
        target: Answers with gradients.
        norm: Shape of the ball.
        x: Clean images, (N, ...).
        delta: Where to begin, shaped like x.
        epsilon: Radius of each image's ball, (N, 1, ...).
        loss: What the steps increase.
        classes: Further class indices for the loss, (N,) each.
        steps: Number of gradient steps.
        step_size: Length of one step, as a fraction of epsilon.
    """
    for _ in range(steps):
        gradient = target.gradient(x + delta, loss, *classes)
        delta = delta + step_size * epsilon * norm.ascent(gradient)
        delta = norm.project(delta, epsilon)
        delta = (x + delta).clamp(0, 1) - x
    return delta
