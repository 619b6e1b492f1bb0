"""The robustness profile: every measurement of one network on one split, as plain data."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evaluators import checks
from evaluators.attacks import PGD, Attack, SingleStep, describe
from evaluators.attacks.losses import cross_entropy, margin
from evaluators.attacks.target import frozen
from evaluators.cost import macs, parameters
from evaluators.curve import Floats, error_curve, worst_case
from evaluators.margins import Margins, adaptive_epsilons, density_at_zero, margins
from evaluators.power_law import PowerLaw, fit_power_law
from evaluators.radii import radii
from evaluators.subject import predict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from evaluators.checks import Check
    from evaluators.norms import Norm

SCHEMA = "hardcell-profile/1"


@final
@dataclass(frozen=True)
class RobustnessProfile:
    """Everything measured of one network on one split.

    Attributes:
        record: The content of profile.json: `schema`, `dataset`, `split`, `n`, `clean_error`, `attacks`, `margins`,
            `checks`, `cost`, `seed`.
        radii: One radius an image, (N,), by attack name: the content of radii.npz.
    """

    record: dict[str, Any]
    radii: dict[str, Floats] = field(repr=False)

    def error_at(self, epsilon: float, norm: str = "linf") -> float:
        """Returns the adversarial error at epsilon under the worst case over the attacks of one norm.

        Raises:
            ValueError: no attack of that norm was run, or none was run at that epsilon.
        """
        worst = self.worst_case(norm)
        grid = [e for entry in self.record["attacks"].values() if entry["config"]["norm"] == norm for e in entry["epsilons"]]
        if epsilon != 0 and not any(math.isclose(epsilon, e, rel_tol=1e-9) for e in grid):
            raise ValueError(f"{norm} epsilon {epsilon:g} was not measured; these were: {sorted(set(grid))}")
        return float((worst <= epsilon * (1 + 1e-9)).mean())

    def worst_case(self, norm: str = "linf") -> Floats:
        """Returns each image's smallest radius over the attacks of one norm, (N,).

        Raises:
            ValueError: no attack of that norm was run.
        """
        names = [name for name, entry in self.record["attacks"].items() if entry["config"]["norm"] == norm]
        if not names:
            raise ValueError(f"no {norm} attack in this profile; it has {', '.join(self.radii)}")
        return worst_case([self.radii[name] for name in names])

    def failed_checks(self) -> list[str]:
        """Returns the names of the checks that failed."""
        return [check["name"] for check in self.record["checks"] if not check["passed"]]


def profile(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    *,
    epsilons: Mapping[str, Sequence[float]] | None = None,
    include: Mapping[str, Iterable[float]] | None = None,
    dataset: str = "unnamed",
    split: str = "test",
    seed: int = 0,
    batch_size: int = 1024,
) -> RobustnessProfile:
    """Returns the robustness profile of a network on images x (N, C, H, W) with labels y (N,).

    Args:
        network: Maps images with pixels in [0, 1] to logits (N, K); left as it was.
        x: Clean images.
        y: True labels, int64.
        attacks: Attacks by the name that they get in the profile.
        epsilons: The grid of each norm by its name; where one is missing it is chosen from the first-order radii.
        include: Epsilons by norm that the grid must hold besides, for comparisons at one epsilon.
        dataset: Name for the record.
        split: Name for the record.
        seed: Seed of whatever the attacks draw.
        batch_size: Images in one pass.

    Raises:
        TypeError: x or y has the wrong type.
        ValueError: x, y or an epsilon is out of range, the network's output is not (N, K) logits, or an attack's name
            cannot be used.
    """
    check_names(attacks)
    norms = {attack.norm.name: attack.norm for attack in attacks.values()}
    found = margins(network, x, y, list(norms.values()), batch_size)
    grids: dict[str, list[float]] = {}
    for name, norm in norms.items():
        wanted = {float(epsilon) for epsilon in (include or {}).get(name, ())}
        if epsilons is not None and name in epsilons:
            grids[name] = sorted({*(float(epsilon) for epsilon in epsilons[name]), *wanted})
        else:
            grids[name] = sorted({*adaptive_epsilons(found.radii[name], norm.largest(x[0].numel())), *wanted})
    measured = {
        name: radii(network, x, y, attack, grids[attack.norm.name], seed=seed, batch_size=batch_size).numpy()
        for name, attack in attacks.items()
    }
    with frozen(network):
        classes = predict(network, x[:1]).shape[1]
    record = {
        "schema": SCHEMA,
        "dataset": dataset,
        "split": split,
        "n": len(x),
        "clean_error": float((next(iter(measured.values())) == 0).mean()),
        "attacks": {name: _entry(attack, measured[name], grids[attack.norm.name]) for name, attack in attacks.items()},
        "margins": _margins_entry(found, grids),
        "checks": [asdict(c) for c in _checks(network, x, y, attacks, measured, grids, found, norms, classes)],
        "cost": {"parameters": parameters(network), "macs": macs(network, tuple(x.shape[1:]))},
        "seed": seed,
    }
    # Through JSON, so that a profile is equal to itself saved and loaded, and nothing in it can fail to be saved.
    return RobustnessProfile(json.loads(json.dumps(record, allow_nan=False)), measured)


def check_names(attacks: Mapping[str, Attack]) -> None:
    """Checks that there are attacks and that their names can name arrays in a file.

    Raises:
        ValueError: there is none, or a name is taken by numpy's writer.
    """
    if not attacks:
        raise ValueError("attacks must name at least one attack")
    for name in attacks:
        if name in ("file", "args", "kwds", "allow_pickle"):
            raise ValueError(
                f"attacks must not be named {name!r}, which numpy's writer keeps for itself; choose another name"
            )


def _entry(attack: Attack, found: Floats, epsilons: Sequence[float]) -> dict[str, Any]:
    curve = error_curve(found, epsilons)
    fit = fit_power_law(found, epsilons)
    finite = curve.right > 0
    return {
        "config": describe(attack),
        "epsilons": list(epsilons),
        "error": curve.error.tolist(),
        "error_interval": curve.error_interval.tolist(),
        "flip_rate": curve.flip_rate.tolist() if finite else None,
        "flip_interval": curve.flip_interval.tolist() if finite else None,
        "median_radius": float(np.median(found)) if np.isfinite(np.median(found)) else None,
        "power_law": asdict(fit),
        "success_rate": float(np.isfinite(found).mean()),
    }


def _margins_entry(found: Margins, grids: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    right = found.right
    return {
        "median": float(np.median(found.margin)),
        "density_at_zero": density_at_zero(found.margin),
        "mean_entropy": float(found.entropy.mean()),
        "first_order": {
            name: {
                "median_radius": float(np.median(r[right])) if right.any() and np.isfinite(np.median(r[right])) else None,
                "epsilons": list(grids[name]),
                "predicted_error": error_curve(r, grids[name]).error.tolist(),
            }
            for name, r in found.radii.items()
        },
    }


def _checks(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    measured: Mapping[str, Floats],
    grids: Mapping[str, Sequence[float]],
    found: Margins,
    norms: Mapping[str, Norm],
    classes: int,
) -> list[Check]:
    """Returns the outcome of every check for which the profile holds what it needs."""
    outcomes = [
        checks.deterministic(network, x),
        checks.logits_not_probabilities(network, x),
        checks.gradients_alive(found),
        checks.reaches_chance(network, x, y, classes),
    ]
    for name, norm in norms.items():
        of_norm = {key: r for key, r in measured.items() if attacks[key].norm == norm}
        outcomes.append(checks.noise_is_weaker(network, x, y, norm, of_norm, grids[name]))
        own = {key: attacks[key] for key in of_norm}
        steppers = {key: attack for key, attack in own.items() if isinstance(attack, PGD)}
        if steppers and any(isinstance(attack, SingleStep) for attack in own.values()):
            outcomes.append(checks.many_steps_beat_one(norm, own, of_norm, grids[name]))
        worst = {
            loss: worst_case([of_norm[key] for key, attack in steppers.items() if attack.loss is loss])
            for loss in {attack.loss for attack in steppers.values()}
        }
        if cross_entropy in worst and margin in worst:
            outcomes.append(checks.cross_entropy_not_masked(norm, worst[cross_entropy], worst[margin], grids[name]))
    return outcomes


def save_profile(found: RobustnessProfile, folder: Path) -> None:
    """Writes profile.json and radii.npz into a folder that exists."""
    (folder / "profile.json").write_text(json.dumps(found.record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    np.savez_compressed(folder / "radii.npz", **found.radii)  # type: ignore[arg-type]  # numpy's stub takes no mapping


def load_profile(folder: Path) -> RobustnessProfile:
    """Returns the profile that was saved into a folder.

    Raises:
        OSError: a file is missing.
        ValueError: profile.json is not one of ours.
    """
    record = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"{folder / 'profile.json'}: schema must be '{SCHEMA}'")
    with np.load(folder / "radii.npz", allow_pickle=False) as arrays:
        return RobustnessProfile(record, {name: arrays[name] for name in record["attacks"]})


def fitted(entry: Mapping[str, Any]) -> PowerLaw | None:
    """Returns the power law of one attack's entry in a record, or None where it holds a reason instead."""
    law = entry["power_law"]
    if "reason" in law:
        return None
    return PowerLaw(
        exponent=law["exponent"],
        exponent_interval=(law["exponent_interval"][0], law["exponent_interval"][1]),
        prefactor=law["prefactor"],
        window=(law["window"][0], law["window"][1]),
        n=law["n"],
        p_value=law["p_value"],
        saturated=law["saturated"],
    )
