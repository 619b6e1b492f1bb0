"""Architectures as numbers, for what predicts from numbers: surrogate models.

`one_hot` says of every choice which value it has; `path_encoding` says which sequences of operations lead through a cell, so
that it is the same for cells which differ only in operations that lead nowhere, or in the order of their nodes.

Source: White et al., "A Study on Encodings for Neural Architecture Search", NeurIPS 2020, arXiv:2007.04965; White,
Neiswanger and Savani, "BANANAS: Bayesian Optimization with Neural Architectures for Neural Architecture Search", AAAI 2021,
arXiv:1910.11858, for paths, and for leaving out the long ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from search_spaces.space import Architecture, SearchSpace


def one_hot(space: SearchSpace, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
    """Returns a row for every architecture (A, V): 1 in the column of the value that a choice has, 0 in those of its others.

    Args:
        space: The space; V is the number of values of all its choices together, in the order of the table.
        architectures: A architectures.

    Raises:
        ValueError: one of them is no architecture of the space.
    """
    # By type, too: 1, 1.0 and True are three values.
    places = [(name, type(value), value) for name, choice in space.choices.items() for value in choice.values]
    column = {place: number for number, place in enumerate(places)}
    encoded = np.zeros((len(architectures), len(places)))
    for row, architecture in enumerate(architectures):
        for name, value in space.validate(architecture).items():
            encoded[row, column[name, type(value), value]] = 1
    return encoded


def one_hot_names(space: SearchSpace) -> list[str]:
    """Returns what each column of `one_hot` stands for, such as edge01=conv3x3."""
    return [f"{name}={value}" for name, choice in space.choices.items() for value in choice.values]


def path_encoding(space: SearchSpace, architectures: Sequence[Architecture], longest: int = 3) -> NDArray[np.float64]:
    """Returns a row for every architecture (A, P): 1 where operations lead from an input of a cell to its output.

    Columns are ordered by cell, input, length and sequence, the last operation of which varies fastest. With C cells of I
    inputs and O operations (`none` is no operation) they number P = C * I * (O + O**2 + ... + O**longest): 1,596 for darts.

    Args:
        space: A space of cells.
        architectures: A architectures.
        longest: The longest sequences that have a column; longer ones are left out.

    Raises:
        ValueError: the space has no `graphs` or no `operations`, longest is below 1, or one of the architectures is none of
            the space.
    """
    if space.graphs is None or not space.operations:
        raise ValueError(
            f"{space.name} has no cells with paths: use one_hot, or give its SearchSpace `graphs` and `operations`"
        )
    if longest < 1:
        raise ValueError(f"longest must be at least 1, got {longest}")
    digits, base = {operation: digit for digit, operation in enumerate(space.operations)}, len(space.operations)
    # Where the sequences of each length begin, and behind the last of them those of the next input.
    begins = np.cumsum([0, *(base**length for length in range(1, longest + 1))]).tolist()
    # Which cells there are, and their inputs, is the same for all architectures.
    inputs = [(cell, i) for cell, graph in space.graphs(space.at(0)).items() for i in range(graph.inputs)]
    first = {place: number * begins[-1] for number, place in enumerate(inputs)}
    encoded = np.zeros((len(architectures), len(inputs) * begins[-1]))
    for row, architecture in enumerate(architectures):
        for cell, graph in space.graphs(space.validate(architecture)).items():
            for source, *operations in graph.paths(longest):
                number = 0
                for operation in operations:
                    number = number * base + digits[str(operation)]
                encoded[row, first[cell, int(source)] + begins[len(operations) - 1] + number] = 1
    return encoded
