"""Analysis of searched cells: their depth, and the operations and inputs that the best cells share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evaluators import holm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search_spaces import CellGraph, SearchSpace

PERMUTATIONS = 10_000
INPUT_NAMES = {0: "cell before last", 1: "last cell"}


def depth(graph: CellGraph) -> int:
    """Returns the largest number of operations, without skips, on a path from an input of a cell to its output.

    This is our definition. A pooling counts as one operation, and so does a separable or factorised convolution. The depth
    of an architecture is the sum over its searched cells, each counted once.
    """
    longest: list[float] = [0] * graph.inputs
    for summands in graph.nodes:
        longest.append(max((longest[source] + (name != "skip") for name, source in summands), default=-np.inf))
    deepest = max(longest[node] for node in graph.outputs)
    return 0 if deepest == -np.inf else int(deepest)


def features(space: SearchSpace, architecture: dict) -> dict[tuple[str, str, str], float]:
    """Returns the share of the edges of each cell with each operation and each source, by (cell, kind, name).

    All blocks of a cell count as one source, because their numbers in the canonical form have no meaning.
    """
    shares = {}
    for cell, graph in space.graphs(architecture).items():
        edges = graph.edges()
        sources = [INPUT_NAMES.get(source, "a block of this cell") for source, _, _ in edges]
        operations = [name for _, _, name in edges]
        for name in space.operations:
            shares[cell, "operation", name] = operations.count(name) / len(edges)
        for name in (*INPUT_NAMES.values(), "a block of this cell"):
            shares[cell, "input", name] = sources.count(name) / len(edges)
    return shares


def compare_best(space: SearchSpace, architectures: Sequence[dict], errors: Sequence[float], seed: int = 0) -> list[dict]:
    """Compares the operations and inputs of the best quarter of the architectures with the others.

    The test is a two-sided permutation test over architectures, because the edges of one cell are not independent. It
    compares the difference between the best quarter and the rest with that of random quarters. P-values are corrected by
    Holm for all operations and inputs.

    Args:
        space: Search space with cells.
        architectures: Architectures of the space (N,).
        errors: Error of each architecture (N,). The quarter with the smallest errors is the best.
        seed: Seed of the permutations.
    """
    table = [features(space, architecture) for architecture in architectures]
    values = np.array([[*row.values()] for row in table])
    best = np.zeros(len(values), dtype=bool)
    best[np.argsort(errors, kind="stable")[: max(1, len(values) // 4)]] = True
    generator = np.random.default_rng(seed)
    drawn = np.array([best, *(generator.permutation(best) for _ in range(PERMUTATIONS))], dtype=np.float64)
    quarter = drawn @ values / best.sum()
    rest = (1 - drawn) @ values / max(1, (~best).sum())
    differences = np.abs(quarter - rest)
    # The tolerance covers rounding: sums of the same numbers in another order differ slightly.
    p_values = (differences >= differences[0] - 1e-9).mean(0)
    return [
        {
            "cell": cell,
            "kind": kind,
            "name": name,
            "best": float(quarter[0, column]),
            "others": float(rest[0, column]),
            "p_value": float(p_values[column]),
            "corrected": float(corrected),
        }
        for column, ((cell, kind, name), corrected) in enumerate(zip(table[0], holm(p_values), strict=True))
    ]
