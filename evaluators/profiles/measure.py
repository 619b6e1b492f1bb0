"""Measurement of a robustness profile."""

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
from evaluators.curves.error_curves import Floats, worst_case
from evaluators.engine.input_checks import as_grid, check_epsilons, check_images, check_labels, check_module
from evaluators.engine.prepared import prepare
from evaluators.engine.scores_only import why_no_gradients
from evaluators.logits.margin import adaptive_epsilons
from evaluators.profiles.attack_entry import attack_entry
from evaluators.profiles.identity import identity
from evaluators.profiles.law_entries import law_entries
from evaluators.profiles.margins_record import margins_record
from evaluators.profiles.options import ProfileOptions, check_by_norm
from evaluators.profiles.parts import Parts, measure_margins, measure_radii, open_spans, with_stored_logits
from evaluators.profiles.passes import attempts_of, passes_of_attack, passes_of_margins, stage_of, stages_of
from evaluators.profiles.record import SCHEMA, RobustnessProfile, check_names
from evaluators.profiles.stored_parts import open_parts
from evaluators.profiles.union import union_entry
from evaluators.profiles.workload import Workload
from evaluators.radius.grid import EpsilonGrid
from evaluators.smoothing import Certificates, certify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor, nn

    from evaluators.attacks import Attack
    from evaluators.norms import Norm
    from evaluators.profiles.stored_parts import StoredParts


def profile(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    epsilons: Mapping[str, Sequence[float]] | None = None,
    *,
    options: ProfileOptions = ProfileOptions(),
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> RobustnessProfile:
    """Measures the robustness profile of a network: error curves, power laws, margins, checks and costs.

    A network without gradients (`ScoresOnly`) has no first-order prediction and no costs, and no checks of gradients.

    Args:
        network: Maps images with pixels in [0, 1] to logits (N, K); unchanged.
        x: Clean images with pixels in [0, 1], (N, C, H, W).
        y: True labels, (N,) int64.
        attacks: Attacks, by their name in the profile.
        epsilons: Grid of epsilons, in pixel units, by name of the norm. A missing grid is chosen from the first-order radii.
        options: Additional measurements, and how the radii are measured.
        seed: Seed of the random numbers of the attacks, the corruptions and the smoothing.
        progress: Called with the current stage and the completed share of the time, between 0 and 1. The share is estimated
            from the seconds measured so far. It falls only where parts of an interrupted profile are read.

    Raises:
        StoredPartsError: the folder `options.resume` holds parts of another profile, or a file cannot be read or written.
        TypeError: x, y, attacks or epsilons has the wrong type.
        ValueError: x, y or an epsilon is out of range, the network's output is not (N, K) logits, or the name of an attack
            or a norm cannot be used.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from evaluators import FGSM, profile
        >>> network = nn.Identity()  # The two pixels are the logits of two classes.
        >>> x, y = torch.tensor([[0.7, 0.5], [0.9, 0.1], [0.4, 0.5]]), torch.tensor([0, 0, 0])
        >>> result = profile(network, x, y, {"fgsm": FGSM()}, {"linf": [0.05, 0.15, 0.3, 0.45]})
        >>> result.error_at(0.3, "linf")
        0.6666666666666666
    """
    epsilons = {} if epsilons is None else epsilons
    norms = _check_inputs(x, attacks, epsilons, options)
    check_module(network)
    check_labels(y, len(x))
    with open_parts(options.resume, lambda: identity(network, x, y, attacks, epsilons, options, seed)) as stored:
        workload = Workload(stages_of(len(x), attacks, options), progress)
        return _measure(network, x, y, attacks, epsilons, norms, options, seed, stored, workload)


def _measure(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    epsilons: Mapping[str, Sequence[float]],
    norms: Mapping[str, Norm],
    options: ProfileOptions,
    seed: int,
    stored: StoredParts,
    workload: Workload,
) -> RobustnessProfile:
    """Returns the profile. Arguments are those of `profile`, with the norms by name, the stored parts and the stages."""
    smoothing, batch_size, union = options.smoothing, options.batch_size, options.union or {}
    included = {name: (*options.include.get(name, ()), *([union[name]] if name in union else ())) for name in norms}
    differentiable = why_no_gradients(network) is None
    with prepare(network, x, y, batch_size, progress=workload.start("clean")) as prepared:
        workload.add("clean")
        prepared = with_stored_logits(prepared, stored)
        parts = Parts(prepared, stored, workload, open_spans(stored, prepared.batches, len(x)))
        for stage in ("check attacks", *map(stage_of, attacks)):  # Misclassified images are not attacked.
            workload.stages[stage].passes *= float(prepared.right().double().mean())
        workload.stages["margins"].passes = passes_of_margins(prepared.logits.shape[1])
        margins, logits = measure_margins(parts, list(norms.values())), prepared.logits.double().cpu().numpy()
        grids = {
            name: _grid(norm, margins.radii[name], x[0].numel(), epsilons.get(name), included.get(name, ()))
            for name, norm in norms.items()
        }
        for name, attack in attacks.items():
            attempts = attempts_of(margins.radii[attack.norm.name], grids[attack.norm.name])
            workload.stages[stage_of(name)].passes = float(margins.right.mean()) * passes_of_attack(attack, attempts)
        epsilon_grids = {
            name: EpsilonGrid(epsilons=grids[attack.norm.name], tolerance=options.tolerance)
            for name, attack in attacks.items()
        }
        radii = measure_radii(parts, attacks, epsilon_grids, seed)
    # The checks run outside `prepare`, which sets evaluation mode: a check reports the mode in which the network was passed.
    workload.start("check network")
    checks = check_network(network, x, y, margins, batch_size=batch_size)
    workload.add("check network")
    workload.start("check attacks")
    checks += check_attacks(network, x, y, attacks, radii, grids, batch_size=batch_size)
    workload.add("check attacks")
    worst = {name: worst_case([r for key, r in radii.items() if attacks[key].norm.name == name]) for name in norms}
    exact = options.tolerance is not None
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "dataset": options.dataset,
        "split": options.split,
        "n": len(x),
        "clean_error": float((next(iter(radii.values())) == 0).mean()),
        "attacks": {
            name: {
                "config": describe(attack),
                **attack_entry(radii[name], grids[attack.norm.name], exact=exact),
            }
            for name, attack in attacks.items()
        },
        "worst_case": {name: law_entries(smallest, grids[name], exact=exact) for name, smallest in worst.items()},
        "margins": margins_record(margins, logits, grids, worst, gradients=differentiable),
        "checks": [asdict(check) for check in checks],
        "cost": {
            "parameters": parameters(network) if differentiable else None,
            "macs": macs(network, tuple(x.shape[1:])) if differentiable else None,
        },
        "seed": seed,
        "tolerance": options.tolerance,
    }
    if union:
        record["union"] = union_entry(worst, union)
    if options.corruptions:
        report = workload.start("corruptions")
        errors = corruption_errors(network, x, y, seed=seed, batch_size=batch_size, progress=report)
        record["corruptions"] = asdict(errors)
        workload.add("corruptions")
    if smoothing is not None:
        report = workload.start("certificates")
        certificates = certify(network, x, y, smoothing, seed=seed, batch_size=batch_size, progress=report)
        record["certificates"] = _certificates_entry(certificates, smoothing.sigma)
        workload.add("certificates")
    # The record passes through JSON: a loaded profile equals the saved one, and a value that cannot be saved raises here.
    return RobustnessProfile(json.loads(json.dumps(record, allow_nan=False)), radii)


