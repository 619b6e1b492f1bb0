"""Opens networks that users name as `FILE.py:NAME` or `package.module:NAME`."""

from __future__ import annotations

import inspect
import sys
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from nas.analysis.networks.paths import REMEDY, expand_path
from nas.errors import NetworkError, format_error
from nas.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator


def open_named(source: str) -> nn.Module:
    """Returns the network of `FILE.py:NAME` or `package.module:NAME`.

    Raises:
        NetworkError: the file, the module or the name does not exist, or it gives no network.
    """
    place, _, name = source.rpartition(":")
    file = expand_path(place) if place.endswith(".py") else None
    with _importable([*([] if file is None else [file.resolve().parent]), Path.cwd()]):
        try:
            network = resolve(f"{file or place}:{name}", {})
        except ValueError as error:
            raise NetworkError(f"{source}: {error}") from error
        if not isinstance(network, nn.Module):
            network = _called(source, network)
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{source}: must return a network, an nn.Module, got {type(network).__name__}; {REMEDY}")
    return network


def _called(source: str, function: Any) -> object:
    """Calls a function or a class without arguments and returns the result.

    Raises:
        NetworkError: the object is not callable, needs arguments, or raises an error.
    """
    if not callable(function):
        raise NetworkError(
            f"{source}: must be a network or a function that returns one, got {type(function).__name__}; {REMEDY}"
        )
    needed = _needed(function)
    if needed:
        raise NetworkError(
            f"{source}: must be called without arguments, but needs {', '.join(needed)}; give them defaults, or {REMEDY}"
        )
    try:
        return function()
    except Exception as error:
        # The message names the user's line; deeper frames are torch's.
        frames = [f for f in traceback.extract_tb(error.__traceback__)[1:] if "site-packages" not in f.filename]
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        raise NetworkError(f"{source}: raises {format_error(error)}{where}") from error


def _needed(function: Any) -> list[str]:
    """Returns the names of the required arguments."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # Some builtins have no signature.
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


@contextmanager
def _importable(folders: list[Path]) -> Iterator[None]:
    """Puts folders in front of `sys.path`, as Python does with the folder of a script."""
    added = [str(folder) for folder in folders]
    sys.path[:0] = added
    try:
        yield
    finally:
        for folder in added:
            with suppress(ValueError):
                sys.path.remove(folder)
