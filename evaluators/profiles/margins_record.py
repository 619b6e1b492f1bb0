"""The entry `margins` of a profile: the distribution of logit differences and the error curves that they predict."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluators.curves.error_curves import Floats, error_curve
from evaluators.logits.differences import independent_logits, logit_differences, mean_field_radii, near_zero, shape_distance
from evaluators.logits.first_order import first_order_breakdown
from evaluators.logits.margin import density_at_zero, margin_density

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evaluators.logits.margin import Margins

# Number of nearest wrong classes with a recorded density of differences.
RIVALS_DRAWN = 3


def margins_record(
    margins: Margins,
    logits: Floats,
    grids: Mapping[str, Sequence[float]],
    worst: Mapping[str, Floats],
    *,
    gradients: bool = True,
) -> dict[str, Any]:
    """Returns the entry `margins` of a profile, as plain data.

    Args:
        margins: Margins of N clean images.
        logits: Logits of the same images, (N, K).
        grids: Grid of epsilons, in pixel units, by name of the norm.
        worst: Smallest radius of each image over the attacks of a norm, (N,), by name of the norm.
        gradients: Whether the network has gradients. Without them, `first_order` is empty.
    """
    return {
        "median": float(np.median(margins.margin)),
        "density_at_zero": density_at_zero(margins.margin),
        "densities": _densities(margins),
        "mean_entropy": float(margins.entropy.mean()),
        "nearest": _nearest(logits),
        "first_order": {
            name: {
                "median_radius": _finite_median(radii[margins.right]),
                "median_gradient": _finite_median(margins.gradient_norms[name][margins.right, 0]),
                "epsilons": list(grids[name]),
                "predicted_error": error_curve(radii, grids[name]).error.tolist(),
                "mean_field_error": error_curve(mean_field_radii(margins, name), grids[name]).error.tolist(),
                "parting_epsilon": first_order_breakdown(radii, worst[name], grids[name]),
            }
            for name, radii in margins.radii.items()
            if gradients
        },
    }


def _nearest(logits: Floats) -> dict[str, Any] | None:
    """Returns statistics of the differences between the two largest logits.

    Returns None if all differences are 0, of the logits or of the independent logits that they are compared with.
    """
    differences, independent = (
        logit_differences(class_logits)[:, 0] for class_logits in (logits, independent_logits(logits))
    )
    if not (differences > 0).any() or not (independent > 0).any():
        return None
    return {
        # The density is that of the differences divided by their mean.
        "near_zero": asdict(near_zero(differences)),
        "distance_to_independent": shape_distance(differences, independent),
    }


def _finite_median(values: Floats) -> float | None:
    """Returns the median, or None if it is infinite or there are no values."""
    median = float(np.median(values)) if len(values) else math.inf
    return median if math.isfinite(median) else None


def _densities(margins: Margins) -> dict[str, list[float]] | None:
    """Returns the densities of the differences to the three nearest wrong classes, on one grid up to the 99 % quantile.

    Returns None if fewer than 10 images are correctly classified.
    """
    right = margins.differences[margins.right][:, :RIVALS_DRAWN]
    if len(right) < 10:
        return None
    at = np.linspace(0, max(float(np.quantile(right, 0.99)), 1e-6), 60)
    drawn = {f"rival_{j + 1}": margin_density(right[:, j], at) for j in range(right.shape[1])}
    return {"at": at.tolist()} | {name: density.tolist() for name, density in drawn.items() if density is not None}
