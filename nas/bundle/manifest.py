"""The manifest of a bundle: what made it, and the checksum of every file."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from nas.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

SCHEMA = "hardcell-bundle/1"
NAME = "manifest.json"


def is_bundle(folder: Path) -> bool:
    """Returns whether the folder is a complete bundle; its files are not checked."""
    return (folder / NAME).is_file()


def checksums(folder: Path, names: Collection[str] | None = None) -> dict[str, str]:
    """Returns the SHA-256 of all files of a bundle but the manifest, or of those of some names, by path relative to it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)
    found = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: _sha256(path) for name, path in found.items() if names is None or name in names}


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
    return record


def check_files(folder: Path, record: dict[str, Any], names: Collection[str] | None = None) -> None:
    """Checks the files of a bundle against the manifest: all of them, or those of some names.

    Raises:
        BundleError: a file is missing or differs; all of them are named.
    """
    found = checksums(folder, names)
    exported = {name: sha for name, sha in record["files"].items() if names is None or name in names}
    faults = [f"{name} is missing" for name in exported if name not in found]
    faults += [f"{name} is not what was exported" for name, sha in exported.items() if found.get(name, sha) != sha]
    faults += [f"{name} was not exported" for name in found if name not in exported]
    if faults:
        raise BundleError(f"{folder}: damaged or tampered with: " + "; ".join(faults))


def epsilon_and_norm(record: dict[str, Any]) -> tuple[float, str]:
    """Returns the epsilon and the norm of the search that made a bundle, from what its manifest holds."""
    attacks = record["config"].get("evaluation", {}).get("attacks", {})
    return float(record["epsilon"]), next((str(attack["norm"]) for attack in attacks.values() if "norm" in attack), "linf")
