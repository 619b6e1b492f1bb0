"""Search space: a table of named choices, a function that builds the network, and a function for the canonical form."""

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

    from matplotlib.figure import Figure  # noqa: TC004 (the import takes about a second at run time)
    from torch import nn

    from search_spaces.graph import CellGraph  # noqa: TC004 (as above)

Value = str | int | float | bool | None
# An architecture of another space violates every rule, so the list of errors is cut.
MAX_LISTED_ERRORS = 8
Architecture = Mapping[str, Value]


class Suggest(Protocol):
    """An object that suggests one value of several, such as an Optuna trial."""

    def suggest_categorical(self, name: str, choices: tuple[Value, ...], /) -> Value:
        """Returns one of the choices of the parameter with this name."""


class Build(Protocol):
    """Builds the network of an architecture."""

    def __call__(self, architecture: Architecture, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Returns a module that maps images (N, C, H, W) to logits (N, K), with random weights.

        Args:
            architecture: Value of each choice, by name.
            input_shape: Shape (C, H, W) of one image.
            num_classes: Number of classes K.
        """


@final
@dataclass(frozen=True, init=False)
class Choice:
    """One categorical choice of a search space.

    Attributes:
        values: Distinct values of type str, int, float, bool or None, at least one. 1, 1.0 and True are distinct.
    """

    values: tuple[Value, ...]

    def __init__(self, *values: Value) -> None:
        """Checks and stores the values.

        Raises:
            TypeError: A value is not str, int, float, bool or None.
            ValueError: There is no value, a value is nan, or a value occurs twice.
        """
        for value in values:
            if not isinstance(value, str | int | float | bool | None):
                raise TypeError(
                    f"a choice must hold plain values (str, int, float, bool, None), got {value!r}; "
                    "give the object a name and look it up in build"
                )
            if value != value:
                raise ValueError("a choice must not hold nan, because nan is not equal to itself")
        if not values:
            raise ValueError("a choice must hold at least one value")
        if len({(type(value), value) for value in values}) < len(values):
            raise ValueError(f"a choice must hold each value once, got {values}")
        object.__setattr__(self, "values", tuple(values))


@final
@dataclass(frozen=True)
class SearchSpace:
    """A search space. Every architecture has one value for each choice.

    Attributes:
        name: Name of the space.
        choices: Choices by name. The order is kept.
        build: Function that returns a network with random weights. The caller sets the seed of torch.
        canonical: Function that maps all architectures that can compute the same functions to one of them, the canonical
            form.
            The canonical form maps to itself.
        draw: Function that returns a drawing of an architecture; None if the space has none.
        graphs: Function that returns the graphs of the cells of an architecture, by name of the cell; None if the space has
            no cells.
        operations: Names of the single operations on the edges of the cells, without `none`; empty if the space has no
            cells.

    Example:
        >>> import random
        >>> from search_spaces import Choice, SearchSpace
        >>> from torch import nn
        >>> def build(architecture, input_shape, num_classes):
        ...     layers = [nn.Flatten(), nn.LazyLinear(architecture["width"]), nn.ReLU(), nn.LazyLinear(num_classes)]
        ...     return nn.Sequential(*layers)
        >>> space = SearchSpace("perceptrons", {"width": Choice(16, 32, 64)}, build)
        >>> space.size
        3
        >>> space.sample(random.Random(0))
        {'width': 32}
    """

    name: str
    choices: Mapping[str, Choice]
    build: Build
    canonical: Callable[[Architecture], dict[str, Value]] = dict
    draw: Callable[[Architecture], Figure] | None = None
    graphs: Callable[[Architecture], Mapping[str, CellGraph]] | None = None
    operations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the types of the choices, which Python does not check.

        Raises:
            TypeError: The choices are not a mapping of names to Choice.
            ValueError: There is no choice.
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
        """Number of architectures. Equivalent architectures are counted separately."""
        return math.prod(len(choice.values) for choice in self.choices.values())

    def validate(self, architecture: Architecture) -> dict[str, Value]:
        """Checks an architecture and returns it with the choices in the order of the space.

        Raises:
            ValueError: A name is unknown or missing, or a value is not one of the values of its choice. The message lists
                the first 8 errors.
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
        """Returns the architecture with the values that a trial suggests."""
        return {name: trial.suggest_categorical(name, choice.values) for name, choice in self.choices.items()}

    def sample(self, generator: random.Random) -> dict[str, Value]:
        """Returns an architecture drawn uniformly at random.

        Example:
            >>> import random
            >>> from search_spaces import cell201
            >>> space = cell201()
            >>> space.key(space.sample(random.Random(0)))
            'd7d0a622fc1a'
        """
        return {name: generator.choice(choice.values) for name, choice in self.choices.items()}

    def neighbours(self, architecture: Architecture) -> Iterator[dict[str, Value]]:
        """Yields every architecture that differs in the value of exactly one choice, in the order of the choices.

        Raises:
            ValueError: The architecture is not in the space.
        """
        architecture = self.validate(architecture)
        for name, choice in self.choices.items():
            for value in choice.values:
                if not _same_value(value, architecture[name]):
                    yield {**architecture, name: value}

    def mutate(self, architecture: Architecture, generator: random.Random) -> dict[str, Value]:
        """Returns a random neighbour with another canonical form, drawn uniformly.

        If all neighbours have the canonical form of the architecture, the neighbours of the neighbours are tried, and so on.

        Raises:
            ValueError: The architecture is not in the space, or all architectures have the same canonical form.

        Example:
            >>> import random
            >>> from search_spaces import cell201
            >>> space = cell201()
            >>> space.key(space.mutate(space.at(5), random.Random(0)))
            '980f519a66e8'
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
        raise ValueError(f"all architectures of {self.name} compute the same function; mutate needs at least two functions")

    def crossover(self, first: Architecture, second: Architecture, generator: random.Random) -> dict[str, Value]:
        """Returns an architecture that takes each value from one of two parents, with equal probability.

        Raises:
            ValueError: A parent is not in the space.
        """
        parents = (self.validate(first), self.validate(second))
        return {name: generator.choice(parents)[name] for name in self.choices}

    def index(self, architecture: Architecture) -> int:
        """Returns the index of an architecture, from 0 to size - 1. The last choice varies fastest.

        Raises:
            ValueError: The architecture is not in the space.
        """
        architecture, index = self.validate(architecture), 0
        for name, choice in self.choices.items():
            position = next(i for i, value in enumerate(choice.values) if _same_value(value, architecture[name]))
            index = index * len(choice.values) + position
        return index

    def at(self, index: int) -> dict[str, Value]:
        """Returns the architecture with this index, from 0 to size - 1. The last choice varies fastest.

        Raises:
            IndexError: The index is below 0, or not below size.
        """
        if not 0 <= index < self.size:
            raise IndexError(f"index must be from 0 to {self.size - 1}, got {index}")
        values: dict[str, Value] = {}
        for name, choice in reversed(list(self.choices.items())):
            index, digit = divmod(index, len(choice.values))
            values[name] = choice.values[digit]
        return {name: values[name] for name in self.choices}

    def enumerate(self) -> Iterator[dict[str, Value]]:
        """Yields every architecture, in the order of the indices."""
        return (self.at(index) for index in range(self.size))

    def key(self, architecture: Architecture) -> str:
        """Returns a hash of the canonical form, 12 hexadecimal digits. Equivalent architectures have equal keys."""
        text = json.dumps([self.name, list(self.canonical(architecture).items())])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _same_value(first: Value, second: Value) -> bool:
    """Returns whether two values have the same type and are equal: 1, 1.0 and True are different."""
    return type(first) is type(second) and first == second
