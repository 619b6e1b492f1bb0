"""The canonical form of a cell: the first of all cells, in the order of their choices, that compute the same by structure.

What a cell computes is written as an expression (expression.py); then cells are written node by node, always the first that
the expression still allows, until one has the whole of it. That this is the first of its class, and the same for all of it,
needs no more proof than that the search passes nothing over. A cell for which it would take too long stays as it is.
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
# Of each node: which alternative feeds it, and its operations.
NodeChoice = tuple[int, tuple[str, ...]]


@lru_cache(maxsize=100_000)
def canonical_cell(
    topology: Topology, operations: tuple[str, ...], graph: CellGraph, vanishing: frozenset[str] = VANISHING
) -> tuple[NodeChoice, ...] | None:
    """Returns the alternative and the operations of each node of the first cell that computes what a graph does.

    None where the search for it is given up, after MOST_STATES: of cells of many poolings and identities, which can be
    written in very many ways.

    Args:
        topology: Of the cell.
        operations: What its edges may carry, in order.
        graph: The cell.
        vanishing: The operations that make nothing of nothing.
    """
    try:
        cell = _Search(topology, operations, Expression(graph, vanishing)).run()
    except _SearchLimitError:
        return None
    assert cell is not None, "the graph itself is one of those that are looked through"
    return tuple(cell)


class _SearchLimitError(Exception):
    """The search has seen more states than it may."""


@final
@dataclass(frozen=True)
class _State:
    """The nodes of a cell so far: what each is (None: nothing that is needed), and which terms are written."""

    sums: tuple[Sum | None, ...]
    placed: frozenset[int]


@final
@dataclass(frozen=True)
class _Candidate:
    """What an operation on a node can stand for: terms, of which some are written by it."""

    rank: int
    sum: Sum
    weighted_terms: frozenset[int] = frozenset()
    weightless_terms: frozenset[int] = frozenset()


class _Search:
    """Looks for the first cell with an expression, node by node."""

    def __init__(self, topology: Topology, operations: tuple[str, ...], expression: Expression) -> None:
        self.topology, self.operations, self.expression = topology, operations, expression
        self.operation_parts = [operation.split("+") for operation in operations]
        # How many terms the nodes after each can hold.
        max_terms = max(map(len, self.operation_parts))
        capacities = [max_terms * max(map(len, alternatives)) for alternatives in topology.sources]
        self.remaining_capacity = [sum(capacities[number + 1 :]) for number in range(len(capacities))]
        # States from which no cell can be completed, and whether it matters which node is which.
        self.dead_ends: set[_State] = set()
        self.states_seen = 0
        self.interchangeable = topology.interchangeable

    def run(self) -> list[NodeChoice] | None:
        """Returns the alternative and the operations of each node, or None if no cell has the expression."""
        return self._search(0, [_State(tuple(single_term(i) for i in range(self.topology.inputs)), frozenset())], [])

    def _search(self, number: int, states: Sequence[_State], choices: list[NodeChoice]) -> list[NodeChoice] | None:
        """Returns the first way to go on from any of some states, which are all written alike, or None if there is none."""
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
        if self.topology.output != "unused":  # There it also matters what is used already.
            self.dead_ends.update(map(self._equivalent_state, states))
        return None

    def _equivalent_state(self, state: _State) -> _State:
        """Returns one state for all from which the same can be completed: where any node may feed any, for any order."""
        if not self.interchangeable:
            return state
        sums = state.sums[self.topology.inputs :]
        ordered = sorted(sums, key=lambda sum_: -1 if sum_ is None else sum_)
        return _State((*state.sums[: self.topology.inputs], *ordered), state.placed)

    def _options(self, state: _State, number: int) -> tuple[bool, set[Sum], list[list[_Candidate]]]:
        """Returns whether the next node must be one of its targets, or part of one; these; and what can be added to it.

        The last is what operations on each node so far have to offer.
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
        """Returns whether the next node must be one of some sums, or part of one, and these."""
        if self.topology.output == "all":
            sums = state.sums[self.topology.inputs :]
            return True, {sum_ for sum_, count in self.expression.outputs.items() if sums.count(sum_) < count}
        missing = self.expression.needed.difference(state.sums)
        # Where as many are missing as nodes are left, none of these may be anything else.
        exact = len(missing) == len(self.topology.sources) - number
        return exact, missing if exact else self.expression.useful

    def _candidates(
        self, rank: int, parts: Sequence[str], source: int, argument: Sum | None, state: _State
    ) -> list[_Candidate]:
        """Returns what the sum of some operations on one node can stand for."""
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
        """Yields the ranks of a node's operations and what follows, for whatever is needed or does no harm."""
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
            # A node that reaches no output: the first way to write it is as good as any.
            after = _State((*state.sums, None), state.placed)
            if self._is_feasible(after, number, last):
                yield (0,) * len(candidates), after

    @staticmethod
    def _remaining_terms(candidates: Sequence[Sequence[_Candidate]]) -> list[Sum]:
        """Returns, for each slot, at least as much of each term as those after it can add."""
        remaining = [0]
        for candidates_of_source in reversed(candidates[1:]):
            available = 0
            for candidate in candidates_of_source:
                available |= candidate.sum
            remaining.append(remaining[-1] + available)
        return remaining[::-1]

    def _can_reach_target(self, sum_: Sum, targets: Collection[Sum], remaining: Sum | None) -> bool:
        """Returns whether a sum is part of one that is wanted, of which `more`, if given, holds what it lacks."""
        is_part = self.expression.is_part
        if remaining is None:
            return is_part(sum_, targets)
        return any(is_part(sum_, (target,)) and is_part(target - sum_, (remaining,)) for target in targets)

    def _is_feasible(self, state: _State, number: int, last: bool) -> bool:
        """Returns whether the nodes that are left can still hold what is missing."""
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
