"""Encodings of architectures as numeric vectors, for surrogate models.

`one_hot` encodes the value of every choice. `path_encoding` encodes the sequences of operations on the paths through a cell.
Cells have the same path encoding if they differ only in unused operations or in the order of their nodes.

Source: White et al., "A Study on Encodings for Neural Architecture Search", NeurIPS 2020, arXiv:2007.04965. The path
encoding and its truncation to short paths: White, Neiswanger and Savani, "BANANAS: Bayesian Optimization with Neural
Architectures for Neural Architecture Search", AAAI 2021, arXiv:1910.11858.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from search_spaces.space import Architecture, SearchSpace


def one_hot(space: SearchSpace, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
    """Returns the one-hot encoding of architectures, an array (A, V) of 0 and 1.

    Each row has a 1 in the column of the value of each choice, and 0 elsewhere. V is the number of values of all choices
    together. The columns are in the order of the choices and their values.

    Args:
        space: The search space.
        architectures: Architectures of the space; A is their number.

    Raises:
        ValueError: An architecture is not in the space.

    Example:
        >>> from search_spaces import mlp, one_hot, one_hot_names
        >>> space = mlp(layers=1)
        >>> one_hot(space, [space.at(0)])
        array([[1., 0., 1., 0., 0., 0., 0., 0., 0., 0., 1., 0., 0., 0., 1., 0.,
                0.]])
        >>> one_hot_names(space)[:2]
        ['depth=0', 'depth=1']
    """
    # The type is part of the key because 1, 1.0 and True are equal in Python.
    columns = [(name, type(value), value) for name, choice in space.choices.items() for value in choice.values]
    column_of = {key: number for number, key in enumerate(columns)}
    encoded = np.zeros((len(architectures), len(columns)))
    for row, architecture in enumerate(architectures):
        for name, value in space.validate(architecture).items():
            encoded[row, column_of[name, type(value), value]] = 1
    return encoded


def one_hot_names(space: SearchSpace) -> list[str]:
    """Returns the names of the V columns of `one_hot`, such as edge01=conv3x3."""
    return [f"{name}={value}" for name, choice in space.choices.items() for value in choice.values]


def path_encoding(space: SearchSpace, architectures: Sequence[Architecture], max_length: int = 3) -> NDArray[np.float64]:
    """Returns the path encoding of architectures, an array (A, P) of 0 and 1.

    Each column stands for a sequence of operations from one input of a cell to the output. It is 1 if the cell has a path
    with these operations. The columns are ordered by cell, input, length and sequence. The last operation of a sequence
    varies fastest. A space of C cells with I inputs and O operations (without `none`) has
    P = C * I * (O + O**2 + ... + O**max_length) columns. For darts and max_length 3, P is 1,596.

    Args:
        space: Search space with cells.
        architectures: Architectures of the space; A is their number.
        max_length: Number of operations of the longest encoded paths, at least 1. Longer paths are left out.

    Raises:
        ValueError: The space has no `graphs` or no `operations`, max_length is below 1, or an architecture is not in the
            space.

    Example:
        >>> from search_spaces import cell201, path_encoding
        >>> space = cell201()
        >>> path_encoding(space, [space.at(5), space.at(6)]).shape
        (2, 84)
    """
    if space.graphs is None or not space.operations:
        raise ValueError(
            f"{space.name} has no cells with paths; use one_hot, or set `graphs` and `operations` of its SearchSpace"
        )
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}")
    digits, base = {operation: digit for digit, operation in enumerate(space.operations)}, len(space.operations)
    # First column of each path length, relative to the first column of an input. The last entry is the number of columns of
    # one input.
    offsets = np.cumsum([0, *(base**length for length in range(1, max_length + 1))]).tolist()
    # All architectures have the same cells and the same inputs.
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
