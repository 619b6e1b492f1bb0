"""The space that a config names, and its options: what its function may be given, operations of one's own among them.

A parameter annotated with `Operation`, such as `list[str | Operation]`, takes names of OPERATIONS, and functions of
(channels, stride) by `path/to/file.py:NAME` or `package.module:NAME`. Settings hold what was written, with absolute paths,
so that they are plain data in every file and process; the functions are looked up when the space is made.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from nas.resolve import absolute, resolve
from search_spaces import OPERATIONS, SPACES, Operation, SearchSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import nn

    from nas.spaces.config import SpaceConfig


def open_space(config: SpaceConfig) -> SearchSpace:
    """Returns the search space that a config names, made with its options.

    Raises:
        ValueError: there is no such space, or it refuses its options.
    """
    resolved = resolve(config.name, SPACES)
    space = resolved(**with_functions(resolved, config.options)) if callable(resolved) else resolved
    if not isinstance(space, SearchSpace):
        raise ValueError(f"{config.name} must be a SearchSpace, or a function that returns one, got {space!r}")
    return space


def parameters_of(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns what a space's function takes; a parameter called `name` is no option, for YAML's `name` is the function's.

    Raises:
        ValueError: it cannot be said, as of some builtins.
        TypeError: likewise.
    """
    return {name: p for name, p in inspect.signature(factory).parameters.items() if name != "name"}


def annotations_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """Returns the annotations of a space's function; none where only a type checker can resolve them."""
    try:
        return get_type_hints(factory)
    except Exception:
        return {}


def is_plain(value: object) -> bool:
    """Returns whether a value reads back from YAML as it was written."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(v) for key, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


def holds_operations(kind: Any) -> bool:
    """Returns whether an annotation is, or contains, that of an operation."""
    return bool(kind == Operation) or any(holds_operations(inner) for inner in get_args(kind))


def check_operation(value: Any, folder: Path | None) -> str:
    """Returns an operation as it is kept: a name, several joined by +, or a reference to a function, its path absolute.

    Raises:
        ValueError: there is no such operation.
    """
    if not isinstance(value, str):
        raise ValueError(f"must be the name of an operation, or FILE.py:NAME, got {value!r}")
    if ":" not in value:
        for part in value.split("+"):
            resolve(part, OPERATIONS)
        return value
    if value.partition("+")[0] in OPERATIONS:
        raise ValueError(f"cannot add a function of your own to other operations: let the function add them, got {value!r}")
    function, name = resolve(value, OPERATIONS, folder), operation_name(value)
    if not callable(function):
        raise ValueError(f"must name a function of (channels, stride) that returns a module, got {function!r}")
    if name in OPERATIONS:
        raise ValueError(f"is called {name!r} like an operation that ships; give the function another name")
    return absolute(value, OPERATIONS, folder)


def operation_name(value: str) -> str:
    """Returns what an operation is called in architectures: of a reference to a function, the NAME."""
    return value.rpartition(":")[2]


def with_functions(factory: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options with the functions in the place of the references to operations.

    Raises:
        ValueError: one of them is not there.
    """
    hints = annotations_of(factory)
    return {name: _opened(value) if holds_operations(hints.get(name)) else value for name, value in options.items()}


def _opened(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_opened(entry) for entry in value]
    if not isinstance(value, str) or ":" not in value:
        return value
    function, name = resolve(value, OPERATIONS), operation_name(value)
    if not callable(function) or getattr(function, "__name__", None) == name:
        return function
    # A partial, or what another function has made: architectures know it by the name under which YAML finds it.
    return _named(function, name)


def _named(function: Callable[[int, int], nn.Module], name: str) -> Operation:
    @functools.wraps(function, updated=())
    def operation(channels: int, stride: int) -> nn.Module:
        return function(channels, stride)

    operation.__name__ = name
    return operation
