"""Opens files of torch.export and TorchScript."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import torch

from nas.analysis.networks.paths import REMEDY
from nas.bundle.exported import open_exported
from nas.errors import NetworkError, format_error
from nas.resolve import UntrustedCodeError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def open_archive(path: Path, *, trust: bool = False) -> nn.Module:
    """Returns the network in a file of torch.export or TorchScript.

    Args:
        path: The file, with any suffix.
        trust: Run code that comes with the file.

    Raises:
        NetworkError: the file is damaged, holds no network, or may run code and is not trusted.
    """
    names = _names(path)
    if names & {"archive_format", "serialized_exported_program.json"}:
        return _exported(path, trust)
    if "constants.pkl" in names:
        if path.suffix == ".pt2" and not trust:
            raise NetworkError(f"{path}: is TorchScript, which may run code; if you trust it, use --trust (trust=True)")
        return _scripted(path)
    pickled = _is_pickle(path, names)
    kind = "a pickle (of weights or of a whole module)" if pickled else "neither"
    weights = pickled or path.suffix == ".safetensors"
    library = f"; for weights of a known model, pass torchvision:MODEL --weights {path}" * weights
    raise NetworkError(f"{path}: must hold a graph of torch.export or TorchScript, found {kind}; {REMEDY}{library}")


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
            f"{torch.__version__}, or {REMEDY}"
        ) from error


def _scripted(path: Path) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network: nn.Module = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:  # The type of the error depends on the damage.
        raise NetworkError(
            f"{path}: cannot be loaded as TorchScript: {format_error(error)}; save it again, or {REMEDY}"
        ) from error
    return network
