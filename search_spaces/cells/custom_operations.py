"""Validation of operations: names of built-in operations and custom functions.

A custom operation is a function of (channels, stride) that returns a module, as in operations.py. It is tested on a small
image, because an error inside a network is hard to trace back to the operation.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import torch
from torch import nn

from search_spaces.operations import OPERATIONS, Operation

if TYPE_CHECKING:
    from collections.abc import Sequence

# An odd side distinguishes ceil(H / 2) from floor(H / 2). Different sides distinguish height from width.
TEST_SIZE = (9, 6)


def read_operations(operations: Sequence[str | Operation]) -> tuple[list[str], dict[str, Operation]]:
    """Returns the names of all operations, and the custom operations by the names of their functions.

    Raises:
        ValueError: A name is unknown or occurs twice, or an operation is neither a name nor a named function.
    """
    names: list[str] = []
    sets: list[list[str]] = []
    custom: dict[str, Operation] = {}
    for operation in operations:
        if isinstance(operation, str):
            name, parts = operation, operation.split("+")
            if len(parts) > 1 and ("none" in parts or len({*parts}) < len(parts) or {*parts} in map(set, sets)):
                raise ValueError(
                    f"a set of operations must hold each name once and not 'none', and be listed once, got '{operation}'"
                )
            sets.append(parts)
            for part in parts:
                if part not in OPERATIONS:
                    similar = difflib.get_close_matches(part, OPERATIONS, 1)
                    hint = f"did you mean '{similar[0]}'?" if similar else f"the operations are {', '.join(OPERATIONS)}"
                    raise ValueError(f"unknown operation '{part}'; {hint}")
        else:
            name = getattr(operation, "__name__", "")
            if not callable(operation) or not name.isidentifier() or name in OPERATIONS:
                raise ValueError(
                    "an operation must be a name in OPERATIONS, or a function of (channels, stride) with another name, "
                    f"got {operation!r}"
                )
            custom[name] = operation
        if name in names:
            raise ValueError(f"each operation must have a different name, got '{name}' twice")
        names.append(name)
    return names, custom


def try_operation(name: str, operation: Operation, channels: int, stride: int) -> None:
    """Builds the module of an operation and runs it on a small image.

    Args:
        name: Name of the operation, for error messages.
        operation: Function that builds the module.
        channels: Number of channels C.
        stride: Stride, 1 or 2.

    Raises:
        ValueError: The module does not build or run, does not map (N, C, H, W) to
            (N, C, ceil(H / stride), ceil(W / stride)), or changes its input.
    """
    label = f"operation '{name}' at stride {stride}"
    original = torch.linspace(-1, 1, 2 * channels * TEST_SIZE[0] * TEST_SIZE[1]).view(2, channels, *TEST_SIZE)
    x = original.clone()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            module = operation(channels, stride)
            if not isinstance(module, nn.Module):
                raise TypeError(f"a function of (channels, stride) must return a torch.nn.Module, got {module!r}")
            output = module.eval()(x)
    except Exception as error:  # The custom function may raise any error.
        line = next(iter(str(error).strip().splitlines()), "")
        raise ValueError(f"{label} cannot be used with {channels} channels: {type(error).__name__}: {line}") from error
    expected = (2, channels, *(-(-side // stride) for side in TEST_SIZE))
    if not isinstance(output, torch.Tensor) or output.shape != expected:
        sides = "H, W" if stride == 1 else f"ceil(H/{stride}), ceil(W/{stride})"
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(f"{label} must map (N, C, H, W) to (N, C, {sides}), got {got} for {tuple(original.shape)}")
    if not torch.equal(x, original):
        raise ValueError(f"{label} changes its input, which other edges also read; look for inplace=True and +=")
