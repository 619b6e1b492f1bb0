"""A cell as data: nodes, and the operations that are added up in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class CellGraph:
    """What a cell computes. Nodes are numbered, the cell's inputs first.

    Attributes:
        inputs: Number of inputs, nodes 0 to inputs - 1.
        nodes: For each further node, the (operation, source node) pairs that are added up in it; zeros if there are none.
        outputs: The nodes that are concatenated into the output, in order.
        strided: The cell halves the resolution: operations on its inputs have a stride of 2.
    """

    inputs: int
    nodes: tuple[tuple[tuple[str, int], ...], ...]
    outputs: tuple[int, ...]
    strided: bool = False

    def edges(self) -> list[tuple[int, int, str]]:
        """Returns (source, node, operation) of every operation, by node."""
        return [
            (source, node, operation)
            for node, summands in enumerate(self.nodes, start=self.inputs)
            for operation, source in summands
        ]

    @property
    def connected(self) -> bool:
        """Whether some way leads from an input to the output."""
        reached = set(range(self.inputs))
        for node, summands in enumerate(self.nodes, start=self.inputs):
            if any(source in reached for _, source in summands):
                reached.add(node)
        return not reached.isdisjoint(self.outputs)

    def paths(self, max_length: int | None = None) -> set[tuple[int | str, ...]]:
        """Returns every way from an input to the output: the input, and the operations passed.

        Args:
            max_length: Leaves out the ways that pass more operations than this. Without it their number grows exponentially
                with that of the nodes.
        """
        paths_to: list[set[tuple[int | str, ...]]] = [{(i,)} for i in range(self.inputs)]
        for summands in self.nodes:
            paths_to.append(
                {
                    (*path, operation)
                    for operation, source in summands
                    for path in paths_to[source]
                    if max_length is None or len(path) <= max_length  # The input, and one operation less.
                }
            )
        return set().union(*(paths_to[node] for node in self.outputs))
