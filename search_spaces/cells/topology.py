"""Topologies: which nodes of a cell may feed which, and the choices that this leaves."""

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
    """What a node may add up, and what leaves the cell.

    Attributes:
        inputs: Number of the cell's inputs, nodes 0 to inputs - 1.
        sources: For each further node, the alternatives that it has: each names the nodes of which it takes one operation
            each. With one alternative nothing is chosen but the operations.
        output: Of the nodes that are no inputs, what is concatenated: the last one, all, or those which nothing uses.
    """

    inputs: int
    sources: tuple[tuple[tuple[int, ...], ...], ...]
    output: Output = "last"

    def __post_init__(self) -> None:
        if self.inputs not in (1, 2):
            raise ValueError(f"a cell must have 1 or 2 inputs, the outputs of the cells before it, got {self.inputs}")
        if not self.sources:
            raise ValueError("a cell must have at least one node that is no input")
        if self.output not in get_args(Output):
            raise ValueError(f"output must be one of {', '.join(get_args(Output))}, got {self.output!r}")
        for node, alternatives in enumerate(self.sources, start=self.inputs):
            for source in itertools.chain(*alternatives):
                if not 0 <= source < node:
                    raise ValueError(f"node {node} can be fed by the nodes before it, 0 to {node - 1}, got {source}")
            if not any(alternatives):
                raise ValueError(f"nothing feeds node {node}: give it an edge, or leave it out")
        feeding = {source for alternatives in self.sources for sources in alternatives for source in sources}
        for node in range(self.nodes - 1):
            if node not in feeding and (node < self.inputs or self.output == "last"):
                raise ValueError(f"node {node} feeds no other, so nothing of it reaches the output: give it an edge")

    @property
    def nodes(self) -> int:
        """The number of nodes, inputs included."""
        return self.inputs + len(self.sources)

    @property
    def picks(self) -> bool:
        """Whether it is chosen what feeds some node, or one feeds it twice: then operations are not named after edges."""
        return any(
            len(alternatives) > 1 or len({*first}) < len(first) for alternatives in self.sources for first in alternatives
        )

    @property
    def interchangeable(self) -> bool:
        """Whether every node may take any of those before it, so that it does not matter which of them is which."""
        return all(
            alternatives == (tuple(range(node)),)
            or {frozenset(pair) for pair in alternatives} >= {frozenset(p) for p in itertools.combinations(range(node), 2)}
            for node, alternatives in enumerate(self.sources, start=self.inputs)
        )

    def names(self, node: int, alternative: int) -> list[str]:
        """Returns the names of the choices of a node's operations, one for each of its sources."""
        sources = self.sources[node - self.inputs][alternative]
        if self.picks:
            return [f"node{node}_op{number}" for number in range(1, len(sources) + 1)]
        return [edge_name(source, node, self.nodes) for source in sources]

    def choices(self, operations: Sequence[str]) -> dict[str, Choice]:
        """Returns what may vary in a cell, node by node: what feeds it, where that is chosen, then its operations."""
        choices = {}
        for node, alternatives in enumerate(self.sources, start=self.inputs):
            if len(alternatives) > 1:
                choices[f"node{node}_inputs"] = Choice(*(_format_sources(sources) for sources in alternatives))
            for name in self.names(node, 0):
                choices[name] = Choice(*operations)
        return choices

    def graph(self, values: Mapping[str, Value], *, strided: bool = False) -> CellGraph:
        """Returns the cell that values of its choices stand for: of `a+b`, both are added, and `none` is left out."""
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
        """Returns which nodes are concatenated into the output of a cell that has these nodes."""
        inner_nodes = range(self.inputs, self.nodes)
        if self.output == "last":
            return (inner_nodes[-1],)
        used = {source for summands in nodes for _, source in summands} if self.output == "unused" else set()
        return tuple(node for node in inner_nodes if node not in used)

    def choice_values(self, node_choices: Sequence[tuple[int, tuple[str, ...]]]) -> dict[str, Value]:
        """Returns the values of the choices, from the alternative and the operations of each node."""
        values: dict[str, Value] = {}
        for node, (alternative, operations) in enumerate(node_choices, start=self.inputs):
            alternatives = self.sources[node - self.inputs]
            if len(alternatives) > 1:
                values[f"node{node}_inputs"] = _format_sources(alternatives[alternative])
            values |= zip(self.names(node, alternative), operations, strict=True)
        return values


def edge_name(source: int, node: int, nodes: int) -> str:
    """Returns edge01, or edge0_1 where a cell has more than ten nodes."""
    return f"edge{source}{node}" if nodes <= 10 else f"edge{source}_{node}"


def _format_sources(sources: tuple[int, ...]) -> str:
    return ",".join(map(str, sources))


def all_pairs(nodes: int, inputs: int = 1, output: Output = "last") -> Topology:
    """Returns the topology in which an edge leads from every node to every later one that is no input.

    Args:
        nodes: Number of nodes, inputs included.
        inputs: Number of the cell's inputs.
        output: What is concatenated into the output.
    """
    return Topology(inputs, tuple((tuple(range(node)),) for node in range(inputs, nodes)), output)


def two_inputs(nodes: int, inputs: int = 2, output: Output = "all", *, distinct: bool = True) -> Topology:
    """Returns the topology in which every node picks two of those before it.

    Args:
        nodes: Number of nodes, inputs included.
        inputs: Number of the cell's inputs.
        output: What is concatenated into the output.
        distinct: The two differ. With one input only, the first node takes it twice all the same.
    """
    sources = []
    for node in range(inputs, nodes):
        pairs = itertools.combinations if distinct and node > 1 else itertools.combinations_with_replacement
        sources.append(tuple(pairs(range(node), 2)))
    return Topology(inputs, tuple(sources), output)


def edge_list(edges: Iterable[tuple[int, int]], inputs: int = 1, output: Output = "last") -> Topology:
    """Returns the topology of these edges, (from, to) each; nodes are numbered, the cell's inputs first.

    Raises:
        ValueError: an edge comes twice, leads backwards or into an input, or a node has none that leads to it.
    """
    pairs = [(int(i), int(j)) for i, j in edges]
    for i, j in pairs:
        if not i < j or j < inputs or i < 0:
            raise ValueError(f"an edge must lead from a node to a later one that is no input, got [{i}, {j}]")
        if pairs.count((i, j)) > 1:
            raise ValueError(f"edge [{i}, {j}] is there twice")
    last = max((j for _, j in pairs), default=inputs - 1)
    sources = tuple((tuple(sorted(i for i, j in pairs if j == node)),) for node in range(inputs, last + 1))
    return Topology(inputs, sources, output)
