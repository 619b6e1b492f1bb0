"""Steps that cross the boundary of a network's linearisation: the length that is added to them, and checks of settings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evaluators.attacks.settings import check_counts


def check_overshoot(steps: int, overshoot: float) -> None:
    """Checks the number of steps, and the share by which they are lengthened.

    Raises:
        ValueError: steps is below 1, or overshoot is negative or not finite.
    """
    check_counts(steps=steps)
    if not 0 <= overshoot < math.inf:
        raise ValueError(f"overshoot must be a finite number of at least 0, got {overshoot}")


def addition(distance: Tensor, size: Tensor, ties: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the length that is added to a step, (N,), and the number of ties so far, (N,).

    Clipped pixels shorten every step, so that the boundary might never be reached. Each step is therefore longer by a
    thousandth of the perturbation's size. Where two logits are equal (by rounding), the distance is 0. Then the size counts
    as at least eps, and the addition doubles with each step until the logits differ.

    Args:
        distance: Distance from the boundary of the linearisation, (N,).
        size: Size of the perturbation, (N,).
        ties: Number of steps in a row at which the distance was 0, (N,).
    """
    ties = torch.where(distance == 0, ties + 1, 0)
    size = torch.where(ties > 0, size.clamp(min=torch.finfo(size.dtype).eps), size)
    return size / 1000 * (2.0**ties).to(size.dtype), ties
