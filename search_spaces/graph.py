"""Graph of a cell: its nodes and operations. Each node is a sum of operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class CellGraph:
    """The computation graph of one cell. Nodes are numbered from 0, and the inputs come first.

    Attributes:
        inputs: Number of inputs, nodes 0 to inputs - 1.
        nodes: For each further node, its (operation, source node) pairs. The node is the sum of these operations, or zeros
            if it has no pair.
        outputs: Numbers of the nodes that are concatenated into the output, in order.
        strided: Whether the cell halves the resolution. Operations on its inputs then have a stride of 2.

    Example:
        >>> from search_spaces import CellGraph
        >>> CellGraph(inputs=1, nodes=((("conv3x3", 0),), (("skip", 0), ("conv3x3", 1))), outputs=(2,))
        CellGraph(inputs=1, nodes=((('conv3x3', 0),), (('skip', 0), ('conv3x3', 1))), outputs=(2,), strided=False)
    """

    inputs: int
    nodes: tuple[tuple[tuple[str, int], ...], ...]
    outputs: tuple[int, ...]
    strided: bool = False

    def edges(self) -> list[tuple[int, int, str]]:
        """Returns a tuple (source, node, operation) for every operation, ordered by node."""
        return [
            (source, node, operation)
            for node, summands in enumerate(self.nodes, start=self.inputs)
            for operation, source in summands
        ]

    @property
    def connected(self) -> bool:
        """Whether there is a path from an input to the output."""
        reached = set(range(self.inputs))
        for node, summands in enumerate(self.nodes, start=self.inputs):
            if any(source in reached for _, source in summands):
                reached.add(node)
        return not reached.isdisjoint(self.outputs)

    def paths(self, max_length: int | None = None) -> set[tuple[int | str, ...]]:
        """Returns every path from an input to the output, as a tuple of the input's number and the operations.

        Args:
            max_length: Largest number of operations of a path; None for no limit. Without a limit, the number of paths
                grows exponentially with the number of nodes.
        """
        paths_to: list[set[tuple[int | str, ...]]] = [{(i,)} for i in range(self.inputs)]
        for summands in self.nodes:
            paths_to.append(
                {
                    (*path, operation)
                    for operation, source in summands
                    for path in paths_to[source]
                    if max_length is None or len(path) <= max_length  # `path` holds the input as well.
                }
            )
        return set().union(*(paths_to[node] for node in self.outputs))
