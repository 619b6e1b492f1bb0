"""Resolves names in YAML: entries of a table of built-in objects, `path/to/file.py:NAME` and `package.module:NAME`.

The last two import code. This is right for the config that a user runs. But others may have made a bundle or the folder of a
run. The names in them are resolved with `trust=False`, which refuses to import code.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType


_ENDS = "is a script that exits when it is imported; guard its code with if __name__ == '__main__'"


class UntrustedCodeError(ValueError):
    """A name refers to code, or a file may run code when it is opened, and code is not trusted."""


def resolve(reference: str, table: Mapping[str, object], folder: Path | None = None, *, trust: bool = True) -> object:
    """Returns the object to which a name in YAML refers.

    Args:
        reference: Name in the table, `path/to/file.py:NAME`, or `package.module:NAME`.
        table: Built-in objects, by name.
        folder: Base of relative paths; the working directory if None.
        trust: Import files and modules. If false, only names in the table are resolved.

    Raises:
        UntrustedCodeError: the name refers to a file or a module, and `trust` is false.
        ValueError: the name is unknown, or its file or module cannot be imported.
    """
    if reference in table:
        return table[reference]
    place, colon, name = reference.rpartition(":")
    if not colon:
        near = difflib.get_close_matches(reference, table, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        known = f"one of {', '.join(table)}, or " if table else ""
        raise ValueError(f"must be {known}FILE.py:NAME, got {reference!r}{hint}")
    if not trust:
        raise UntrustedCodeError(f"names code, {reference!r}, which is not run; if you trust it, use --trust (trust=True)")
    module = _from_file(Path(folder or ".", place)) if place.endswith(".py") else _from_module(place)
    if not hasattr(module, name):
        raise ValueError(f"{place} has no {name!r}")
    return getattr(module, name)


def absolute(reference: str, table: Mapping[str, object], folder: Path | None = None) -> str:
    """Returns a reference in which the path of a file is absolute, so that it is valid in any working directory."""
    place, colon, name = reference.rpartition(":")
    if reference in table or not colon or not place.endswith(".py"):
        return reference
    return f"{Path(folder or '.', place).resolve()}:{name}"


def _from_file(path: Path) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    # One module name per path, so that two files called space.py do not collide.
    module_name = f"hardcell_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
        _check_keys(path)
    except _DuplicateKeyError:
        del sys.modules[module_name]
        raise
    except SystemExit as error:
        del sys.modules[module_name]
        raise ValueError(f"{path} {_ENDS}") from error
    except Exception as error:
        del sys.modules[module_name]
        # The last line in the user's file that led to the error.
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f"{path}, line {lines[-1]}," if lines else f"{path}"
        raise ValueError(f"{place} does not import: {type(error).__name__}: {error}") from error
    return module


class _DuplicateKeyError(ValueError):
    """A dict literal has a duplicate key."""


def _check_keys(path: Path) -> None:
    """Raises an error for duplicate keys in a dict literal of a file. Python would silently keep the last one."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Dict):
            keys = [(key.value, key.lineno) for key in node.keys if isinstance(key, ast.Constant)]
            for number, (key, line) in enumerate(keys):
                if key in [earlier for earlier, _ in keys[:number]]:
                    raise _DuplicateKeyError(f"{path}, line {line}: duplicate key {key!r} in a dict; rename one of them")


def _from_module(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except SystemExit as error:
        raise ValueError(f"{place} {_ENDS}") from error
    except Exception as error:
        raise ValueError(f"module {place!r} does not import: {type(error).__name__}: {error}") from error
