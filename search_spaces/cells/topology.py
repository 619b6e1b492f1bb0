"""Topologies of cells: the possible edges between nodes, and the choices that they define."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final, get_args

from search_spaces.graph import CellGraph
from search_spaces.space import Choice, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Output = Literal["last", "all", "unused"]


@final
@dataclass(frozen=True)
class Topology:
    """The possible source nodes of each node of a cell, and the output nodes.

    Attributes:
        inputs: Number of inputs, nodes 0 to inputs - 1.
        sources: For each further node, its alternatives. An alternative is a tuple of source nodes, with one operation on
            each. If a node has one alternative, only its operations are chosen.
        output: Non-input nodes that are concatenated into the output: the last one, all, or those that no other node uses as
            a source.
    """

    inputs: int
    sources: tuple[tuple[tuple[int, ...], ...], ...]
    output: Output = "last"

    def __post_init__(self) -> None:
        if self.inputs not in (1, 2):
            raise ValueError(f"a cell must have 1 or 2 inputs (the outputs of the previous cells), got {self.inputs}")
        if not self.sources:
            raise ValueError("a cell must have at least one node that is not an input")
        if self.output not in get_args(Output):
            raise ValueError(f"output must be one of {', '.join(get_args(Output))}, got {self.output!r}")
        for node, alternatives in enumerate(self.sources, start=self.inputs):
            for source in itertools.chain(*alternatives):
                if not 0 <= source < node:
                    raise ValueError(f"the sources of node {node} must be earlier nodes, 0 to {node - 1}, got {source}")
            if not any(alternatives):
                raise ValueError(f"nothing feeds node {node}; add an edge to it or remove the node")
        feeding = {source for alternatives in self.sources for sources in alternatives for source in sources}
        for node in range(self.nodes - 1):
            if node not in feeding and (node < self.inputs or self.output == "last"):
                raise ValueError(f"node {node} feeds no other node and does not reach the output; add an edge from it")

    @property
    def nodes(self) -> int:
        """Number of nodes, inputs included."""
        return self.inputs + len(self.sources)

    @property
    def picks(self) -> bool:
        """Whether any node has several alternatives or the same source twice.

        If so, the names of the operation choices are like `node2_op1` instead of `edge02`.
        """
        return any(
            len(alternatives) > 1 or len({*first}) < len(first) for alternatives in self.sources for first in alternatives
        )

    @property
    def interchangeable(self) -> bool:
        """Whether every node has all earlier nodes as sources, or may pick any two of them.

        If so, the order of the nodes does not matter.
        """
        return all(
            alternatives == (tuple(range(node)),)
            or {frozenset(pair) for pair in alternatives} >= {frozenset(p) for p in itertools.combinations(range(node), 2)}
            for node, alternatives in enumerate(self.sources, start=self.inputs)
        )

    def names(self, node: int, alternative: int) -> list[str]:
        """Returns the names of the operation choices of a node, one for each source of the alternative."""
        sources = self.sources[node - self.inputs][alternative]
        if self.picks:
            return [f"node{node}_op{number}" for number in range(1, len(sources) + 1)]
        return [edge_name(source, node, self.nodes) for source in sources]

    def choices(self, operations: Sequence[str]) -> dict[str, Choice]:
        """Returns the choices of a cell, node by node: first the sources, if there are alternatives, then the operations."""
        choices = {}
        for node, alternatives in enumerate(self.sources, start=self.inputs):
            if len(alternatives) > 1:
                choices[f"node{node}_inputs"] = Choice(*(_format_sources(sources) for sources in alternatives))
            for name in self.names(node, 0):
                choices[name] = Choice(*operations)
        return choices

    def graph(self, values: Mapping[str, Value], *, strided: bool = False) -> CellGraph:
        """Returns the graph of the cell with these values of its choices.

        A value `a+b` gives two operations, a and b. A value `none` gives no operation.

        Args:
            values: Value of each choice of the cell, by name.
            strided: Whether the cell halves the resolution.
        """
        nodes = []
        for node, alternatives in enumerate(self.sources, start=self.inputs):
            chosen = 0
            if len(alternatives) > 1:
                chosen = [_format_sources(sources) for sources in alternatives].index(str(values[f"node{node}_inputs"]))
            nodes.append(
                tuple(
                    (operation, source)
                    for name, source in zip(self.names(node, chosen), alternatives[chosen], strict=True)
                    for operation in str(values[name]).split("+")
                    if operation != "none"
                )
            )
        return CellGraph(self.inputs, tuple(nodes), self.outputs(nodes), strided)

    def outputs(self, nodes: Sequence[Iterable[tuple[str, int]]]) -> tuple[int, ...]:
        """Returns the numbers of the nodes that are concatenated into the output.

        Args:
            nodes: (operation, source node) pairs of each node except the inputs.
        """
        inner_nodes = range(self.inputs, self.nodes)
        if self.output == "last":
            return (inner_nodes[-1],)
        used = {source for summands in nodes for _, source in summands} if self.output == "unused" else set()
        return tuple(node for node in inner_nodes if node not in used)

    def choice_values(self, node_choices: Sequence[tuple[int, tuple[str, ...]]]) -> dict[str, Value]:
        """Returns the values of the choices, given the alternative and the operations of each node."""
        values: dict[str, Value] = {}
        for node, (alternative, operations) in enumerate(node_choices, start=self.inputs):
            alternatives = self.sources[node - self.inputs]
            if len(alternatives) > 1:
                values[f"node{node}_inputs"] = _format_sources(alternatives[alternative])
            values |= zip(self.names(node, alternative), operations, strict=True)
        return values


def edge_name(source: int, node: int, nodes: int) -> str:
    """Returns the name of an edge: edge01, or edge0_1 if the cell has more than ten nodes."""
    return f"edge{source}{node}" if nodes <= 10 else f"edge{source}_{node}"


def _format_sources(sources: tuple[int, ...]) -> str:
    return ",".join(map(str, sources))


def all_pairs(nodes: int, inputs: int = 1, output: Output = "last") -> Topology:
    """Returns the topology with an edge from every node to every later node that is not an input.

    Args:
        nodes: Number of nodes, inputs included.
        inputs: Number of inputs, 1 or 2.
        output: Nodes that are concatenated into the output.

    Raises:
        ValueError: The numbers of nodes and inputs are impossible, or the output is unknown.
    """
    return Topology(inputs, tuple((tuple(range(node)),) for node in range(inputs, nodes)), output)


def two_inputs(nodes: int, inputs: int = 2, output: Output = "all", *, distinct: bool = True) -> Topology:
    """Returns the topology in which every node picks two earlier nodes.

    Args:
        nodes: Number of nodes, inputs included.
        inputs: Number of inputs, 1 or 2.
        output: Nodes that are concatenated into the output.
        distinct: Whether the two nodes must differ. With one input, node 1 has only one possible source and
            always uses it twice.

    Raises:
        ValueError: The numbers of nodes and inputs are impossible, or the output is unknown.
    """
    sources = []
    for node in range(inputs, nodes):
        pairs = itertools.combinations if distinct and node > 1 else itertools.combinations_with_replacement
        sources.append(tuple(pairs(range(node), 2)))
    return Topology(inputs, tuple(sources), output)


def edge_list(edges: Iterable[tuple[int, int]], inputs: int = 1, output: Output = "last") -> Topology:
    """Returns the topology with these edges.

    Args:
        edges: (from, to) pairs of node numbers. The inputs are the first nodes.
        inputs: Number of inputs, 1 or 2.
        output: Nodes that are concatenated into the output.

    Raises:
        ValueError: An edge occurs twice, leads backwards or into an input, a node lacks an edge to it or from it, or inputs
            or output is out of range.
    """
    pairs = [(int(i), int(j)) for i, j in edges]
    for i, j in pairs:
        if not i < j or j < inputs or i < 0:
            raise ValueError(f"an edge must lead from a node to a later node that is not an input, got [{i}, {j}]")
        if pairs.count((i, j)) > 1:
            raise ValueError(f"edge [{i}, {j}] occurs twice; remove one")
    last = max((j for _, j in pairs), default=inputs - 1)
    sources = tuple((tuple(sorted(i for i, j in pairs if j == node)),) for node in range(inputs, last + 1))
    return Topology(inputs, sources, output)
