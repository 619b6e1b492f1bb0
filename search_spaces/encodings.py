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
    columns = [(name, type(value), value) for name, choice in space.choices.items() for value in choice.values]
    column_of = {key: number for number, key in enumerate(columns)}
    encoded = np.zeros((len(architectures), len(columns)))
    for row, architecture in enumerate(architectures):
        for name, value in space.validate(architecture).items():
            encoded[row, column_of[name, type(value), value]] = 1
    return encoded


def one_hot_names(space: SearchSpace) -> list[str]:
    """Returns what each column of `one_hot` stands for, such as edge01=conv3x3."""
    return [f"{name}={value}" for name, choice in space.choices.items() for value in choice.values]


def path_encoding(space: SearchSpace, architectures: Sequence[Architecture], max_length: int = 3) -> NDArray[np.float64]:
    """Returns a row for every architecture (A, P): 1 where operations lead from an input of a cell to its output.

    Columns are ordered by cell, input, length and sequence, the last operation of which varies fastest. With C cells of I
    inputs and O operations (`none` is no operation) there are P = C * I * (O + O**2 + ... + O**max_length): 1,596 for darts.

    Args:
        space: A space of cells.
        architectures: A architectures.
        max_length: The longest sequences that have a column; longer ones are left out.

    Raises:
        ValueError: the space has no `graphs` or no `operations`, max_length is below 1, or one of the architectures is none
            of the space.
    """
    if space.graphs is None or not space.operations:
        raise ValueError(
            f"{space.name} has no cells with paths: use one_hot, or give its SearchSpace `graphs` and `operations`"
        )
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}")
    digits, base = {operation: digit for digit, operation in enumerate(space.operations)}, len(space.operations)
    # Where the sequences of each length begin, and behind the last of them those of the next input.
    offsets = np.cumsum([0, *(base**length for length in range(1, max_length + 1))]).tolist()
    # Which cells there are, and their inputs, is the same for all architectures.
    inputs = [(cell, i) for cell, graph in space.graphs(space.at(0)).items() for i in range(graph.inputs)]
    first_column = {cell_input: number * offsets[-1] for number, cell_input in enumerate(inputs)}
    encoded = np.zeros((len(architectures), len(inputs) * offsets[-1]))
    for row, architecture in enumerate(architectures):
        for cell, graph in space.graphs(space.validate(architecture)).items():
            for source, *operations in graph.paths(max_length):
                number = 0
                for operation in operations:
                    number = number * base + digits[str(operation)]
                encoded[row, first_column[cell, int(source)] + offsets[len(operations) - 1] + number] = 1
    return encoded
