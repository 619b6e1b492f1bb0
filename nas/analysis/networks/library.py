"""Opens models of torchvision and timm by name, with a file of weights.

Random weights are never meant, so a file is always needed. Nothing is downloaded.
"""

from __future__ import annotations

import difflib
import importlib
import warnings
from typing import TYPE_CHECKING, Any

import torch

from nas.analysis.networks.weights import load_weights, read_weights
from nas.errors import NetworkError, format_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

INSTALL = {"torchvision": "pip install torchvision", "timm": "pip install 'hardcell[timm]'"}
# Two different numbers of classes. The weights whose shapes differ between them belong to the last layer.
_PROBES = (7, 11)


def is_library(source: str) -> bool:
    """Returns whether a source is `torchvision:MODEL` or `timm:MODEL`."""
    return source.partition(":")[0] in INSTALL and ":" in source


def is_model(name: str) -> bool:
    """Returns whether torchvision has a model of this name that classifies images."""
    models = importlib.import_module("torchvision.models")
    return name in models.list_models(module=models)


def open_library(source: str, weights: Path | None) -> nn.Module:
    """Returns a model of torchvision or timm with the weights of a file.

    The number of classes is that of the last layer in the file.

    Args:
        source: `torchvision:MODEL` or `timm:MODEL`.
        weights: File of weights, as for `read_weights`.

    Raises:
        NetworkError: the library is not installed, the model is unknown, or the weights are not those of the model.
    """
    library, _, name = source.partition(":")
    build = _builder(source, library, name)
    if weights is None:
        raise NetworkError(
            f"{source}: needs a file of weights, because random weights are no trained network; give --weights FILE "
            "(weights), a .safetensors file or a state dict of torch.save"
        )
    stored = read_weights(weights.expanduser())
    place = f"{source}: --weights {weights}"
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = build(_number_of_classes(build, stored, place), stored)
        load_weights(network, stored, place)
    return network


def _builder(source: str, library: str, name: str) -> Callable[[int, Mapping[str, Tensor]], nn.Module]:
    """Returns a function from the number of classes and the stored weights to a model with random weights."""
    try:
        module = importlib.import_module(library)
    except ImportError as error:
        raise NetworkError(
            f"{source}: needs {library}, which does not import ({format_error(error)}); {INSTALL[library]}"
        ) from error
    if library == "timm":
        name = name.partition(".")[0]  # A tag, such as a1_in1k, names weights of timm.
        _check_name(source, name, module.list_models())
        return lambda classes, _: module.create_model(name, pretrained=False, num_classes=classes)
    models = importlib.import_module("torchvision.models")
    _check_name(source, name, models.list_models(module=models))

    def build(classes: int, stored: Mapping[str, Tensor]) -> nn.Module:
        # Both are built without `transform_input`, so the weights of torchvision need mean 0.5 and std 0.5.
        settings: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        if settings and not any(key.startswith(("aux", "AuxLogits")) for key in stored):
            settings["aux_logits"] = False
        network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **settings)
        return network

    return build


def _check_name(source: str, name: str, known: Sequence[str]) -> None:
    """Checks that a library has a model of this name.

    Raises:
        NetworkError: it has none; the message names similar ones.
    """
    if name in known:
        return
    near = difflib.get_close_matches(name.lower(), known, 3)
    library = source.partition(":")[0]
    hint = (
        f"did you mean {' or '.join(f'{library}:{other}' for other in near)}?"
        if near
        else f"list_models() of {library} lists them"
    )
    raise NetworkError(f"{source}: {library} has no model {name!r} that classifies images; {hint}")


def _number_of_classes(
    build: Callable[[int, Mapping[str, Tensor]], nn.Module], stored: Mapping[str, Tensor], place: str
) -> int:
    """Returns the number of classes of stored weights: the number of rows of the model's last layer.

    Raises:
        NetworkError: the last layer is not among the stored weights.
    """
    try:
        with torch.device("meta"):
            few, many = (build(classes, stored).state_dict() for classes in _PROBES)
    except NotImplementedError:  # Some models, such as RegNet, compute with tensors while they are built.
        few, many = (build(classes, stored).state_dict() for classes in _PROBES)
    last = [name for name, value in few.items() if name in many and value.shape != many[name].shape]
    for name in last:
        if name in stored and stored[name].ndim:
            return stored[name].shape[0]
    names = ", ".join(last[:2])
    raise NetworkError(
        f"{place}: has no weights of the model's last layer, {names}; name the model that the file was saved from, and "
        "save all of its weights"
    )
