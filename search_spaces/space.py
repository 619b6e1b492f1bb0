"""A search space: a table of named choices, a function that builds the network, and one that canonicalises."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final

if TYPE_CHECKING:
    import random

    from torch import nn

Value = str | int | float | bool | None
Architecture = Mapping[str, Value]


class Suggest(Protocol):
    """Whatever can be asked for one value of several: an Optuna trial, for one."""

    def suggest_categorical(self, name: str, choices: tuple[Value, ...], /) -> Value:
        """Returns one of the choices."""


class Build(Protocol):
    """Builds the network of an architecture."""

    def __call__(self, architecture: Architecture, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Returns a module that maps images (N, C, H, W) to logits (N, K), with random weights."""


@final
@dataclass(frozen=True, init=False)
class Choice:
    """One thing that may vary, and the values that it may take.

    Attributes:
        values: Plain, distinct values, at least one.
    """

    values: tuple[Value, ...]

    def __init__(self, *values: Value) -> None:
        """Takes the values.

        Raises:
            TypeError: a value is not str, int, float, bool or None.
            ValueError: there is no value, or one comes twice.
        """
        for value in values:
            if not isinstance(value, str | int | float | bool | None):
                raise TypeError(f"a choice must hold plain values (str, int, float, bool, None), got {value!r}")
        if not values:
            raise ValueError("a choice must hold at least one value")
        if len({(type(value), value) for value in values}) < len(values):
            raise ValueError(f"a choice must hold each value once, got {values}")
        object.__setattr__(self, "values", tuple(values))


@final
@dataclass(frozen=True)
class SearchSpace:
    """A space of architectures. The same names exist in every one of them.

    Attributes:
        name: Name of the space.
        choices: What may vary, by name, in order.
        build: Makes an ordinary module of ordinary layers; its weights are random, seeded by the caller.
        canonical: Maps architectures that compute the same functions to one of them, and that one to itself.
        draw: Returns the architecture as SVG text; None if the space has no drawing.
    """

    name: str
    choices: Mapping[str, Choice]
    build: Build
    canonical: Callable[[Architecture], dict[str, Value]] = dict
    draw: Callable[[Architecture], str] | None = None

    @property
    def size(self) -> int:
        """The number of architectures, duplicates included."""
        return math.prod(len(choice.values) for choice in self.choices.values())

    def validate(self, architecture: Architecture) -> dict[str, Value]:
        """Returns a stored architecture in the order of the table, checked against it.

        Raises:
            ValueError: a name is unknown or missing, or a value is not among its choice's; all faults are listed.
        """
        faults = []
        for name in architecture:
            if name not in self.choices:
                near = difflib.get_close_matches(str(name), self.choices, 1)
                faults.append(f"unknown choice '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))
        for name, choice in self.choices.items():
            if name not in architecture:
                faults.append(f"choice '{name}' is missing")
            elif not any(type(v) is type(architecture[name]) and v == architecture[name] for v in choice.values):
                faults.append(f"choice '{name}' must be one of {list(choice.values)}, got {architecture[name]!r}")
        if faults:
            raise ValueError(f"not an architecture of {self.name}: " + "; ".join(faults))
        return {name: architecture[name] for name in self.choices}

    def suggest(self, trial: Suggest) -> dict[str, Value]:
        """Returns the architecture that a trial suggests."""
        return {name: trial.suggest_categorical(name, choice.values) for name, choice in self.choices.items()}

    def sample(self, generator: random.Random) -> dict[str, Value]:
        """Returns an architecture drawn uniformly."""
        return {name: generator.choice(choice.values) for name, choice in self.choices.items()}

    def at(self, index: int) -> dict[str, Value]:
        """Returns the architecture of this index, 0 to size - 1; the last choice of the table varies fastest.

        Raises:
            IndexError: there is no such architecture.
        """
        if not 0 <= index < self.size:
            raise IndexError(f"index must be from 0 to {self.size - 1}, got {index}")
        values: dict[str, Value] = {}
        for name, choice in reversed(list(self.choices.items())):
            index, digit = divmod(index, len(choice.values))
            values[name] = choice.values[digit]
        return {name: values[name] for name in self.choices}

    def enumerate(self) -> Iterator[dict[str, Value]]:
        """Yields every architecture, in the order of its index."""
        return (self.at(index) for index in range(self.size))

    def key(self, architecture: Architecture) -> str:
        """Returns the hash of the canonical form, 12 hexadecimal digits: equal for architectures of equal function."""
        text = json.dumps([self.name, list(self.canonical(architecture).items())])
        return hashlib.sha256(text.encode()).hexdigest()[:12]
