"""The surfaces of an image as plain data: what surface.json holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from evaluators import NoBound, describe

if TYPE_CHECKING:
    from evaluators.surface.lines import Line
    from evaluators.surface.planes import Surface
    from nas.surfaces import ImageSurfaces, Lead, Neighbourhood

SCHEMA = "hardcell-surface/1"


def surface_record(found: ImageSurfaces) -> dict[str, Any]:
    """Returns surfaces as plain data, for surface.json; numbers to six digits."""
    return {
        "schema": SCHEMA,
        "network": found.network,
        "data": found.data,
        "image": found.config.image,
        "label": found.label,
        "classes": list(found.classes),
        "margin": _rounded(found.margin),
        "confidence": _rounded(found.confidence),
        "attack": describe(found.config.attack),
        "epsilon": found.config.epsilon,
        "others": found.config.others and list(found.config.others),
        "seed": found.config.seed,
        "unit": "L2 distance, pixels in [0, 1]",
        "leads": {name: _plain(lead) for name, lead in found.leads.items()},
        "lines": {name: _plain(line) for name, line in found.lines.items()},
        "surfaces": {name: _plain(surface) for name, surface in found.surfaces.items()},
        "neighbourhood": found.neighbourhood and _around(found.neighbourhood),
        "notes": list(found.notes),
    }


def _around(found: Neighbourhood) -> dict[str, Any]:
    """Returns what lies around the adversarial image as plain data; of one image, hence the first row of each array."""
    balls, unproved = found.balls, isinstance(found.proved, NoBound)
    return {
        "norm": found.norm,
        "size": _rounded(found.size),
        "radii": _rounded(balls.radii),
        "samples": balls.samples,
        "adversarial": balls.counts[0].tolist(),
        "share": _rounded(balls.share[0]),
        "interval": _rounded(balls.interval[0]),
        "proved_radius": None if unproved else _rounded(found.proved),
        "no_bound": found.proved.reason if isinstance(found.proved, NoBound) else None,
    }


def _plain(found: Lead | Line | Surface) -> dict[str, Any]:
    return {name: _rounded(value) for name, value in asdict(found).items()}


def _rounded(value: Any) -> Any:
    """Returns arrays, and whatever holds them, as lists of numbers of six digits."""
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
