"""Scalar metrics of radii: one number per error curve, for searches and tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from evaluators.curves.error_curves import Floats, check_radii, error_curve

if TYPE_CHECKING:
    from collections.abc import Sequence


def error_at(radii: Floats, epsilon: float) -> float:
    """Returns the adversarial error at epsilon, between 0 and 1: the share of radii of at most epsilon.

    Args:
        radii: One radius per image, in pixel units, (N,): 0 if misclassified when clean, infinite if never fooled.
        epsilon: Size of the perturbation, in pixel units.

    Raises:
        ValueError: radii is empty, a radius is negative or NaN, or epsilon is negative or not finite.

    Example:
        >>> from evaluators import error_at
        >>> error_at([0, 0.1, 0.2, float("inf")], epsilon=0.15)
        0.5
    """
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon must be at least 0 and finite, got {epsilon:g}")
    return float(error_curve(radii, [epsilon]).error[0])


def median_radius(radii: Floats) -> float:
    """Returns the median radius, in pixel units; infinite if fewer than half of the images are fooled.

    For an even number of images it is the larger of the two middle radii.

    Args:
        radii: One radius per image, (N,).

    Raises:
        ValueError: radii is empty, or a radius is negative or NaN.

    Example:
        >>> from evaluators import median_radius
        >>> median_radius([0, 0.1, 0.2, float("inf")])
        0.2
    """
    return float(np.quantile(check_radii(radii), 0.5, method="higher"))


def error_area(radii: Floats, epsilons: Sequence[float]) -> float:
    """Returns the mean adversarial error over log epsilon, between 0 and 1: the normalised area under the error curve.

    The error is a step function of epsilon. Its area between the smallest and the largest epsilon is computed exactly.

    Args:
        radii: One radius per image, in pixel units, (N,).
        epsilons: Epsilons above 0; only the smallest and the largest are used.

    Raises:
        ValueError: radii is empty, a radius is negative or NaN, or the epsilons do not span a finite range above 0.

    Example:
        >>> from evaluators import error_area
        >>> error_area([0.1, 0.1, float("inf"), float("inf")], epsilons=[0.01, 1])
        0.25
    """
    radii = check_radii(radii)
    low, high = min(epsilons, default=0.0), max(epsilons, default=0.0)
    if not 0 < low < high < math.inf:
        raise ValueError(f"epsilons must span a range above 0, got {list(epsilons)}")
    clipped = np.clip(radii, low, high)
    return float((1 - np.log(clipped / low) / math.log(high / low)).mean())
