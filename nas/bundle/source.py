"""Copies of the user's code in a bundle, so that the bundle can be rebuilt on another machine. It runs only with trust."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

FOLDER = "source"


def copy_sources(content: Any, folder: Path) -> Any:
    """Returns plain data in which references to Python files name their copies, and copies the files.

    A reference `/path/to/file.py:NAME` becomes `source/file.py:NAME`. Modules that the file imports are not copied.

    Args:
        content: Plain data: mappings, lists and values.
        folder: Folder of the bundle.

    Raises:
        OSError: a file cannot be read or written.
    """
    if isinstance(content, dict):
        return {key: copy_sources(value, folder) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [copy_sources(value, folder) for value in content]
    if not isinstance(content, str):
        return content
    place, colon, name = content.rpartition(":")
    path = Path(place)
    if not colon or not name.isidentifier() or path.suffix != ".py" or not path.is_absolute() or not path.is_file():
        return content
    return f"{FOLDER}/{_copy(path, folder / FOLDER)}:{name}"


def _copy(path: Path, folder: Path) -> str:
    """Copies a file to a folder and returns its name there. Files of the same name get a part of their hash."""
    source = path.read_bytes()
    folder.mkdir(exist_ok=True)
    target = folder / path.name
    if target.exists() and target.read_bytes() != source:
        target = folder / f"{path.stem}_{hashlib.sha256(source).hexdigest()[:8]}.py"
    target.write_bytes(source)
    return target.name
