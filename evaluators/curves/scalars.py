"""Scalar metrics of radii: one number an error curve, for searches and tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from evaluators.curves.error_curves import Floats, check_radii, error_curve

if TYPE_CHECKING:
    from collections.abc import Sequence


def error_at(radii: Floats, epsilon: float) -> float:
    """Returns the adversarial error at epsilon: the share of radii (N,) at most epsilon.

    Raises:
        ValueError: there are no radii, one is negative or NaN, or epsilon is negative or not finite.
    """
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon must be at least 0 and finite, got {epsilon:g}")
    return float(error_curve(radii, [epsilon]).error[0])


def median_radius(radii: Floats) -> float:
    """Returns the median of radii (N,), the upper one of two: infinite where fewer than half of the images are fooled.

    Raises:
        ValueError: there are no radii, or one is negative or NaN.
    """
    return float(np.quantile(check_radii(radii), 0.5, method="higher"))


def error_area(radii: Floats, epsilons: Sequence[float]) -> float:
    """Returns the area under the error curve of radii (N,) over log epsilon, as a share of the largest possible: 0 to 1.

    Exact for the step function between the smallest and the largest of the epsilons.

    Raises:
        ValueError: there are no radii, one is negative or NaN, or the epsilons do not span a range above 0.
    """
    radii = check_radii(radii)
    low, high = min(epsilons, default=0.0), max(epsilons, default=0.0)
    if not 0 < low < high < math.inf:
        raise ValueError(f"epsilons must span a range above 0, got {list(epsilons)}")
    clipped = np.clip(radii, low, high)
    return float((1 - np.log(clipped / low) / math.log(high / low)).mean())
