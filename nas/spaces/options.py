"""Builds the search space of a config, and checks its options, including custom operations.

An option may have a type that contains `Operation`, such as `list[str | Operation]`. Such an option accepts names of
OPERATIONS and functions of (channels, stride), written as `path/to/file.py:NAME` or `package.module:NAME`. Settings store
these references as text with absolute paths, so that they are plain data in every file and process. `open_space` resolves
them to functions.
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


# Largest number in the options of a space that comes with a bundle.
LARGEST_OPTION = 1024


def open_space(config: SpaceConfig, *, trust: bool) -> SearchSpace:
    """Returns the search space of a config.

    Args:
        config: Name and options of the space.
        trust: Import the code of a custom space and of custom operations.

    Raises:
        UntrustedCodeError: the space or an operation is custom, and `trust` is false.
        ValueError: the name is unknown or names no search space, or an option is invalid.
    """
    resolved = resolve(config.name, SPACES, trust=trust)
    if not trust:
        _check_sizes(config.options)
    space = resolved(**with_functions(resolved, config.options, trust=trust)) if callable(resolved) else resolved
    if not isinstance(space, SearchSpace):
        raise ValueError(f"{config.name} must be a SearchSpace, or a function that returns one, got {space!r}")
    return space


def _check_sizes(options: Mapping[str, Any]) -> None:
    """Checks that no option is so large that building a network would use up memory or time.

    Raises:
        ValueError: an option is above LARGEST_OPTION.
    """
    for name, value in options.items():
        for entry in value if isinstance(value, list | tuple) else (value,):
            if isinstance(entry, int | float) and not abs(entry) <= LARGEST_OPTION:
                raise ValueError(f"option {name} must be at most {LARGEST_OPTION}, got {entry}")


def parameters_of(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns the options of a space's factory function. `name` is excluded: in YAML it names the space.

    Raises:
        ValueError: the function has no signature, like some builtins.
        TypeError: the factory is not callable.
    """
    return {name: p for name, p in inspect.signature(factory).parameters.items() if name != "name"}


def annotations_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """Returns the annotations of a space's factory function; {} if one of them cannot be evaluated."""
    try:
        return get_type_hints(factory)
    except Exception:
        return {}


def is_plain(value: object) -> bool:
    """Returns whether a value is plain data that YAML can store."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(v) for key, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


def holds_operations(kind: Any) -> bool:
    """Returns whether an annotation is or contains `Operation`."""
    return bool(kind == Operation) or any(holds_operations(inner) for inner in get_args(kind))


def check_operation(value: Any, folder: Path | None, *, trust: bool) -> str:
    """Returns the stored text of an operation: a name, names joined by +, or a reference with an absolute path.

    Raises:
        UntrustedCodeError: the operation is custom, and `trust` is false.
        ValueError: the value does not name an operation, adds a custom function to other operations, or names a custom
            function like a built-in operation.
    """
    if not isinstance(value, str):
        raise ValueError(f"must be the name of an operation, or FILE.py:NAME, got {value!r}")
    if ":" not in value:
        for part in value.split("+"):
            resolve(part, OPERATIONS)
        return value
    if value.partition("+")[0] in OPERATIONS:
        raise ValueError(f"cannot add a custom function to other operations; add them inside the function, got {value!r}")
    function, name = resolve(value, OPERATIONS, folder, trust=trust), operation_name(value)
    if not callable(function):
        raise ValueError(f"must name a function of (channels, stride) that returns a module, got {function!r}")
    if name in OPERATIONS:
        raise ValueError(f"is called {name!r} like a built-in operation; rename the function")
    return absolute(value, OPERATIONS, folder)


def operation_name(value: str) -> str:
    """Returns the name of an operation in architectures; for FILE.py:NAME it is NAME."""
    return value.rpartition(":")[2]


def with_functions(factory: Callable[..., Any], options: Mapping[str, Any], *, trust: bool) -> dict[str, Any]:
    """Returns the options with references to operations replaced by their functions.

    Raises:
        UntrustedCodeError: an operation is custom, and `trust` is false.
        ValueError: a reference cannot be resolved.
    """
    hints = annotations_of(factory)
    return {name: _opened(value, trust) if holds_operations(hints.get(name)) else value for name, value in options.items()}


def _opened(value: Any, trust: bool) -> Any:
    if isinstance(value, list | tuple):
        return [_opened(entry, trust) for entry in value]
    if not isinstance(value, str) or ":" not in value:
        return value
    function, name = resolve(value, OPERATIONS, trust=trust), operation_name(value)
    if not callable(function) or getattr(function, "__name__", None) == name:
        return function
    # A partial or a closure has another name. Architectures must use the name in YAML.
    return _named(function, name)


def _named(function: Callable[[int, int], nn.Module], name: str) -> Operation:
    @functools.wraps(function, updated=())
    def operation(channels: int, stride: int) -> nn.Module:
        return function(channels, stride)

    operation.__name__ = name
    return operation
