"""Opens networks from a bundle, a .pt2 file, a TorchScript file or a custom function."""

from __future__ import annotations

import inspect
import sys
import traceback
import warnings
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from nas.bundle.exported import open_exported
from nas.bundle.load import load
from nas.bundle.manifest import is_bundle
from nas.errors import NetworkError, format_error
from nas.resolve import UntrustedCodeError, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

_KINDS = "a bundle's folder, a .pt2 file, a TorchScript file, FILE.py:NAME or package.module:NAME"
_REMEDY = "write a function without arguments that returns the network with its weights, and pass FILE.py:FUNCTION instead"


def open_network(source: str, *, trust: bool = False) -> nn.Module:
    """Returns a network in evaluation mode, on the device where the source puts it, usually the CPU.

    Args:
        source: One of: folder of a bundle; file of torch.export or TorchScript, with any suffix; `path/to/file.py:NAME` or
            `package.module:NAME`, where NAME is a network or a function without arguments that returns one. A Python file
            may import modules from its own folder and from the working directory.
        trust: Run code that comes with a bundle or a .pt2 file.

    Raises:
        NetworkError: the source does not exist or is not a network.
        BundleError: the bundle is damaged.
    """
    path = expand_path(source)
    if path.is_dir():
        return _bundle(path, trust)
    if path.is_file():
        network = _from_file(path, trust)
    elif ":" in source:
        network = _named(source)
    else:
        raise NetworkError(f"{source}: no such file or folder; a network is {_KINDS}")
    if any(isinstance(parameter, UninitializedParameter) for parameter in network.parameters()):
        raise NetworkError(f"{source}: has lazy layers without weights; run it on an image and load its weights first")
    with suppress(NotImplementedError):  # A graph of torch.export has a fixed mode.
        network.eval()
    return network


def expand_path(source: str) -> Path:
    """Returns a path with ~ expanded.

    Raises:
        NetworkError: the user in ~user does not exist.
    """
    try:
        return Path(source).expanduser()
    except RuntimeError as error:
        raise NetworkError(f"{source}: {error}") from error


def _bundle(folder: Path, trust: bool) -> nn.Module:
    if is_bundle(folder):
        return load(folder, trust=trust)
    bundles = sorted(path for path in folder.glob("bundles/*") if is_bundle(path))
    if bundles:
        raise NetworkError(f"{folder}: is a run, not a bundle; name one of its bundles, such as {bundles[0]}")
    raise NetworkError(f"{folder}: is a folder without manifest.json, so it is not a bundle; a network is {_KINDS}")


def _from_file(path: Path, trust: bool) -> nn.Module:
    names = _names(path)
    if names & {"archive_format", "serialized_exported_program.json"}:
        return _exported(path, trust)
    if "constants.pkl" in names:
        if path.suffix == ".pt2" and not trust:
            raise NetworkError(f"{path}: is TorchScript, which may run code; if you trust it, use --trust (trust=True)")
        return _scripted(path)
    if path.suffix == ".py":
        raise NetworkError(f"{path}: must have a function's name; write {path}:NAME, a function that returns the network")
    kind = "a pickle (of weights or of a whole module)" if _is_pickle(path, names) else "neither"
    raise NetworkError(f"{path}: must hold a graph of torch.export or TorchScript, found {kind}; {_REMEDY}")


def _names(path: Path) -> set[str]:
    """Returns the base names of the files in a zip archive; an empty set if the file is not a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {PurePosixPath(name).name for name in archive.namelist()}
    except zipfile.BadZipFile:
        return set()


def _is_pickle(path: Path, names: set[str]) -> bool:
    with path.open("rb") as file:
        # Since torch 1.6, torch.save writes data.pkl in a zip. Before, it wrote a plain pickle, which starts with 0x80.
        return "data.pkl" in names or file.read(1) == b"\x80"


def _exported(path: Path, trust: bool) -> nn.Module:
    try:
        return open_exported(path, trust=trust)
    except UntrustedCodeError as error:
        raise NetworkError(f"{path}: {error}") from error
    except Exception as error:  # The type of the error depends on the damage.
        raise NetworkError(
            f"{path}: cannot be loaded as a graph of torch.export: {format_error(error)}; export it again with torch "
            f"{torch.__version__}, or {_REMEDY}"
        ) from error


def _scripted(path: Path) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network: nn.Module = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:  # The type of the error depends on the damage.
        raise NetworkError(
            f"{path}: cannot be loaded as TorchScript: {format_error(error)}; save it again, or {_REMEDY}"
        ) from error
    return network


def _named(source: str) -> nn.Module:
    """Returns the network of `FILE.py:NAME` or `package.module:NAME`."""
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
        raise NetworkError(f"{source}: must return a network, an nn.Module, got {type(network).__name__}; {_REMEDY}")
    return network


def _called(source: str, function: Any) -> object:
    """Calls a function or a class without arguments and returns the result.

    Raises:
        NetworkError: the object is not callable, needs arguments, or raises an error.
    """
    if not callable(function):
        raise NetworkError(
            f"{source}: must be a network or a function that returns one, got {type(function).__name__}; {_REMEDY}"
        )
    needed = _needed(function)
    if needed:
        raise NetworkError(
            f"{source}: must be called without arguments, but needs {', '.join(needed)}; give them defaults, or {_REMEDY}"
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
