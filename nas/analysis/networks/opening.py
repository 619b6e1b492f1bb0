"""Opens networks of every kind: bundles, files, functions, and models of libraries."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from torch.nn.parameter import UninitializedParameter

from nas.analysis.networks.adapter import adapted
from nas.analysis.networks.archives import open_archive
from nas.analysis.networks.functions import open_named
from nas.analysis.networks.library import is_library, is_model, open_library
from nas.analysis.networks.onnx_files import is_onnx, open_onnx
from nas.analysis.networks.options import NetworkOptions
from nas.analysis.networks.paths import KINDS, expand_path
from nas.bundle.load import load
from nas.bundle.manifest import is_bundle
from nas.errors import NetworkError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def open_network(source: str, *, options: NetworkOptions = NetworkOptions(), trust: bool = False) -> nn.Module:
    """Returns a network in evaluation mode, on the device where the source puts it, usually the CPU.

    Args:
        source: One of:

            - Folder of a bundle.
            - File of torch.export or TorchScript, with any suffix.
            - File of ONNX. Nothing in such a file is code. Its operators run in onnxruntime, or in torch if they can be
              converted.
            - `torchvision:NAME` or `timm:NAME`, a model of that library, with `options.weights`.
            - `path/to/file.py:NAME` or `package.module:NAME`, where NAME is a network or a function without arguments that
              returns one. A Python file may import modules from its own folder and from the working directory.
        options: Adaptations of input and output, and the file of weights.
        trust: Run code that comes with a bundle or a .pt2 file.

    Raises:
        NetworkError: the source does not exist or is not a network, or an option does not apply to it.
        BundleError: the bundle is damaged.
    """
    path = expand_path(source)
    if not is_library(source):
        refuse_weights(source, options)
    if path.is_dir():
        return _bundle(path, options, trust)
    if path.is_file():
        network = _from_file(path, trust)
    elif is_library(source):
        network = open_library(source, options.weights)
    elif ":" in source:
        network = open_named(source)
    else:
        meant = f"did you mean torchvision:{source} with --weights FILE?" if is_model(source) else f"a network is {KINDS}"
        raise NetworkError(f"{source}: no such file or folder; {meant}")
    if any(isinstance(parameter, UninitializedParameter) for parameter in network.parameters()):
        raise NetworkError(f"{source}: has lazy layers without weights; run it on an image and load its weights first")
    with suppress(NotImplementedError):  # A graph of torch.export has a fixed mode.
        network.eval()
    return adapted(network, options)


def refuse_weights(source: str, options: NetworkOptions) -> None:
    """Checks that no file of weights is given for a network that has its own.

    Raises:
        NetworkError: the options name a file of weights.
    """
    if options.weights is not None:
        raise NetworkError(
            f"{source}: has its own weights; leave out --weights (weights), which is for torchvision:NAME and timm:NAME"
        )


def refuse_adaptations(bundle: str, options: NetworkOptions) -> None:
    """Checks that no option adapts the input or output of a bundle.

    Raises:
        NetworkError: the options adapt the input or the output.
    """
    if given := options.adaptations():
        names = ", ".join(f"--{name}" for name in given)
        raise NetworkError(
            f"{bundle}: is a bundle, which takes pixels in [0, 1] and returns logits; leave out {names} ({', '.join(given)})"
        )


def _bundle(folder: Path, options: NetworkOptions, trust: bool) -> nn.Module:
    if is_bundle(folder):
        refuse_adaptations(str(folder), options)
        return load(folder, trust=trust)
    bundles = sorted(path for path in folder.glob("bundles/*") if is_bundle(path))
    if bundles:
        raise NetworkError(f"{folder}: is a run, not a bundle; name one of its bundles, such as {bundles[0]}")
    raise NetworkError(f"{folder}: is a folder without manifest.json, so it is not a bundle; a network is {KINDS}")


def _from_file(path: Path, trust: bool) -> nn.Module:
    if path.suffix == ".py":
        raise NetworkError(f"{path}: must have a function's name; write {path}:NAME, a function that returns the network")
    if is_onnx(path):
        return open_onnx(path)
    return open_archive(path, trust=trust)
