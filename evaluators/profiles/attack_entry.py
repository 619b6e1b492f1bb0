"""The entry of an attack in a profile, computed from the radii of the images."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluators.curves.error_curves import error_curve
from evaluators.curves.scalars import error_area, median_radius
from evaluators.profiles.law_entries import law_entries
from evaluators.profiles.union import union_entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evaluators.curves.error_curves import Floats
    from evaluators.profiles.record import RobustnessProfile

# Allowed relative or absolute difference of numbers that are computed again, perhaps with other versions of numpy and scipy.
TOLERANCE = 1e-4


def attack_entry(radii: Floats, epsilons: Sequence[float], *, exact: bool) -> dict[str, Any]:
    """Returns the entry of an attack in `record["attacks"]` without the attack's settings.

    Args:
        radii: Radius of each image, (N,), in pixel units.
        epsilons: Epsilons of the grid, ascending, in pixel units.
        exact: Whether the radii are exact, not only epsilons of the grid.
    """
    curve = error_curve(radii, epsilons)
    median = median_radius(radii)
    finite = curve.right > 0
    positive = [epsilon for epsilon in epsilons if epsilon > 0]
    return {
        "epsilons": list(epsilons),
        "error": curve.error.tolist(),
        "error_interval": curve.error_interval.tolist(),
        "flip_rate": curve.flip_rate.tolist() if finite else None,
        "flip_interval": curve.flip_interval.tolist() if finite else None,
        "median_radius": median if math.isfinite(median) else None,
        "error_area": error_area(radii, positive) if len(positive) > 1 else None,
        **law_entries(radii, epsilons, exact=exact),
        # Share of the correctly classified images that the attack fools.
        "success_rate": float(np.isfinite(radii[radii > 0]).mean()) if finite else 0.0,
    }


def disagreements(profile: RobustnessProfile) -> list[str]:
    """Returns the places in profile.json that disagree with radii.npz.

    The clean error, all numbers of the attacks, the laws of the worst cases, and the error over a union are computed again.
    """
    record, exact = profile.record, profile.record["tolerance"] is not None
    clean_error = float((next(iter(profile.radii.values())) == 0).mean())
    wrong = _differences(record["clean_error"], clean_error, "clean_error")
    for name, entry in record["attacks"].items():
        try:
            computed = attack_entry(profile.radii[name], entry["epsilons"], exact=exact)
        except ValueError:
            wrong.append(f"attacks.{name}.epsilons")
            continue
        for key, value in json.loads(json.dumps(computed)).items():
            if key == "power_law" and entry[key].keys() == {"reason"} and value["fit"] == "rejected":
                continue  # An older version of Hardcell stored a rejected law as a reason in words, which is not compared.
            if key in entry:  # A profile of an older version of Hardcell may lack the key.
                wrong += _differences(entry[key], value, f"attacks.{name}.{key}")
    for norm, entry in (record.get("worst_case") or {}).items():
        if grid := profile.epsilons(norm):
            computed = law_entries(profile.worst_case(norm), grid, exact=exact)
            wrong += _differences(entry, json.loads(json.dumps(computed)), f"worst_case.{norm}")
        else:
            wrong.append(f"worst_case.{norm}")
    if (union := record.get("union")) is not None:
        try:
            worst = {norm: profile.worst_case(norm) for norm in union["epsilons"]}
        except ValueError:
            return [*wrong, "union.epsilons"]
        wrong += _differences(union, union_entry(worst, union["epsilons"]), "union")
    return wrong


def _differences(stored: Any, computed: Any, place: str) -> list[str]:
    """Returns the places where two trees of plain data differ."""
    if isinstance(computed, dict) and isinstance(stored, dict):
        if stored.keys() - computed.keys():
            return [place]
        both = [key for key in computed if key in stored]
        return [wrong for key in both for wrong in _differences(stored[key], computed[key], f"{place}.{key}")]
    if isinstance(computed, list) and isinstance(stored, list) and len(computed) == len(stored):
        pairs = zip(stored, computed, strict=True)
        return [wrong for number, (a, b) in enumerate(pairs) for wrong in _differences(a, b, f"{place}[{number}]")]
    numbers = isinstance(stored, int | float) and isinstance(computed, int | float)
    if numbers and math.isclose(stored, computed, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        return []
    return [] if stored == computed else [place]
