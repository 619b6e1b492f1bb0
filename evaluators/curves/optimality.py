"""The optimality of an attack: how near its error curve is to the best one known for the network.

Source: Cinà et al., "AttackBench: Evaluating Gradient-based Attacks for Adversarial Examples", AAAI 2025, arXiv:2404.19460.
There, the curves are those of the accuracy. Here, the largest epsilon is given instead of the one at which the best curve
reaches an accuracy of 0.
"""

from __future__ import annotations

import math

import numpy as np

from evaluators.curves.error_curves import Floats, check_radii


def optimality(radii: Floats, best: Floats, largest: float) -> float | None:
    """Returns the area under the error curve of an attack, over the area under the best curve, between 0 and 1.

    The areas are taken over epsilon from 0 to `largest`, above the clean error. An optimality of 1 means that the attack is
    as good as the best curve on every image; 0 means that it fools no image.

    Args:
        radii: Radius of each image under the attack, in pixel units, (N,).
        best: Smallest radius of each image that is known, (N,), at most `radii`.
        largest: Largest epsilon, in pixel units.

    Returns:
        The optimality; None if the best curve has no area, as no image is fooled below `largest`.

    Raises:
        ValueError: a radius is negative or NaN, the shapes differ, a radius is below the best one, or largest is not above 0
            and finite.

    Example:
        >>> from evaluators.curves.optimality import optimality
        >>> optimality([0.25, 0.5], best=[0.25, 0.25], largest=0.75)
        0.75
    """
    radii, best = check_radii(radii), check_radii(best)
    if not 0 < largest < math.inf:
        raise ValueError(f"largest must be an epsilon above 0 and finite, got {largest:g}")
    if radii.shape != best.shape:
        raise ValueError(f"best must have one radius per image, ({len(radii)},), got shape {best.shape}")
    if (radii < best).any():
        number = int((radii < best).argmax())
        raise ValueError(f"best must be at most radii, got {best[number]:g} and {radii[number]:g} for image {number}")
    areas = [(largest - np.minimum(values[best > 0], largest)).sum() for values in (radii, best)]
    return float(areas[0] / areas[1]) if areas[1] > 0 else None
