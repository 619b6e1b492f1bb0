"""Response surfaces of an image, as data and as JSON."""

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
    """End point of a direction: the image plus a perturbation.

    Attributes:
        label: Class that the network predicts at the end point.
        l2: L2 norm of the perturbation, in pixel units.
        linf: L∞ norm of the perturbation, in pixel units.
    """

    label: int
    l2: float
    linf: float


@final
@dataclass(frozen=True)
class Neighbourhood:
    """Measurements in balls around the adversarial image.

    Attributes:
        norm: Name of the attack's norm, which is the norm of the balls.
        size: Size of the perturbation in that norm, in pixel units.
        balls: Share of each ball around the adversarial image that is adversarial too (any wrong class), by radius.
        proved: Radius, in pixel units, within which all images provably have the class of the adversarial image; 0 if the
            bounds prove no radius; `NoBound` with the reason if no bound exists.
    """

    norm: str
    size: float
    balls: BallShares
    proved: float | NoBound


@final
@dataclass(frozen=True)
class ImageSurfaces:
    """Planes and lines through one image.

    Attributes:
        network: Name of the network.
        data: Name of the data.
        config: Settings.
        classes: Names of the classes.
        label: True label of the image, which the network predicts for the clean image.
        margin: Margin of the clean image: logit of the true label minus the largest other logit.
        confidence: Confidence of the clean image, its largest softmax probability.
        endpoints: End point of each direction, by name: adversarial, second adversarial, random, second random.
        lines: Line along each direction, by the direction's name.
        surfaces: Planes by name: adversarial_random or two_random, two_adversarial, three_images.
        neighbourhood: Measurements around the adversarial image; None if there is no such image or no measurement.
        notes: Missing parts, with reasons.
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
    """Returns the content of surface.json: plain data, with numbers rounded to six digits."""
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
    """Returns the neighbourhood as plain data. It has one image, so the first row of each array is used."""
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
    """Returns nested data with arrays as lists and floats rounded to six digits."""
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