def _check_inputs(
    x: Tensor, attacks: Mapping[str, Attack], epsilons: Mapping[str, Sequence[float]], options: ProfileOptions
) -> dict[str, Norm]:
    """Checks all inputs before any work, and returns the norms of the attacks by name.

    Raises:
        TypeError: attacks, epsilons or x has the wrong type.
        ValueError: the name of an attack, a norm, an epsilon or the shape of the images cannot be used.
    """
    check_images(x)
    if not isinstance(attacks, Mapping):
        raise TypeError(f"attacks must be a mapping such as {{'pgd': PGD()}}, got {type(attacks).__name__}")
    check_names(attacks)
    for attack in attacks.values():
        check_attack(attack)
    norms = {attack.norm.name: attack.norm for attack in attacks.values()}
    check_by_norm("epsilons", epsilons)
    for norm, epsilon in (options.union or {}).items():
        if norm in norms:
            check_epsilons([epsilon], norms[norm].largest(x[0].numel()))
    for name, by_norm in (("epsilons", epsilons), ("include", options.include), ("union", options.union or {})):
        for norm in by_norm:
            if norm not in norms:
                raise ValueError(f"{name} names the norm {norm!r}, but the attacks' norms are {', '.join(norms)}")
    for norm, grid in epsilons.items():
        check_epsilons(sorted(set(as_grid(grid))), norms[norm].largest(x[0].numel()))
        if max(grid) <= 0:
            raise ValueError(f"epsilons of {norm} must hold at least one above 0, got {list(grid)}")
    if options.corruptions:
        check_pictures(x)
    return norms


def _grid(
    norm: Norm, first_order: Floats, pixels: int, given: Sequence[float] | None, include: Iterable[float]
) -> list[float]:
    """Returns the epsilons of one norm: the given or adaptive grid, together with the epsilons to include.

    An epsilon of the adaptive grid is left out if it lies within 5 % of an epsilon to include.
    """
    wanted = [float(epsilon) for epsilon in include]
    if given is not None:
        return sorted({*map(float, given), *wanted})
    suited = adaptive_epsilons(first_order, norm.largest(pixels))
    return sorted({*wanted, *(e for e in suited if not any(math.isclose(e, w, rel_tol=0.05) for w in wanted))})


def _certificates_entry(certificates: Certificates, sigma: float) -> dict[str, Any]:
    """Returns the certified error curve of the smoothed network, up to the largest certified radius."""
    largest = float(certificates.radii.max())
    epsilons = np.linspace(0, largest, 12).tolist() if largest > 0 else [0.0]
    return {
        "sigma": sigma,
        "abstained": float((certificates.predictions < 0).mean()),
        "epsilons": epsilons,
        "certified_error": [float((certificates.radii <= epsilon).mean()) for epsilon in epsilons],
        "median_radius": float(np.median(certificates.radii)),
    }
