"""What searched cells are made of: how deep they are, and what the best of them share that the others do not."""

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
    """Returns the most operations other than skips on any way from an input of a cell to its output.

    Ours: pooling counts as an operation, and so does each separable or factorised convolution, as one. An architecture's
    depth is the sum over the cells that are searched, whatever their number in the network.
    """
    longest: list[float] = [0] * graph.inputs
    for summands in graph.nodes:
        longest.append(max((longest[source] + (name != "skip") for name, source in summands), default=-np.inf))
    deepest = max(longest[node] for node in graph.outputs)
    return 0 if deepest == -np.inf else int(deepest)


def features(space: SearchSpace, architecture: dict) -> dict[tuple[str, str, str], float]:
    """Returns the share of each cell's edges with each operation, and with each source, by (cell, kind, name).

    Blocks of the same cell count as one source: their numbers in the canonical form say nothing.
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
    """Returns what the best quarter of some architectures has oftener or more rarely than the others.

    The edges of one cell are no independent draws, so whole architectures are permuted: how often would a quarter drawn at
    random differ from the rest as much as the best one does? Two-sided, corrected by Holm for all operations and inputs.

    Args:
        space: Of cells.
        architectures: Of the space, (N,).
        errors: By which the best are told, (N,), the least first.
        seed: Of the permutations.
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
    # Sums of the same numbers in another order differ by rounding.
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
