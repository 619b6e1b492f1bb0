"""What a profile is measured on and with, as plain data: it decides whether stored parts belong to the same profile."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evaluators.attacks import Attack, describe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evaluators.profiles.options import ProfileOptions


def identity(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    epsilons: Mapping[str, Sequence[float]],
    options: ProfileOptions,
    seed: int,
) -> dict[str, Any]:
    """Returns all that the radii of a profile depend on, as JSON holds it. Large things are hashes.

    Args:
        network: Any network. Its layers, parameters and buffers are hashed, but not its code.
        x: Images, (N, ...).
        y: Labels, (N,).
        attacks: Attacks by name, with the networks that they hold.
        epsilons: Given grid of each norm, in pixel units.
        options: Settings of the profile.
        seed: Seed of the profile.
    """
    entries = {
        "hardcell": _version(),
        "torch": torch.__version__,
        "network": hash_of_network(network),
        "images": hash_of_tensors([x]),
        "labels": hash_of_tensors([y]),
        **{f"attack {name}": [describe(attack), *_networks(attack)] for name, attack in attacks.items()},
        "order of the attacks": list(attacks),
        **{f"epsilons of {norm}": [float(epsilon) for epsilon in grid] for norm, grid in epsilons.items()},
        "epsilons to include": options.include,
        "union": options.union,
        "tolerance": options.tolerance,
        "batch_size": options.batch_size,
        "seed": seed,
    }
    plain: dict[str, Any] = json.loads(json.dumps(entries))
    return plain


def _version() -> str | None:
    """Returns the version of Hardcell; None if it is not installed."""
    try:
        return importlib.metadata.version("hardcell")
    except importlib.metadata.PackageNotFoundError:
        return None


def hash_of_network(network: nn.Module) -> str:
    """Returns a hash of the layers with their settings, and of all parameters and buffers, 16 hexadecimal digits."""
    layers = [(name, type(layer).__qualname__, layer.extra_repr()) for name, layer in network.named_modules()]
    # Some layers print the address of an object, which differs from process to process.
    text = re.sub("0x[0-9a-fA-F]+", "", repr(layers))
    tensors = dict([*network.named_parameters(), *network.named_buffers()])
    return hash_of_tensors(tensors.values(), f"{text} {list(tensors)}")


def hash_of_tensors(tensors: Any, text: str = "") -> str:
    """Returns a hash of tensors of any shape and dtype, and of a text, 16 hexadecimal digits."""
    digest = hashlib.sha256(text.encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        # In pieces, because a copy of all images would need as much memory as the images.
        for piece in tensor.detach().split(1024) if tensor.ndim else [tensor.detach()]:
            flat = piece.cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes() if len(flat) else b"")
    return digest.hexdigest()[:16]


def _networks(value: Any) -> Iterator[str]:
    """Returns the hashes of all networks in the settings of an attack, such as the source of a transfer attack."""
    if isinstance(value, nn.Module):
        yield hash_of_network(value)
    elif isinstance(value, Attack):
        names = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else list(vars(value))
        for name in names:
            yield from _networks(getattr(value, name))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _networks(entry)
