"""Reads files of weights as data, and loads them into a model. No code of the file runs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nas.errors import NetworkError, format_error, printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

# Keys under which training programs store a state dict among other values, in the order of preference.
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "state_dict_ema", "model", "net", "weights")
# Prefixes that wrappers put in front of every name: DataParallel, torch.compile, Lightning and others.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
# Largest number of names of each kind in a message.
SHOWN = 3


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns the tensors in a file of weights by name, on the CPU.

    A state dict that is stored among other values is found by its usual key. A prefix that all names share, such as
    `module.` of DataParallel, is removed.

    Args:
        path: File of safetensors, or of torch.save with a state dict. A pickle is read with `weights_only=True`.

    Raises:
        NetworkError: the file does not exist, is damaged, or holds no named tensors.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise NetworkError(f"--weights {path}: {what}; name a .safetensors file, or a state dict of torch.save (.pt, .pth)")
    content = _safetensors(path) if path.suffix == ".safetensors" else _pickle(path)
    weights = _state_dict(content)
    if not weights:
        raise NetworkError(
            f"--weights {path}: must hold a state dict, a mapping from names to tensors, found {_describe(content)}; write "
            "torch.save(network.state_dict(), FILE)"
        )
    return _without_prefix(weights)


def _safetensors(path: Path) -> object:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # The type of the error depends on the damage.
        raise NetworkError(
            f"--weights {path}: cannot be read as safetensors: {format_error(error)}; save it again"
        ) from error


def _pickle(path: Path) -> object:
    with path.open("rb") as file:
        start = file.read(2)
    # torch.save writes a zip archive. Versions of torch before 1.6 wrote a plain pickle, which starts with 0x80.
    if start != b"PK" and start[:1] != b"\x80":
        raise NetworkError(f"--weights {path}: must be a .safetensors file, or a state dict of torch.save; it is neither")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # The type of the error depends on the content. Its text advises to run the file's code.
        raise NetworkError(
            f"--weights {path}: is damaged, or holds other objects than tensors ({type(error).__name__}), which could run "
            "code; save the tensors alone, with torch.save(network.state_dict(), FILE)"
        ) from error
    return content


def _state_dict(content: object) -> dict[str, Tensor]:
    """Returns the named tensors of a file's content; an empty dict if there are none."""
    if not isinstance(content, Mapping):
        return {}
    for key in WRAPPERS:
        inner = content.get(key)
        # Only one level, because a file may hold a mapping that contains itself.
        if isinstance(inner, Mapping) and (tensors := _tensors(inner)):
            return tensors
    return _tensors(content)


def _tensors(content: Mapping[object, object]) -> dict[str, Tensor]:
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights without the prefixes that all names share."""
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in weights)), None):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _describe(content: object) -> str:
    if isinstance(content, Mapping):
        return f"a mapping with the keys {_names([str(key) for key in content])}" if content else "an empty mapping"
    return type(content).__name__


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], place: str) -> None:
    """Loads weights into a network. Every name and shape must match.

    Args:
        network: The network.
        weights: Tensors by name.
        place: Where the weights come from, for messages.

    Raises:
        NetworkError: names are missing or unexpected, or shapes differ; the message lists some of each.
    """
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in weights]
    unexpected = [name for name in weights if name not in wanted]
    misshaped = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in weights and weights[name].shape != value.shape
    ]
    # torch versions before 0.4.1 had no counters in batch norm. They do not change the logits of evaluation mode.
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    if any(faults.values()):
        parts = [f"{len(names)} {kind} ({_names(names)})" for kind, names in faults.items() if names]
        raise NetworkError(
            f"{place}: of {len(wanted)} weights of the model, {', '.join(parts)}; name the model of which the file was saved"
        )
    network.load_state_dict(dict(weights), strict=False)


def _names(names: Sequence[str]) -> str:
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return printable(", ".join([*names[:SHOWN], *more]))
