"""Measuring a robustness profile."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluators.attacks import describe
from evaluators.attacks.base import check_attack
from evaluators.checks import check_attacks, check_network
from evaluators.corruptions import check_pictures, corruption_errors
from evaluators.cost import macs, parameters
from evaluators.curves.error_curves import Floats, error_curve, worst_case
from evaluators.curves.power_law import fit_power_law
from evaluators.curves.scalars import error_area, median_radius
from evaluators.engine.input_checks import as_grid, check_epsilons, check_images
from evaluators.engine.prepared import prepare
from evaluators.logits.margin import adaptive_epsilons, margins_of
from evaluators.profiles.margins_record import margins_record
from evaluators.profiles.record import SCHEMA, RobustnessProfile, check_names
from evaluators.radius import measure
from evaluators.smoothing import Certificates, check_sigma
from evaluators.smoothing import certify as run_certify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor, nn

    from evaluators.attacks import Attack
    from evaluators.norms import Norm


def profile(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    *,
    epsilons: Mapping[str, Sequence[float]] | None = None,
    include: Mapping[str, Iterable[float]] | None = None,
    tolerance: float | None = None,
    corruptions: bool = False,
    certify: float | None = None,
    dataset: str = "unnamed",
    split: str = "test",
    seed: int = 0,
    batch_size: int | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> RobustnessProfile:
    """Returns the robustness profile of a network on images x (N, C, H, W) with labels y (N,).

    Args:
        network: Maps images with pixels in [0, 1] to logits (N, K); left as it was.
        x: Clean images.
        y: True labels, int64.
        attacks: Attacks by the name that they get in the profile.
        epsilons: The grid of each norm by its name; where one is missing it is chosen from the first-order radii.
        include: Epsilons by norm that the grid must hold besides, for comparisons at one epsilon.
        tolerance: Bisects between the grid's points until each radius is known within this share of itself.
        corruptions: Measure the errors under common corruptions, too; images need one or three channels.
        certify: Certify L2 radii by randomised smoothing with noise of this standard deviation, too; None to leave it.
        dataset: Name for the record.
        split: Name for the record.
        seed: Seed of whatever the attacks draw.
        batch_size: Images in one pass; found from the memory that one image needs if None.
        progress: Called with what is being done and the share of the whole that is done, between 0 and 1.

    Raises:
        TypeError: x or y has the wrong type.
        ValueError: x, y or an epsilon is out of range, the network's output is not (N, K) logits, or an attack's name
            cannot be used.
    """
    norms = _check_settings(x, attacks, epsilons, include, corruptions=corruptions, certify=certify)
    stages = ["margins", *attacks, "checks", *["corruptions"] * corruptions, *["certificates"] * (certify is not None)]

    def part(stage: str) -> Callable[[float], None]:
        before = stages.index(stage)
        return lambda share: None if progress is None else progress(stage, (before + share) / len(stages))

    with prepare(network, x, y, batch_size) as prepared:
        part("margins")(0.0)
        found, logits = margins_of(prepared, list(norms.values())), prepared.logits.double().cpu().numpy()
        grids = {
            name: _grid(norm, found.radii[name], x[0].numel(), (epsilons or {}).get(name), (include or {}).get(name, ()))
            for name, norm in norms.items()
        }
        measured = {
            name: measure(
                prepared, attack, grids[attack.norm.name], tolerance=tolerance, seed=seed, progress=part(name)
            ).numpy()
            for name, attack in attacks.items()
        }
    # Out of the subject, which freezes the network: a check says in which mode it was handed over.
    part("checks")(0.0)
    outcomes = [
        *check_network(network, x, y, found, batch_size=batch_size),
        *check_attacks(network, x, y, attacks, measured, grids, batch_size=batch_size),
    ]
    part("checks")(1.0)
    worst = {name: worst_case([r for key, r in measured.items() if attacks[key].norm.name == name]) for name in norms}
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "dataset": dataset,
        "split": split,
        "n": len(x),
        "clean_error": float((next(iter(measured.values())) == 0).mean()),
        "attacks": {
            name: _entry(attack, measured[name], grids[attack.norm.name], exact=tolerance is not None)
            for name, attack in attacks.items()
        },
        "margins": margins_record(found, logits, grids, worst),
        "checks": [asdict(outcome) for outcome in outcomes],
        "cost": {"parameters": parameters(network), "macs": macs(network, tuple(x.shape[1:]))},
        "seed": seed,
        "tolerance": tolerance,
    }
    if corruptions:
        record["corruptions"] = asdict(corruption_errors(network, x, y, seed=seed, batch_size=batch_size))
        part("corruptions")(1.0)
    if certify is not None:
        record["certificates"] = _certificates_entry(
            run_certify(network, x, y, sigma=certify, seed=seed, batch_size=batch_size), certify
        )
        part("certificates")(1.0)
    # Through JSON, so that a profile is equal to itself saved and loaded, and nothing in it can fail to be saved.
    return RobustnessProfile(json.loads(json.dumps(record, allow_nan=False)), measured)


def _check_settings(
    x: Tensor,
    attacks: Mapping[str, Attack],
    epsilons: Mapping[str, Sequence[float]] | None,
    include: Mapping[str, Iterable[float]] | None,
    *,
    corruptions: bool,
    certify: float | None,
) -> dict[str, Norm]:
    """Returns the norms of the attacks by name, having checked before any work what else would fail after it.

    Raises:
        TypeError: attacks, epsilons or x has the wrong type.
        ValueError: a name, an epsilon's norm, sigma or the images' shape cannot be used.
    """
    check_images(x)
    if not isinstance(attacks, Mapping):
        raise TypeError(f"attacks must be a mapping from names to attacks, got {type(attacks).__name__}; {{'pgd': PGD()}}")
    check_names(attacks)
    for attack in attacks.values():
        check_attack(attack)
    norms = {attack.norm.name: attack.norm for attack in attacks.values()}
    for name, given in (("epsilons", epsilons), ("include", include)):
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"{name} must be a mapping such as {{'linf': [8 / 255]}}, got {type(given).__name__}")
        for norm in given or {}:
            if norm not in norms:
                raise ValueError(f"{name} names the norm {norm!r}, but the attacks' norms are {', '.join(norms)}")
    for norm, grid in (epsilons or {}).items():
        check_epsilons(sorted(set(as_grid(grid))), norms[norm].largest(x[0].numel()))
        if max(grid) <= 0:
            raise ValueError(f"epsilons of {norm} must hold at least one above 0, got {list(grid)}")
    if corruptions:
        check_pictures(x)
    if certify is not None:
        check_sigma(certify)
    return norms


def _grid(
    norm: Norm, first_order: Floats, pixels: int, given: Sequence[float] | None, include: Iterable[float]
) -> list[float]:
    """Returns the epsilons of one norm: those given, or such as suit the first-order radii, and those to include.

    Of those that suit, one that lies within 5 % of one to include gives way to it.
    """
    wanted = [float(epsilon) for epsilon in include]
    if given is not None:
        return sorted({*map(float, given), *wanted})
    suited = adaptive_epsilons(first_order, norm.largest(pixels))
    return sorted({*wanted, *(e for e in suited if not any(math.isclose(e, w, rel_tol=0.05) for w in wanted))})


def _entry(attack: Attack, found: Floats, epsilons: Sequence[float], *, exact: bool) -> dict[str, Any]:
    curve = error_curve(found, epsilons)
    median = median_radius(found)
    finite = curve.right > 0
    return {
        "config": describe(attack),
        "epsilons": list(epsilons),
        "error": curve.error.tolist(),
        "error_interval": curve.error_interval.tolist(),
        "flip_rate": curve.flip_rate.tolist() if finite else None,
        "flip_interval": curve.flip_interval.tolist() if finite else None,
        "median_radius": median if math.isfinite(median) else None,
        "error_area": error_area(found, [e for e in epsilons if e > 0]) if _spans(epsilons) else None,
        "power_law": asdict(fit_power_law(found, None if exact else epsilons)),
        "success_rate": float(np.isfinite(found).mean()),
    }


def _spans(epsilons: Sequence[float]) -> bool:
    return len([epsilon for epsilon in epsilons if epsilon > 0]) > 1


def _certificates_entry(found: Certificates, sigma: float) -> dict[str, Any]:
    """Returns the certified error curve of the smoothed network up to the largest radius that its draws could certify."""
    largest = float(found.radii.max())
    epsilons = np.linspace(0, largest, 12).tolist() if largest > 0 else [0.0]
    return {
        "sigma": sigma,
        "abstained": float((found.predictions < 0).mean()),
        "epsilons": epsilons,
        "certified_error": [float((found.radii <= epsilon).mean()) for epsilon in epsilons],
        "median_radius": float(np.median(found.radii)),
    }
