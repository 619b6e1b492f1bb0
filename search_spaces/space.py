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

    from matplotlib.figure import Figure  # noqa: TC004 (imported at run time it would cost a second)
    from torch import nn

    from search_spaces.graph import CellGraph  # noqa: TC004 (as above)

Value = str | int | float | bool | None
# Of an architecture of another space, everything is wrong.
MAX_LISTED_ERRORS = 8
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
                raise TypeError(
                    f"a choice must hold plain values (str, int, float, bool, None), got {value!r}; "
                    "give it a name, and look that up in build"
                )
            if value != value:
                raise ValueError("a choice cannot hold nan, which equals nothing, itself included")
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
        draw: Returns a drawing of the architecture; None if the space has none.
        graphs: Returns an architecture's cells, by name; None if the space is not one of cells.
        operations: What the edges of its cells may carry, single operations, `none` left out; empty if the space is not one
            of cells.
    """

    name: str
    choices: Mapping[str, Choice]
    build: Build
    canonical: Callable[[Architecture], dict[str, Value]] = dict
    draw: Callable[[Architecture], Figure] | None = None
    graphs: Callable[[Architecture], Mapping[str, CellGraph]] | None = None
    operations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks what Python does not.

        Raises:
            TypeError: the choices are no mapping of names to Choice.
            ValueError: there is no choice.
        """
        if not isinstance(self.choices, Mapping):
            raise TypeError(f"the choices of {self.name} must be a mapping of names to Choice, got {self.choices!r}")
        for name, choice in self.choices.items():
            if not isinstance(name, str) or not isinstance(choice, Choice):
                raise TypeError(f"choice {name!r} of {self.name} must be a Choice(value, value, ...), got {choice!r}")
        if not self.choices:
            raise ValueError(f"{self.name} must have at least one choice")

    @property
    def size(self) -> int:
        """The number of architectures, duplicates included."""
        return math.prod(len(choice.values) for choice in self.choices.values())

    def validate(self, architecture: Architecture) -> dict[str, Value]:
        """Returns a stored architecture in the order of the table, checked against it.

        Raises:
            ValueError: a name is unknown or missing, or a value is not among its choice's; the first faults are listed.
        """
        problems = []
        for name in architecture:
            if name not in self.choices:
                similar = difflib.get_close_matches(str(name), self.choices, 1)
                problems.append(f"unknown choice '{name}'" + (f"; did you mean '{similar[0]}'?" if similar else ""))
        for name, choice in self.choices.items():
            if name not in architecture:
                problems.append(f"choice '{name}' is missing")
            elif not any(_same_value(value, architecture[name]) for value in choice.values):
                problems.append(f"choice '{name}' must be one of {list(choice.values)}, got {architecture[name]!r}")
        if problems:
            rest = [f"and {len(problems) - MAX_LISTED_ERRORS} more"] if len(problems) > MAX_LISTED_ERRORS else []
            raise ValueError(f"not an architecture of {self.name}: " + "; ".join([*problems[:MAX_LISTED_ERRORS], *rest]))
        return {name: architecture[name] for name in self.choices}

    def suggest(self, trial: Suggest) -> dict[str, Value]:
        """Returns the architecture that a trial suggests."""
        return {name: trial.suggest_categorical(name, choice.values) for name, choice in self.choices.items()}

    def sample(self, generator: random.Random) -> dict[str, Value]:
        """Returns an architecture drawn uniformly."""
        return {name: generator.choice(choice.values) for name, choice in self.choices.items()}

    def neighbours(self, architecture: Architecture) -> Iterator[dict[str, Value]]:
        """Yields every architecture that differs in the value of one choice, in the order of the table."""
        architecture = self.validate(architecture)
        for name, choice in self.choices.items():
            for value in choice.values:
                if not _same_value(value, architecture[name]):
                    yield {**architecture, name: value}

    def mutate(self, architecture: Architecture, generator: random.Random) -> dict[str, Value]:
        """Returns an architecture drawn uniformly among the neighbours that compute other functions.

        Where all neighbours compute the same, one of these is mutated in turn.

        Raises:
            ValueError: nothing that can be reached in steps of one choice computes anything else.
        """
        key = self.key(architecture)
        frontier, seen = [dict(architecture)], {json.dumps([*architecture.values()])}
        while frontier:
            neighbours = [neighbour for start in frontier for neighbour in self.neighbours(start)]
            generator.shuffle(neighbours)
            for neighbour in neighbours:
                if self.key(neighbour) != key:
                    return neighbour
            frontier = []
            for neighbour in neighbours:
                text = json.dumps([*neighbour.values()])
                if text not in seen:
                    seen.add(text)
                    frontier.append(neighbour)
        raise ValueError(f"all architectures of {self.name} compute the same function: there is nothing to mutate to")

    def crossover(self, first: Architecture, second: Architecture, generator: random.Random) -> dict[str, Value]:
        """Returns an architecture that takes the value of each choice from one of two, drawn evenly."""
        return {name: generator.choice((first, second))[name] for name in self.choices}

    def index(self, architecture: Architecture) -> int:
        """Returns the number of an architecture, from 0; the last choice of the table varies fastest.

        Raises:
            ValueError: it is not an architecture of the space.
        """
        architecture, index = self.validate(architecture), 0
        for name, choice in self.choices.items():
            position = next(i for i, value in enumerate(choice.values) if _same_value(value, architecture[name]))
            index = index * len(choice.values) + position
        return index

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


def _same_value(first: Value, second: Value) -> bool:
    """Returns whether two values are one, of one type: 1, 1.0 and True are three."""
    return type(first) is type(second) and first == second
