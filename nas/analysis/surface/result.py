"""The surfaces of an image, as data and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

from evaluators import describe
from evaluators.bounds import NoBound
from evaluators.regions import BallShares
from evaluators.surface.lines import BoundaryLine
from evaluators.surface.planes import Surface
from nas.analysis.surface.config import SurfaceConfig

SCHEMA = "hardcell-surface/1"


@final
@dataclass(frozen=True)
class Endpoint:
    """Where a direction leads.

    Attributes:
        label: The network's class there.
        l2: L2 size of the perturbation, in pixel units.
        linf: Its largest change of a pixel.
    """

    label: int
    l2: float
    linf: float


@final
@dataclass(frozen=True)
class Neighbourhood:
    """What lies around the adversarial image.

    Attributes:
        norm: Name of the attack's norm, in which it is measured.
        size: Of the perturbation, in that norm and in pixel units.
        balls: The share of balls around the adversarial image that stays adversarial, of any wrong class, by radius.
        proved: Radius within which every image provably has the class of the adversarial one, 0 where none is proved; or why
            nothing can be.
    """

    norm: str
    size: float
    balls: BallShares
    proved: float | NoBound


@final
@dataclass(frozen=True)
class ImageSurfaces:
    """The planes and lines through one image.

    Attributes:
        network: The network's name.
        data: The images' name.
        config: The settings.
        classes: Names of the classes.
        label: The image's true label, which the network gives it.
        margin: Of the clean image: its logit minus the largest other.
        confidence: Of the clean image.
        endpoints: Where each direction leads, by its name: adversarial, second adversarial, random, second random.
        lines: The line along each direction, by its name.
        surfaces: The planes, by name: adversarial_random or two_random, two_adversarial, three_images.
        neighbourhood: What lies around the image to which the adversarial direction leads; None where there is none, or it
            was not measured.
        notes: What is missing, and why.
    """

    network: str
    data: str
    config: SurfaceConfig
    classes: tuple[str, ...]
    label: int
    margin: float
    confidence: float
    endpoints: Mapping[str, Endpoint]
    lines: Mapping[str, BoundaryLine]
    surfaces: Mapping[str, Surface]
    neighbourhood: Neighbourhood | None
    notes: tuple[str, ...]


def surface_record(surfaces: ImageSurfaces) -> dict[str, Any]:
    """Returns the content of surface.json: plain data, numbers to six digits."""
    return {
        "schema": SCHEMA,
        "network": surfaces.network,
        "data": surfaces.data,
        "image": surfaces.config.image,
        "label": surfaces.label,
        "classes": list(surfaces.classes),
        "margin": _rounded(surfaces.margin),
        "confidence": _rounded(surfaces.confidence),
        "attack": describe(surfaces.config.attack),
        "epsilon": surfaces.config.epsilon,
        "others": surfaces.config.others and list(surfaces.config.others),
        "seed": surfaces.config.seed,
        "unit": "L2 distance, pixels in [0, 1]",
        "leads": {name: _plain(endpoint) for name, endpoint in surfaces.endpoints.items()},
        "lines": {name: _plain(line) for name, line in surfaces.lines.items()},
        "surfaces": {name: _plain(surface) for name, surface in surfaces.surfaces.items()},
        "neighbourhood": surfaces.neighbourhood and _around(surfaces.neighbourhood),
        "notes": list(surfaces.notes),
    }


def _around(neighbourhood: Neighbourhood) -> dict[str, Any]:
    """Returns what lies around the adversarial image as plain data; of one image, hence the first row of each array."""
    balls, unproved = neighbourhood.balls, isinstance(neighbourhood.proved, NoBound)
    return {
        "norm": neighbourhood.norm,
        "size": _rounded(neighbourhood.size),
        "radii": _rounded(balls.radii),
        "samples": balls.samples,
        "adversarial": balls.counts[0].tolist(),
        "share": _rounded(balls.share[0]),
        "interval": _rounded(balls.interval[0]),
        "proved_radius": None if unproved else _rounded(neighbourhood.proved),
        "no_bound": neighbourhood.proved.reason if isinstance(neighbourhood.proved, NoBound) else None,
    }


def _plain(part: Endpoint | BoundaryLine | Surface) -> dict[str, Any]:
    return {name: _rounded(value) for name, value in asdict(part).items()}


def _rounded(value: Any) -> Any:
    """Returns arrays, and whatever holds them, as lists of numbers of six digits."""
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
