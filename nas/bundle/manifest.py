"""Manifest of a bundle: provenance, and the checksum of every file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from evaluators import NORMS
from nas.errors import BundleError
from nas.files import read_json

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

SCHEMA = "hardcell-bundle/1"
NAME = "manifest.json"
# Dotted paths of the values in a manifest that must be mappings.
_MAPPINGS, _ATTACKS = ("data", "config", "config.data", "config.evaluation"), "config.evaluation.attacks"
_OTHER_NORMS = "config.evaluation.other_norms"


@final
@dataclass(frozen=True)
class Provenance:
    """Settings, seed, data and environment with which a network was trained.

    Attributes:
        config: Complete config of the run, as plain data.
        seed: Seed of the final training.
        kept_epoch: Epoch whose weights were kept.
        classes: Names of the classes.
        data: Hashes of the splits, by name.
        environment: Versions and machine properties.
        norm: Name of the search's norm.
        epsilon: Epsilon of the search, in pixel units.
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
    """Returns whether the folder is a complete bundle, i.e. has a manifest. Its files are not verified."""
    return (folder / NAME).is_file()


def checksums(folder: Path, names: Collection[str] | None = None) -> dict[str, str]:
    """Returns the SHA-256 of each file of a bundle except the manifest, by relative path; `names` selects files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)
    by_name = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: _sha256(path) for name, path in by_name.items() if names is None or name in names}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(record: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a manifest without its entry `digest`."""
    content = {key: value for key, value in record.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Writes the manifest with its own digest and the checksums of all other files, which must exist already."""
    record = {"schema": SCHEMA, **content, "files": checksums(folder)}
    record["digest"] = digest_of(json.loads(json.dumps(record)))
    (folder / NAME).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest of a bundle. The bundle's other files are not verified.

    Raises:
        BundleError: the manifest is missing or damaged.
    """
    path = folder / NAME
    if not path.is_file():
        raise BundleError(f"{folder}: is not a bundle (no {NAME})")
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: damaged: {error}") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or not isinstance(record.get("files"), dict):
        raise BundleError(f"{path}: schema must be '{SCHEMA}', and files must be a mapping")
    missing = [key for key in ("name", "role", "config", "data", "seed", "epsilon") if key not in record]
    if isinstance(record.get("config"), dict) and "data" not in record["config"]:
        missing.append("config.data")
    if missing:
        raise BundleError(f"{path}: damaged: {', '.join(missing)} missing")
    if faults := _faults(record):
        raise BundleError(f"{path}: damaged: {'; '.join(faults)}")
    if "digest" in record and record["digest"] != digest_of(record):
        raise BundleError(f"{path}: damaged or tampered with: its digest differs from its content")
    return record


def _faults(record: dict[str, Any]) -> list[str]:
    """Returns a message for each wrong value in a manifest. Parsing the config checks its other values."""
    kinds = (("name", str), ("role", str), ("seed", int))
    faults = [
        f"{key} must be {kind.__name__}, got {record[key]!r}" for key, kind in kinds if not isinstance(record[key], kind)
    ]
    if not isinstance(record.get("not_exported", {}), dict):
        faults.append(f"not_exported must be a mapping, got {record['not_exported']!r}")
    epsilon = record["epsilon"]
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 < epsilon < math.inf:
        faults.append(f"epsilon must be a finite number above 0, got {epsilon!r}")
    attacks = _at(record, _ATTACKS)
    places = [*_MAPPINGS, _ATTACKS, *(f"{_ATTACKS}.{name}" for name in (attacks if isinstance(attacks, dict) else ()))]
    entries = {place: _at(record, place) for place in places}
    for name, attack in attacks.items() if isinstance(attacks, dict) else ():
        norm = attack.get("norm", "linf") if isinstance(attack, dict) else "linf"
        if norm not in NORMS:
            faults.append(f"{_ATTACKS}.{name}.norm must be one of {', '.join(NORMS)}, got {norm!r}")
    others = _at(record, _OTHER_NORMS)
    if others is not None and not isinstance(others, dict):
        faults.append(f"{_OTHER_NORMS} must be null or a mapping, got {others!r}")
    return faults + [f"{place} must be a mapping, got {at!r}" for place, at in entries.items() if not isinstance(at, dict)]


def _at(record: dict[str, Any], place: str) -> Any:
    """Returns the value at a dotted path in nested mappings, or an empty mapping if it is missing."""
    value: Any = record
    for key in place.split("."):
        value = value.get(key, {}) if isinstance(value, dict) else {}
    return value


def check_files(folder: Path, record: dict[str, Any], names: Collection[str] | None = None) -> None:
    """Verifies the files of a bundle against the manifest; `names` selects files.

    Raises:
        BundleError: a file is missing, differs or was not exported, and the message lists all such files; or the folder
            holds a link or a pipe.
    """
    paths = sorted(folder.rglob("*"))
    odd = [
        path.relative_to(folder).as_posix() for path in paths if path.is_symlink() or not (path.is_file() or path.is_dir())
    ]
    if odd:
        raise BundleError(f"{folder}: holds links or pipes, {', '.join(odd[:3])}; a bundle must hold the files themselves")
    present = checksums(folder, names)
    exported = {name: sha for name, sha in record["files"].items() if names is None or name in names}
    faults = [f"{name} is missing" for name in exported if name not in present]
    faults += [f"{name} differs from the exported file" for name, sha in exported.items() if present.get(name, sha) != sha]
    faults += [f"{name} was not exported" for name in present if name not in exported]
    if faults:
        raise BundleError(f"{folder}: damaged or tampered with: " + "; ".join(faults))


def epsilon_and_norm(record: dict[str, Any]) -> tuple[float, str]:
    """Returns the epsilon (in pixel units) and the name of the norm of the search that made a bundle, from its manifest."""
    others = _at(record, _OTHER_NORMS) or {}
    norms = (_norm_of(attack) for attack in _at(record, _ATTACKS).values())
    return float(record["epsilon"]), next((norm for norm in norms if norm is not None and norm not in others), "linf")


def _norm_of(attack: Any) -> str | None:
    """Returns the name of an attack's norm; None if its data has none. A wrapper such as eight_bit has an inner attack."""
    if not isinstance(attack, dict):
        return None
    return str(attack["norm"]) if "norm" in attack else _norm_of(attack.get("attack"))


def forms_left_out(record: dict[str, Any]) -> set[str]:
    """Returns the formats that a bundle lacks because `finalists.forms` of its config leaves them out."""
    forms = _at(record, "config.finalists.forms")
    lacking = {"model.pt2": "pt2", "model.onnx": "onnx"}
    return {
        file
        for file, form in lacking.items()
        if isinstance(forms, list) and form not in forms and file not in record["files"]
    }
