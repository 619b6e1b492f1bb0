"""Paths of networks, and what messages say about the kinds of networks."""

from __future__ import annotations

from pathlib import Path

from nas.errors import NetworkError

KINDS = (
    "a bundle's folder, a .pt2 file, a TorchScript file, an .onnx file, FILE.py:NAME, package.module:NAME, or "
    "torchvision:MODEL or timm:MODEL with --weights FILE"
)
REMEDY = "write a function without arguments that returns the network with its weights, and pass FILE.py:FUNCTION instead"


def expand_path(source: str) -> Path:
    """Returns a path with ~ expanded.

    Raises:
        NetworkError: the user in ~user does not exist.
    """
    try:
        return Path(source).expanduser()
    except RuntimeError as error:
        raise NetworkError(f"{source}: {error}") from error
