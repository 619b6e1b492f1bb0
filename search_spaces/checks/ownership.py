"""Finds parameters that a network uses but does not own: those of unregistered layers, and those of another network."""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Iterator, Mapping, Set
from typing import final

from torch import Tensor, nn

# Lists, dicts and objects within an attribute are searched down to this depth.
DEPTH = 4


def unregistered_layers(network: nn.Module) -> list[str]:
    """Returns the attributes that hold layers or parameters that their module has not registered, as `path (type)`.

    Such parameters are not in `network.parameters()`, so they are neither trained, moved to a device nor saved.
    """
    registered = {id(tensor) for tensor in _tensors(network)}
    names = []
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            if any(id(tensor) not in registered for tensor in _reachable(value, DEPTH)):
                names.append(f"{path}.{name} ({type(value).__name__})".removeprefix("."))
    return names


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _reachable(value: object, depth: int) -> Iterator[Tensor]:
    """Yields the parameters, and the buffers of modules, within an attribute."""
    if isinstance(value, nn.Module):
        yield from _tensors(value)
    elif isinstance(value, Tensor):
        if isinstance(value, nn.Parameter) or (value.is_leaf and value.requires_grad):
            yield value
    elif depth:
        for part in _parts(value):
            yield from _reachable(part, depth - 1)


def _parts(value: object) -> list[object]:
    """Returns the values within a container, a function or an object of a custom class."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple | Set):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__self__]
    if isinstance(value, types.FunctionType):  # An empty closure cell has no content.
        return [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
    if isinstance(value, type | types.ModuleType) or type(value).__module__.partition(".")[0] == "torch":
        return []
    return list(getattr(value, "__dict__", {}).values())


@final
class ParameterOwners:
    """The parameters of networks that still exist, by the address of their memory."""

    def __init__(self) -> None:
        self._owners: dict[int, weakref.ref[Tensor]] = {}

    def add(self, network: nn.Module) -> str | None:
        """Adds a network; returns the name of a parameter whose memory is that of an earlier network, or None."""
        shared = None
        parameters = {name: parameter for name, parameter in network.named_parameters() if parameter.numel()}
        places = {name: parameter.untyped_storage().data_ptr() for name, parameter in parameters.items()}
        for name, place in places.items():
            owner = self._owners.get(place)
            if owner is not None and owner() is not None:
                shared = shared or name
        self._owners |= {places[name]: weakref.ref(parameter) for name, parameter in parameters.items()}
        return shared
