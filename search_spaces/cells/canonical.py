"""Canonical form of a cell: the first equivalent cell in the order of the choices.

Two cells are equivalent if they have the same expression (expression.py). A depth-first search assigns the nodes in order
and takes the first assignment that the expression allows. The search covers all cells, so its result is the first
equivalent cell, and it is the same for all equivalent cells. The search has a limit; beyond it, a cell has no canonical form
and stays unchanged.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, final

from search_spaces.cells.expression import Expression, Sum, single_term, terms_in, weightless
from search_spaces.operations import VANISHING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from search_spaces.cells.topology import Topology
    from search_spaces.graph import CellGraph

MAX_STATES = 3000
# Assignment of one node: the index of its alternative in `Topology.sources`, and its operations.
NodeChoice = tuple[int, tuple[str, ...]]


@lru_cache(maxsize=100_000)
def canonical_cell(
    topology: Topology, operations: tuple[str, ...], graph: CellGraph, vanishing: frozenset[str] = VANISHING
) -> tuple[NodeChoice, ...] | None:
    """Returns the alternative and the operations of each node of the first cell that is equivalent to a graph.

    Returns None if the search exceeds MAX_STATES. This happens for cells with many poolings and skips, because very many
    cells are equivalent to them.

    Args:
        topology: Topology of the cell.
        operations: Possible values of an edge, from the weakest to the strongest.
        graph: The cell.
        vanishing: Operations that map zeros to zeros.
    """
    try:
        cell = _Search(topology, operations, Expression(graph, vanishing)).run()
    except _SearchLimitError:
        return None
    assert cell is not None, "the search covers the graph itself"
    return tuple(cell)


class _SearchLimitError(Exception):
    """The search exceeds MAX_STATES."""


@final
@dataclass(frozen=True)
class _State:
    """State of the search: the nodes that are already assigned.

    Attributes:
        sums: Sum of each node; None for a node that does not reach the output.
        placed: Terms of the expression that already have an edge.
    """

    sums: tuple[Sum | None, ...]
    placed: frozenset[int]


@final
@dataclass(frozen=True)
class _Candidate:
    """One way in which an edge value on a source node can stand for terms of the expression.

    Attributes:
        rank: Index of the edge value in the operations.
        sum: Sum that the edge adds to its target node.
        weighted_terms: Terms with weights that the edge places.
        weightless_terms: Terms without weights that the edge places.
    """

    rank: int
    sum: Sum
    weighted_terms: frozenset[int] = frozenset()
    weightless_terms: frozenset[int] = frozenset()


class _Search:
    """Depth-first search, node by node, for the first cell with a given expression."""

    def __init__(self, topology: Topology, operations: tuple[str, ...], expression: Expression) -> None:
        self.topology, self.operations, self.expression = topology, operations, expression
        self.operation_parts = [operation.split("+") for operation in operations]
        # Largest number of terms that the nodes after each node can hold.
        max_terms = max(map(len, self.operation_parts))
        capacities = [max_terms * max(map(len, alternatives)) for alternatives in topology.sources]
        self.remaining_capacity = [sum(capacities[number + 1 :]) for number in range(len(capacities))]
        # States from which no cell can be completed.
        self.dead_ends: set[_State] = set()
        self.states_seen = 0
        self.interchangeable = topology.interchangeable

    def run(self) -> list[NodeChoice] | None:
        """Returns the alternative and the operations of each node; None if no cell has the expression."""
        return self._search(0, [_State(tuple(single_term(i) for i in range(self.topology.inputs)), frozenset())], [])

    def _search(self, number: int, states: Sequence[_State], choices: list[NodeChoice]) -> list[NodeChoice] | None:
        """Returns the first completion of any of these states, which share `choices`; None if there is none."""
        if number == len(self.topology.sources):
            return choices if any(self._is_complete(state, choices) for state in states) else None
        states = [state for state in states if self._equivalent_state(state) not in self.dead_ends]
        self.states_seen += len(states)
        if self.states_seen > MAX_STATES:
            raise _SearchLimitError
        options = [(state, *self._options(state, number)) for state in states]
        for alternative, sources in enumerate(self.topology.sources[number]):
            states_by_ranks: dict[tuple[int, ...], set[_State]] = {}
            for state, exact, targets, candidates in options:
                for ranks, after in self._extensions(
                    state, number, [candidates[source] for source in sources], targets, exact
                ):
                    states_by_ranks.setdefault(ranks, set()).add(after)
            for ranks in sorted(states_by_ranks):
                choice = (alternative, tuple(self.operations[rank] for rank in ranks))
                cell = self._search(number + 1, list(states_by_ranks[ranks]), [*choices, choice])
                if cell is not None:
                    return cell
        if self.topology.output != "unused":  # With `unused`, a completion also depends on the nodes that are already used.
            self.dead_ends.update(map(self._equivalent_state, states))
        return None

    def _equivalent_state(self, state: _State) -> _State:
        """Returns a representative of the states with the same completions. Its interchangeable nodes are sorted."""
        if not self.interchangeable:
            return state
        sums = state.sums[self.topology.inputs :]
        ordered = sorted(sums, key=lambda sum_: -1 if sum_ is None else sum_)
        return _State((*state.sums[: self.topology.inputs], *ordered), state.placed)

    def _options(self, state: _State, number: int) -> tuple[bool, set[Sum], list[list[_Candidate]]]:
        """Returns the targets of the next node and the candidates of each source node. A target is a sum of the expression.

        Returns:
            Whether the next node must equal a target (otherwise it may be a part of one), the targets, and the list of
            candidates for each node that is already assigned.
        """
        exact, targets = self._targets(state, number)
        candidates = []
        for source, argument in enumerate(state.sums):
            by_operation = [
                self._candidates(rank, parts, source, argument, state) for rank, parts in enumerate(self.operation_parts)
            ]
            candidates.append(
                [
                    candidate
                    for group in by_operation
                    for candidate in group
                    if self.expression.is_part(candidate.sum, targets)
                ]
            )
        return exact, targets, candidates

    def _targets(self, state: _State, number: int) -> tuple[bool, set[Sum]]:
        """Returns whether the next node must equal a target (otherwise it may be a part of one), and the targets."""
        if self.topology.output == "all":
            sums = state.sums[self.topology.inputs :]
            return True, {sum_ for sum_, count in self.expression.outputs.items() if sums.count(sum_) < count}
        missing = self.expression.needed.difference(state.sums)
        # If the number of missing sums equals the number of remaining nodes, every remaining node must be a missing sum.
        exact = len(missing) == len(self.topology.sources) - number
        return exact, missing if exact else self.expression.useful

    def _candidates(
        self, rank: int, parts: Sequence[str], source: int, argument: Sum | None, state: _State
    ) -> list[_Candidate]:
        """Returns the candidates of an edge value with one or more operations."""
        if len(parts) == 1:
            return self._single_candidates(rank, parts[0], source, argument, state.placed)
        candidates = [_Candidate(rank, 0)]
        for operation in parts:
            single = self._single_candidates(rank, operation, source, argument, state.placed)
            candidates = [
                _Candidate(rank, a.sum + b.sum, a.weighted_terms | b.weighted_terms, a.weightless_terms | b.weightless_terms)
                for a in candidates
                for b in single
                if not a.weighted_terms & b.weighted_terms
            ]
        return candidates

    def _single_candidates(
        self, rank: int, operation: str, source: int, argument: Sum | None, placed: frozenset[int]
    ) -> list[_Candidate]:
        if operation == "none":
            return [_Candidate(rank, 0)]
        if argument is None:
            return []
        kind = self.expression.kind(operation, source)
        if not argument and operation in self.expression.vanishing:
            return [_Candidate(rank, 0)]
        if not weightless(kind):
            weighted_terms = self.expression.weighted_terms.get((kind, argument), ())
            return [_Candidate(rank, single_term(term), frozenset((term,))) for term in weighted_terms if term not in placed]
        result = self.expression.apply(kind, argument)
        if result is None:
            return []
        pooled = frozenset(term for term in terms_in(result) if self.expression.kinds.get(term) == kind)
        return [_Candidate(rank, result, weightless_terms=pooled & self.expression.one_per_operation)]

    def _extensions(
        self, state: _State, number: int, candidates: Sequence[Sequence[_Candidate]], targets: Collection[Sum], exact: bool
    ) -> Iterator[tuple[tuple[int, ...], _State]]:
        """Yields the ranks of the next node's operations and the next state, for every feasible assignment."""
        last = number + 1 == len(self.topology.sources)
        partial: list[tuple[tuple[int, ...], Sum, frozenset[int], frozenset[int]]] = [((), 0, frozenset(), frozenset())]
        for candidates_of_source, remaining in zip(candidates, self._remaining_terms(candidates), strict=True):
            partial = [
                (
                    (*ranks, candidate.rank),
                    total,
                    weighted_terms | candidate.weighted_terms,
                    weightless_terms | candidate.weightless_terms,
                )
                for ranks, sum_, weighted_terms, weightless_terms in partial
                for candidate in candidates_of_source
                if not weighted_terms & candidate.weighted_terms
                and self._can_reach_target(total := sum_ + candidate.sum, targets, remaining if exact else None)
            ]
        for ranks, sum_, weighted_terms, weightless_terms in partial:
            after = _State((*state.sums, sum_), state.placed | weighted_terms | weightless_terms)
            if self._is_feasible(after, number, last):
                yield ranks, after
        if self.topology.output == "last" and not last:
            # A node that does not reach the output takes the first value on all its edges.
            after = _State((*state.sums, None), state.placed)
            if self._is_feasible(after, number, last):
                yield (0,) * len(candidates), after

    @staticmethod
    def _remaining_terms(candidates: Sequence[Sequence[_Candidate]]) -> list[Sum]:
        """Returns, for each source, an upper bound on the terms that the later sources can add."""
        remaining = [0]
        for candidates_of_source in reversed(candidates[1:]):
            available = 0
            for candidate in candidates_of_source:
                available |= candidate.sum
            remaining.append(remaining[-1] + available)
        return remaining[::-1]

    def _can_reach_target(self, sum_: Sum, targets: Collection[Sum], remaining: Sum | None) -> bool:
        """Returns whether a sum is part of a target. If `remaining` is given, it must contain the rest of the target."""
        is_part = self.expression.is_part
        if remaining is None:
            return is_part(sum_, targets)
        return any(is_part(sum_, (target,)) and is_part(target - sum_, (remaining,)) for target in targets)

    def _is_feasible(self, state: _State, number: int, last: bool) -> bool:
        """Returns whether the remaining nodes can still hold the missing terms and sums."""
        expression, sum_ = self.expression, state.sums[-1]
        if len(expression.one_per_operation) - len(state.placed) > self.remaining_capacity[number]:
            return False
        if len(expression.needed.difference(state.sums)) > len(self.topology.sources) - number - 1:
            return False
        if self.topology.output == "all":
            return sum_ is not None and state.sums[self.topology.inputs :].count(sum_) <= expression.outputs[sum_]
        return not last or self.topology.output == "unused" or sum_ in expression.outputs

    def _is_complete(self, state: _State, choices: list[NodeChoice]) -> bool:
        if len(state.placed) < len(self.expression.one_per_operation):
            return False
        nodes = [
            [(o, s) for o, s in zip(operations, self.topology.sources[number][alternative], strict=True) if o != "none"]
            for number, (alternative, operations) in enumerate(choices)
        ]
        return Counter(state.sums[node] for node in self.topology.outputs(nodes)) == self.expression.outputs
