"""Selection of the logits from a network's output: a tuple, a dict or an object with attributes."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import final

from torch import Tensor

# Largest number of parts of an output that a message names.
SHOWN = 6
_USUAL = ("logits", "output", "out", "scores", "0")


@final
class AdapterError(ValueError):
    """An option for the input or output of a network does not match the images or the output."""


def select_output(output: object, name: str | int) -> Tensor:
    """Returns a part of a network's output, a tensor.

    Args:
        output: Output of a network for N images.
        name: Key of a mapping, name of an attribute, or index of a sequence. Text such as "1" or "-1" is an index.

    Raises:
        AdapterError: the output is a tensor, has no such part, or the part is no tensor.
    """
    if isinstance(output, Tensor):
        raise AdapterError(f"--output {name}: the network returns one tensor, {_shape(output)}; leave out --output (output)")
    parts, key = _parts(output), str(name)
    if isinstance(output, list | tuple) and re.fullmatch(r"-\d+", key):
        key = str(len(output) + int(key))
    # An attribute may be a property, which `_parts` does not list.
    public = key.isidentifier() and not key.startswith("_")
    part = parts[key] if key in parts else getattr(output, key, None) if public else None
    if isinstance(part, Tensor):
        return part
    returned = f"the network returns {describe_output(output)}"
    if key in parts:
        raise AdapterError(f"--output {name}: must name a tensor, got {type(part).__name__}; {returned}")
    near = difflib.get_close_matches(key, parts, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise AdapterError(f"--output {name}: there is no such part; {returned}{hint}")


def describe_output(output: object) -> str:
    """Returns what a network returned, for messages: the type, and the names and shapes of its parts."""
    if isinstance(output, Tensor):
        return f"a tensor {_shape(output)}"
    parts = _parts(output)
    if not parts:
        return type(output).__name__
    shown = [f"{key}: {_shape(part)}" for key, part in list(parts.items())[:SHOWN]]
    more = [f"and {len(parts) - SHOWN} more"] if len(parts) > SHOWN else []
    return f"{type(output).__name__} with {', '.join([*shown, *more])}"


def likely_output(output: object) -> str | None:
    """Returns the name of the part that most likely holds the logits (N, K); None if no part is a matrix."""
    matrices = [key for key, part in _parts(output).items() if isinstance(part, Tensor) and part.ndim == 2]
    return next((key for key in _USUAL if key in matrices), next(iter(matrices), None))


def _parts(output: object) -> dict[str, object]:
    """Returns the parts of an output by name: keys, indices, or attributes."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        indices = {str(place): value for place, value in enumerate(output)}
        return dict(zip(map(str, output._fields), output, strict=True)) | indices
    if isinstance(output, list | tuple):
        return {str(place): value for place, value in enumerate(output)}
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    return {key: value for key, value in getattr(output, "__dict__", {}).items() if not key.startswith("_")}


def _shape(part: object) -> str:
    if not isinstance(part, Tensor):
        return type(part).__name__
    return f"({', '.join(map(str, part.shape))})"
