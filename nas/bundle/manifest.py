"""The manifest of a bundle: what made it, and the checksum of every file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from nas.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

SCHEMA = "hardcell-bundle/1"
NAME = "manifest.json"
# Places in a manifest that hold mappings.
_MAPPINGS, _ATTACKS = ("data", "config", "config.data", "config.evaluation"), "config.evaluation.attacks"


@final
@dataclass(frozen=True)
class Provenance:
    """What made a network.

    Attributes:
        config: The run's complete config, as plain data.
        seed: Seed of the final training.
        kept_epoch: The epoch whose weights were kept.
        classes: Names of the classes.
        data: Hashes of the splits, by name.
        environment: Versions and machine.
        norm: Name of the norm of the search.
        epsilon: The epsilon of the search.
    """

    config: Mapping[str, Any]
    seed: int
    kept_epoch: int
    classes: tuple[str, ...]
    data: Mapping[str, str]
    environment: Mapping[str, Any]
    norm: str
    epsilon: float


def is_bundle(folder: Path) -> bool:
    """Returns whether the folder is a complete bundle; its files are not checked."""
    return (folder / NAME).is_file()


def checksums(folder: Path, names: Collection[str] | None = None) -> dict[str, str]:
    """Returns the SHA-256 of all files of a bundle but the manifest, or of those of some names, by path relative to it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)
    by_name = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: _sha256(path) for name, path in by_name.items() if names is None or name in names}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Writes the manifest, last of all files."""
    record = {"schema": SCHEMA, **content, "files": checksums(folder)}
    (folder / NAME).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest of a bundle, its files unchecked.

    Raises:
        BundleError: there is none, or it is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        raise BundleError(f"{folder}: is no bundle (no {NAME})")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: damaged: {error}") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or not isinstance(record.get("files"), dict):
        raise BundleError(f"{path}: schema must be '{SCHEMA}'")
    missing = [key for key in ("name", "role", "config", "data", "seed", "epsilon") if key not in record]
    if missing:
        raise BundleError(f"{path}: damaged: {', '.join(missing)} missing")
    if faults := _faults(record):
        raise BundleError(f"{path}: damaged: {'; '.join(faults)}")
    return record


def _faults(record: dict[str, Any]) -> list[str]:
    """Returns what in a manifest is of another kind than it must be; of the config, where it is read without its rules."""
    kinds = (("name", str), ("role", str), ("seed", int))
    faults = [
        f"{key} must be {kind.__name__}, got {record[key]!r}" for key, kind in kinds if not isinstance(record[key], kind)
    ]
    epsilon = record["epsilon"]
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 < epsilon < math.inf:
        faults.append(f"epsilon must be a number above 0, got {epsilon!r}")
    attacks = _at(record, _ATTACKS)
    places = [*_MAPPINGS, _ATTACKS, *(f"{_ATTACKS}.{name}" for name in (attacks if isinstance(attacks, dict) else ()))]
    entries = {place: _at(record, place) for place in places}
    return faults + [f"{place} must be a mapping, got {at!r}" for place, at in entries.items() if not isinstance(at, dict)]


def _at(record: dict[str, Any], place: str) -> Any:
    """Returns what is at a place in nested mappings; an empty mapping where nothing is."""
    value: Any = record
    for key in place.split("."):
        value = value.get(key, {}) if isinstance(value, dict) else {}
    return value


def check_files(folder: Path, record: dict[str, Any], names: Collection[str] | None = None) -> None:
    """Checks the files of a bundle against the manifest: all of them, or those of some names.

    Raises:
        BundleError: a file is missing or differs; all of them are named.
    """
    present = checksums(folder, names)
    exported = {name: sha for name, sha in record["files"].items() if names is None or name in names}
    faults = [f"{name} is missing" for name in exported if name not in present]
    faults += [f"{name} is not what was exported" for name, sha in exported.items() if present.get(name, sha) != sha]
    faults += [f"{name} was not exported" for name in present if name not in exported]
    if faults:
        raise BundleError(f"{folder}: damaged or tampered with: " + "; ".join(faults))


def epsilon_and_norm(record: dict[str, Any]) -> tuple[float, str]:
    """Returns the epsilon and the norm of the search that made a bundle, from what its manifest holds."""
    attacks = _at(record, _ATTACKS).values()
    return float(record["epsilon"]), next((str(attack["norm"]) for attack in attacks if "norm" in attack), "linf")
