"""Files of the parts of a profile that are measured: an interrupted profile resumes from them.

They lie in the folder `partial` of the profile's folder. `settings.json` holds what they were measured on and with. Each
part has one .npz file for the margins and one for each attack. Files are written atomically: a kill leaves no half of a
file.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import warnings
import zipfile
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Arrays = dict[str, NDArray[Any]]
PARTIAL = "partial"
_SETTINGS, _LOCK, _FORMAT = "settings.json", ".lock", "hardcell-partial/1"
# The files of what was measured, without that which only prepares it.
_MEASURED = ("margins-*.npz", "attack*.npz")
# Errors of a file system that has no locks. There, nothing prevents two processes from measuring one profile.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
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

    def read(
        self, name: str, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, NDArray[Any]] | None = None
    ) -> Arrays | None:
        """Returns the arrays of a file; None if there is no such file, or if it is damaged. A damaged file gives a warning.

        Args:
            name: Name of the file without its ending.
            shapes: Names and shapes of the arrays that it must hold.
            expected: Values of some of these arrays, by name. With other values, the file counts as damaged.
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
            _check_arrays(arrays, shapes, expected or {})
        except _DAMAGED as error:
            warnings.warn(f"{path}: is damaged, so it is measured again: {error}", stacklevel=2)
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


@contextmanager
def open_parts(folder: Path | None, identity: Callable[[], Mapping[str, Any]]) -> Iterator[StoredParts]:
    """Yields the parts that are stored in the folder of a profile, and creates the files of a new profile.

    Inside the context, the folder is locked for this process. After an error, the files are removed if they hold nothing
    that was measured.

    Args:
        folder: Folder of the profile; None to store nothing.
        identity: Returns what the profile is measured on and with. It is called only with a folder.

    Raises:
        StoredPartsError: the stored parts have other settings, their settings are damaged, a file cannot be written, or
            another process measures the profile.
    """
    if folder is None:
        yield StoredParts(None)
        return
    settings, partial = identity(), folder / PARTIAL
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = (partial / _LOCK).open("a")
    except OSError as error:
        raise StoredPartsError(f"{partial}: cannot be made: {error.strerror or error}; choose another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoredPartsError(
                f"{folder}: another process measures this profile; wait for it, or choose another folder"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        stored = _open_settings(folder, settings)
        try:
            yield stored
        except BaseException:
            if not has_parts(folder):
                with suppress(OSError):
                    remove_parts(folder)
            raise


def _open_settings(folder: Path, settings: Mapping[str, Any]) -> StoredParts:
    """Returns the parts that are stored with these settings in the folder of a profile, or writes the settings.

    Raises:
        StoredPartsError: as for `open_parts`.
    """
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
        # A kill may leave a temporary file.
        if any(each.name != _LOCK and not each.name.startswith(f".{_SETTINGS}.") for each in partial.iterdir()):
            raise StoredPartsError(f"{partial}: holds files, but no {_SETTINGS}; {remedy}")
        _write(path, json.dumps({"format": _FORMAT, "settings": settings}, indent=2).encode())
        return StoredParts(partial)
    if differing := _differences(stored["settings"], settings):
        raise StoredPartsError(f"{folder}: holds parts of another profile, with other {', '.join(differing)}; {remedy}")
    return StoredParts(partial)


def is_interrupted(folder: Path) -> bool:
    """Returns whether a folder holds parts of a profile that is not finished."""
    return (folder / PARTIAL / _SETTINGS).exists()


def has_parts(folder: Path) -> bool:
    """Returns whether a folder holds a part that was measured."""
    return any(any((folder / PARTIAL).glob(pattern)) for pattern in _MEASURED)


def remove_parts(folder: Path) -> None:
    """Removes the stored parts, and their folder, from the folder of a profile.

    Raises:
        OSError: a file cannot be removed.
    """
    partial = folder / PARTIAL
    if not partial.is_dir():
        return
    (partial / _SETTINGS).unlink(missing_ok=True)  # First: without it, the profile is finished.
    for path in [*partial.glob("*.npz"), *partial.glob(".*.npz.*"), *partial.glob(f".{_SETTINGS}.*"), partial / _LOCK]:
        path.unlink(missing_ok=True)
    with suppress(OSError):  # It holds files that are not ours.
        partial.rmdir()


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns the entries that differ, as text such as 'seed (0, now 1)'. Hashes are not shown."""
    texts, shown = [], ("hardcell", "torch", "seed", "tolerance", "batch_size")
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if before == after and (key in old) == (key in new):
            continue
        texts.append(f"{key} ({before}, now {after})" if key in shown else key)
    return texts


def _check_arrays(
    arrays: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, NDArray[Any]]
) -> None:
    """Checks the names, the shapes and the values of the arrays of a file.

    Raises:
        ValueError: an array is missing, holds something else than numbers, or has the wrong shape or values, or there is one
            too many.
    """
    if set(arrays) != set(shapes):
        raise ValueError(f"holds {', '.join(arrays)} instead of {', '.join(shapes)}")
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has the shape {arrays[name].shape} instead of {shape}")
        if arrays[name].dtype.kind not in "biuf" or np.isnan(arrays[name]).any():
            raise ValueError(f"{name} must hold numbers")
    for name, values in expected.items():
        if not np.array_equal(arrays[name], values):
            raise ValueError(f"{name} has other values than this profile")


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
        remedy = f"choose another folder, or delete {path.parent} to measure everything again"
        raise StoredPartsError(f"{path}: cannot be written: {error.strerror or error}; {remedy}") from error
