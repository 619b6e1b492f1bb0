"""Files of the parts of a profile that are measured: an interrupted profile resumes from them.

They lie in the folder `partial` of the profile's folder. `settings.json` holds what they were measured on and with. Each
part has one .npz file for the margins and one for each attack. Files are written atomically: a kill leaves no half of a
file.
"""

from __future__ import annotations

import json
import os
import secrets
import warnings
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Arrays = dict[str, NDArray[Any]]
PARTIAL = "partial"
_SETTINGS, _FORMAT = "settings.json", "hardcell-partial/1"
# What numpy raises for a damaged .npz file.
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


class StoredPartsError(ValueError):
    """The stored parts of a profile belong to another profile, or cannot be read or written."""


@final
@dataclass(frozen=True)
class StoredParts:
    """The stored parts of one profile.

    Attributes:
        folder: Folder of the files; None to store nothing.
    """

    folder: Path | None

    def read(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Arrays | None:
        """Returns the arrays of a file; None if there is no such file, or if it is damaged. A damaged file gives a warning.

        Args:
            name: Name of the file without its ending.
            shapes: Names and shapes of the arrays that it must hold.
        """
        if self.folder is None:
            return None
        path = self.folder / f"{name}.npz"
        if not path.exists():
            return None
        try:
            # From memory, because numpy does not close a file that it cannot read.
            with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            _check_shapes(arrays, shapes)
        except _DAMAGED as error:
            warnings.warn(f"{path}: is damaged, so this part is measured again: {error}", stacklevel=2)
            return None
        return arrays

    def write(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Writes arrays, by name, to the file with the name `name`.

        Raises:
            StoredPartsError: the file cannot be written.
        """
        if self.folder is None:
            return
        content = BytesIO()
        np.savez(content, **arrays)
        _write(self.folder / f"{name}.npz", content.getvalue())


def open_parts(folder: Path | None, identity: Callable[[], Mapping[str, Any]]) -> StoredParts:
    """Returns the parts that are stored in the folder of a profile, and creates the files of a new profile.

    Args:
        folder: Folder of the profile; None to store nothing.
        identity: Returns what the profile is measured on and with. It is called only with a folder.

    Raises:
        StoredPartsError: the stored parts have other settings, their settings are damaged, or a file cannot be written.
    """
    if folder is None:
        return StoredParts(None)
    settings = identity()
    partial = folder / PARTIAL
    path = partial / _SETTINGS
    remedy = f"choose another folder, or delete {partial} to measure everything again"
    try:
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if stored is not None and (stored["format"] != _FORMAT or not isinstance(stored["settings"], dict)):
            raise ValueError(f"format must be {_FORMAT}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoredPartsError(f"{path}: is damaged, so the stored parts cannot be used: {error}; {remedy}") from error
    if stored is None:
        try:
            partial.mkdir(parents=True, exist_ok=True)
            unknown = any(partial.iterdir())
        except OSError as error:
            raise StoredPartsError(f"{partial}: cannot be made: {error.strerror or error}") from error
        if unknown:
            raise StoredPartsError(f"{partial}: holds files, but no {_SETTINGS}; {remedy}")
        _write(path, json.dumps({"format": _FORMAT, "settings": settings}, indent=2).encode())
        return StoredParts(partial)
    if differing := _differences(stored["settings"], settings):
        raise StoredPartsError(f"{folder}: holds parts of another profile, with other {', '.join(differing)}; {remedy}")
    return StoredParts(partial)


def is_interrupted(folder: Path) -> bool:
    """Returns whether a folder holds parts of a profile that is not finished."""
    return (folder / PARTIAL / _SETTINGS).exists()


def remove_parts(folder: Path) -> None:
    """Removes the stored parts, and their folder, from the folder of a profile.

    Raises:
        OSError: a file cannot be removed.
    """
    partial = folder / PARTIAL
    if not partial.is_dir():
        return
    (partial / _SETTINGS).unlink(missing_ok=True)  # First: without it, the profile is finished.
    for path in [*partial.glob("*.npz"), *partial.glob(".*.npz.*"), *partial.glob(f".{_SETTINGS}.*")]:
        path.unlink(missing_ok=True)
    with suppress(OSError):  # It holds files that are not ours.
        partial.rmdir()


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns the entries that differ, as text such as 'seed (0, now 1)'. Hashes are not shown."""
    texts = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if before == after and (key in old) == (key in new):
            continue
        shown = key in ("seed", "tolerance", "batch_size")
        texts.append(f"{key} ({before}, now {after})" if shown else key)
    return texts


def _check_shapes(arrays: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks the names and the shapes of the arrays of a file.

    Raises:
        ValueError: an array is missing or has the wrong shape, or there is one too many.
    """
    if set(arrays) != set(shapes):
        raise ValueError(f"holds {', '.join(arrays)} instead of {', '.join(shapes)}")
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has the shape {arrays[name].shape} instead of {shape}")


def _write(path: Path, content: bytes) -> None:
    """Writes a file atomically.

    Raises:
        StoredPartsError: the file cannot be written.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        new.write_bytes(content)
        new.replace(path)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise StoredPartsError(f"{path}: cannot be written: {error.strerror or error}") from error
