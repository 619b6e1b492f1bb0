"""What a profile keeps of logit differences: how they are distributed, and the error curves that theory makes of them."""

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

# Densities are kept of the differences to this many of the nearest rivals.
RIVALS_DRAWN = 3


def margins_record(
    margins: Margins, logits: Floats, grids: Mapping[str, Sequence[float]], worst: Mapping[str, Floats]
) -> dict[str, Any]:
    """Returns the entry `margins` of a profile, as plain data.

    Args:
        margins: The logit differences of the clean images.
        logits: Of these, (N, K).
        grids: The epsilons of each norm, by its name.
        worst: Radii under the worst case of the norm's attacks, (N,), by the norm's name.
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
        },
    }


def _nearest(logits: Floats) -> dict[str, Any] | None:
    """Returns how the differences between the two largest logits are distributed; None where all of them are 0."""
    differences, independent = (
        logit_differences(class_logits)[:, 0] for class_logits in (logits, independent_logits(logits))
    )
    if not (differences > 0).any() or not (independent > 0).any():
        return None
    return {
        # In units of one over their mean.
        "near_zero": asdict(near_zero(differences)),
        "distance_to_independent": shape_distance(differences, independent),
    }


def _finite_median(values: Floats) -> float | None:
    """Returns the median, or None where there is none or it is infinite."""
    median = float(np.median(values)) if len(values) else math.inf
    return median if math.isfinite(median) else None


def _densities(margins: Margins) -> dict[str, list[float]] | None:
    """Returns the densities of the differences to the three nearest rivals, on one grid from 0 to where most lie."""
    right = margins.differences[margins.right][:, :RIVALS_DRAWN]
    if len(right) < 10:
        return None
    at = np.linspace(0, max(float(np.quantile(right, 0.99)), 1e-6), 60)
    drawn = {f"rival_{j + 1}": margin_density(right[:, j], at) for j in range(right.shape[1])}
    return {"at": at.tolist()} | {name: density.tolist() for name, density in drawn.items() if density is not None}
