"""Adversarial error over a union of balls, one for each norm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluators.curves.error_curves import ROUNDING, Floats, error_curve

if TYPE_CHECKING:
    from evaluators.profiles.record import RobustnessProfile


def check_union(union: Mapping[str, float] | None) -> None:
    """Checks the epsilons of a union of norms.

    Raises:
        TypeError: they are not a mapping of numbers.
        ValueError: there are fewer than two norms, or an epsilon is not above 0 and finite.
    """
    if union is None:
        return
    if not isinstance(union, Mapping) or not all(isinstance(epsilon, int | float) for epsilon in union.values()):
        raise TypeError(f"union must be a mapping such as {{'linf': 8 / 255, 'l2': 0.5}}, got {union!r}")
    if len(union) < 2:
        raise ValueError(f"union must hold an epsilon for each of at least two norms, got {dict(union)}")
    for norm, epsilon in union.items():
        if not 0 < epsilon < math.inf:
            raise ValueError(f"union.{norm} must be an epsilon above 0 in pixel units (8/255, not 8), got {epsilon:g}")


def union_entry(worst: Mapping[str, Floats], union: Mapping[str, float]) -> dict[str, Any]:
    """Returns the entry `union` of a profile: the epsilons, the error and its 95 % interval.

    An image is wrong if it is misclassified, or if an attack of any norm fools it within the epsilon of its norm.

    Args:
        worst: Smallest radius of each image over the attacks of a norm, (N,), in pixel units, by name of the norm.
        union: Epsilon of each norm, in pixel units. The radii must have been measured at it.
    """
    wrong = np.any([worst[norm] <= epsilon * ROUNDING for norm, epsilon in union.items()], axis=0)
    clean = next(iter(worst.values())) == 0
    curve = error_curve(np.where(clean, 0.0, np.where(wrong, 1.0, math.inf)), [1.0])
    return {
        "epsilons": {norm: float(epsilon) for norm, epsilon in union.items()},
        "error": float(curve.error[0]),
        "interval": [float(bound) for bound in curve.error_interval[0]],
    }


def error_over_union(profile: RobustnessProfile, epsilon: float, norm: str) -> float:
    """Returns the adversarial error over the union of a profile; at one epsilon of one norm if the profile has no union.

    Args:
        profile: The profile.
        epsilon: Epsilon without a union, in pixel units.
        norm: Name of its norm.
    """
    union = profile.record.get("union")
    return profile.error_at(epsilon, norm) if union is None else float(union["error"])
