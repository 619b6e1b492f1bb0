"""The robustness profile: all measurements of one network on one split as plain data, and its files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evaluators.curves.alternatives import Alternative
from evaluators.curves.error_curves import Floats, in_grid, worst_case
from evaluators.curves.power_law import PowerLaw
from evaluators.curves.scalars import error_at
from evaluators.profiles.stored_parts import remove_parts
from evaluators.profiles.validation import check_record, read_radii

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evaluators.attacks import Attack

SCHEMA = "hardcell-profile/2"
# Largest profile.json that is read.
LARGEST_FILE = 2**25


@final
@dataclass(frozen=True)
class RobustnessProfile:
    """All measurements of one network on one split.

    Attributes:
        record: Content of profile.json: `schema`, `dataset`, `split`, `n`, `clean_error`, `attacks`, `worst_case`
            (power law and local exponent by norm), `margins`, `checks`, `cost`, `seed`, `tolerance`, and `union`,
            `corruptions` and `certificates` if measured. Profiles of older versions lack `worst_case`.
        radii: Content of radii.npz: one radius per image, in pixel units, (N,), by name of the attack.
    """

    record: dict[str, Any]
    radii: dict[str, Floats] = field(repr=False)

    def error_at(self, epsilon: float, norm: str = "linf") -> float:
        """Returns the worst-case adversarial error at epsilon over the attacks of one norm, between 0 and 1.

        Args:
            epsilon: An epsilon of the grid, in pixel units, or 0 for the clean error.
            norm: Name of the norm.

        Raises:
            ValueError: no attack of that norm was run, or no attack of that norm was run at that epsilon.
        """
        worst, grid = self.worst_case(norm), self.epsilons(norm)
        if epsilon != 0 and not in_grid(epsilon, grid):
            raise ValueError(f"{norm} epsilon {epsilon:g} was not measured; these were: {grid}")
        return error_at(worst, epsilon)

    def epsilons(self, norm: str = "linf") -> list[float]:
        """Returns the epsilons at which the attacks of one norm were run, ascending; empty if there is no such attack."""
        entries = self.record["attacks"].values()
        return sorted({epsilon for e in entries if e["config"]["norm"] == norm for epsilon in e["epsilons"]})

    def worst_case(self, norm: str = "linf") -> Floats:
        """Returns the smallest radius of each image over the attacks of one norm, in pixel units, (N,).

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


def check_names(attacks: Mapping[str, Attack]) -> None:
    """Checks that there are attacks and that their names can name arrays in an npz file.

    Raises:
        ValueError: attacks is empty, or a name is reserved by numpy.savez_compressed.
    """
    if not attacks:
        raise ValueError("attacks must name at least one attack")
    for name in attacks:
        if name in ("file", "args", "kwds", "allow_pickle"):
            raise ValueError(
                f"attacks must not be named {name!r}, an argument of numpy.savez_compressed; choose another name"
            )


def save_profile(profile: RobustnessProfile, folder: Path) -> None:
    """Writes profile.json and radii.npz into an existing folder, and removes the stored parts of an interrupted profile.

    Raises:
        OSError: a file cannot be written or removed.
    """
    (folder / "profile.json").write_text(json.dumps(profile.record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    np.savez_compressed(folder / "radii.npz", **profile.radii)  # type: ignore[arg-type]  # numpy's stub takes no mapping
    remove_parts(folder)


def load_profile(folder: Path) -> RobustnessProfile:
    """Returns the profile saved in a folder by `save_profile`.

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError: profile.json is too large, is not JSON, or has another schema or structure; radii.npz is damaged, lacks
            an attack or holds wrong radii.
    """
    path = folder / "profile.json"
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path}: is larger than {LARGEST_FILE:,} bytes")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path}: is nested too deep") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema must be '{SCHEMA}'")
    try:
        check_record(record)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return RobustnessProfile(record, read_radii(folder / "radii.npz", record["attacks"], record["n"]))


def fitted(entry: Mapping[str, Any]) -> PowerLaw | None:
    """Returns the power law of an entry of a profile, or None if the entry holds a reason instead.

    The entry is one of `record["attacks"]` or `record["worst_case"]`. The law's `fit` is "rejected" if the curve is
    not a power law.
    """
    law = entry["power_law"]
    if "reason" in law:
        return None
    prefactor_interval = law.get("prefactor_interval")
    return PowerLaw(
        exponent=law["exponent"],
        exponent_interval=(law["exponent_interval"][0], law["exponent_interval"][1]),
        prefactor=law["prefactor"],
        window=(law["window"][0], law["window"][1]),
        n=law["n"],
        p_value=law["p_value"],
        saturated=law["saturated"],
        alternatives={name: Alternative(**form) for name, form in law["alternatives"].items()},
        prefactor_interval=None if prefactor_interval is None else (prefactor_interval[0], prefactor_interval[1]),
    )
