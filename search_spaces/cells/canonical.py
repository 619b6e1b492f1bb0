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

from search_spaces.cells.expression import Expression, Sum, once, terms_of, weightless
from search_spaces.operations import VANISHING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from search_spaces.cells.topology import Topology
    from search_spaces.graph import CellGraph

MOST_STATES = 3000
# Of each node: which alternative feeds it, and its operations.
Writing = tuple[int, tuple[str, ...]]


@lru_cache(maxsize=100_000)
def canonical_cell(
    topology: Topology, operations: tuple[str, ...], graph: CellGraph, vanishing: frozenset[str] = VANISHING
) -> tuple[Writing, ...] | None:
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
        found = _Search(topology, operations, Expression(graph, vanishing)).run()
    except _GivenUpError:
        return None
    assert found is not None, "the graph itself is one of those that are looked through"
    return tuple(found)


class _GivenUpError(Exception):
    """The search has seen more states than it may."""


@final
@dataclass(frozen=True)
class _State:
    """The nodes of a cell so far: what each is (None: nothing that is needed), and which terms are written."""

    sums: tuple[Sum | None, ...]
    written: frozenset[int]


@final
@dataclass(frozen=True)
class _Offer:
    """What an operation on a node can stand for: terms, of which some are written by it."""

    rank: int
    sum: Sum
    own: frozenset[int] = frozenset()
    shared: frozenset[int] = frozenset()


class _Search:
    """Looks for the first cell with an expression, node by node."""

    def __init__(self, topology: Topology, operations: tuple[str, ...], expression: Expression) -> None:
        self.topology, self.operations, self.expression = topology, operations, expression
        self.parts = [operation.split("+") for operation in operations]
        # How many terms the nodes after each can hold.
        most = max(map(len, self.parts))
        slots = [most * max(map(len, alternatives)) for alternatives in topology.sources]
        self.room = [sum(slots[number + 1 :]) for number in range(len(slots))]
        # States from which no cell can be completed, and whether it matters which node is which.
        self.hopeless: set[_State] = set()
        self.seen = 0
        self.any_order = topology.any_order

    def run(self) -> list[Writing] | None:
        """Returns the alternative and the operations of each node, or None if no cell has the expression."""
        return self._from(0, [_State(tuple(once(i) for i in range(self.topology.inputs)), frozenset())], [])

    def _from(self, number: int, states: Sequence[_State], before: list[Writing]) -> list[Writing] | None:
        """Returns the first way to go on from any of some states, which are all written alike, or None if there is none."""
        if number == len(self.topology.sources):
            return before if any(self._complete(state, before) for state in states) else None
        states = [state for state in states if self._prospect(state) not in self.hopeless]
        self.seen += len(states)
        if self.seen > MOST_STATES:
            raise _GivenUpError
        prepared = [(state, *self._prepare(state, number)) for state in states]
        for alternative, sources in enumerate(self.topology.sources[number]):
            ways: dict[tuple[int, ...], set[_State]] = {}
            for state, exact, targets, offers in prepared:
                for ranks, after in self._node(state, number, [offers[source] for source in sources], targets, exact):
                    ways.setdefault(ranks, set()).add(after)
            for ranks in sorted(ways):
                writing = (alternative, tuple(self.operations[rank] for rank in ranks))
                found = self._from(number + 1, list(ways[ranks]), [*before, writing])
                if found is not None:
                    return found
        if self.topology.output != "unused":  # There it also matters what is used already.
            self.hopeless.update(map(self._prospect, states))
        return None

    def _prospect(self, state: _State) -> _State:
        """Returns one state for all from which the same can be completed: where any node may feed any, for any order."""
        if not self.any_order:
            return state
        sums = state.sums[self.topology.inputs :]
        ordered = sorted(sums, key=lambda sum_: -1 if sum_ is None else sum_)
        return _State((*state.sums[: self.topology.inputs], *ordered), state.written)

    def _prepare(self, state: _State, number: int) -> tuple[bool, set[Sum], list[list[_Offer]]]:
        """Returns whether the next node must be one of its targets, or part of one; these; and what can be added to it.

        The last is what operations on each node so far have to offer.
        """
        exact, targets = self._targets(state, number)
        offers = []
        for source, argument in enumerate(state.sums):
            found = [self._offers(rank, parts, source, argument, state) for rank, parts in enumerate(self.parts)]
            offers.append([offer for some in found for offer in some if self.expression.part(offer.sum, targets)])
        return exact, targets, offers

    def _targets(self, state: _State, number: int) -> tuple[bool, set[Sum]]:
        """Returns whether the next node must be one of some sums, or part of one, and these."""
        if self.topology.output == "all":
            sums = state.sums[self.topology.inputs :]
            return True, {sum_ for sum_, count in self.expression.outputs.items() if sums.count(sum_) < count}
        missing = self.expression.needed.difference(state.sums)
        # Where as many are missing as nodes are left, none of these may be anything else.
        exact = len(missing) == len(self.topology.sources) - number
        return exact, missing if exact else self.expression.useful

    def _offers(self, rank: int, parts: Sequence[str], source: int, argument: Sum | None, state: _State) -> list[_Offer]:
        """Returns what the sum of some operations on one node can stand for."""
        if len(parts) == 1:
            return self._single(rank, parts[0], source, argument, state.written)
        offers = [_Offer(rank, 0)]
        for operation in parts:
            single = self._single(rank, operation, source, argument, state.written)
            offers = [
                _Offer(rank, a.sum + b.sum, a.own | b.own, a.shared | b.shared)
                for a in offers
                for b in single
                if not a.own & b.own
            ]
        return offers

    def _single(self, rank: int, operation: str, source: int, argument: Sum | None, written: frozenset[int]) -> list[_Offer]:
        if operation == "none":
            return [_Offer(rank, 0)]
        if argument is None:
            return []
        kind = self.expression.kind(operation, source)
        if not argument and operation in self.expression.vanishing:
            return [_Offer(rank, 0)]
        if not weightless(kind):
            own = self.expression.own.get((kind, argument), ())
            return [_Offer(rank, once(term), frozenset((term,))) for term in own if term not in written]
        made = self.expression.applied(kind, argument)
        if made is None:
            return []
        pooled = frozenset(term for term in terms_of(made) if self.expression.kinds.get(term) == kind)
        return [_Offer(rank, made, shared=pooled & self.expression.single)]

    def _node(
        self, state: _State, number: int, offers: Sequence[Sequence[_Offer]], targets: Collection[Sum], exact: bool
    ) -> Iterator[tuple[tuple[int, ...], _State]]:
        """Yields the ranks of a node's operations and what follows, for whatever is needed or does no harm."""
        last = number + 1 == len(self.topology.sources)
        ways: list[tuple[tuple[int, ...], Sum, frozenset[int], frozenset[int]]] = [((), 0, frozenset(), frozenset())]
        for slot, more in zip(offers, self._most_after(offers), strict=True):
            ways = [
                ((*ranks, offer.rank), whole, own | offer.own, shared | offer.shared)
                for ranks, sum_, own, shared in ways
                for offer in slot
                if not own & offer.own and self._may_become(whole := sum_ + offer.sum, targets, more if exact else None)
            ]
        for ranks, sum_, own, shared in ways:
            after = _State((*state.sums, sum_), state.written | own | shared)
            if self._may_go_on(after, number, last):
                yield ranks, after
        if self.topology.output == "last" and not last:
            # A node that reaches no output: the first way to write it is as good as any.
            after = _State((*state.sums, None), state.written)
            if self._may_go_on(after, number, last):
                yield (0,) * len(offers), after

    @staticmethod
    def _most_after(offers: Sequence[Sequence[_Offer]]) -> list[Sum]:
        """Returns, for each slot, at least as much of each term as those after it can add."""
        more = [0]
        for slot in reversed(offers[1:]):
            most = 0
            for offer in slot:
                most |= offer.sum
            more.append(more[-1] + most)
        return more[::-1]

    def _may_become(self, sum_: Sum, targets: Collection[Sum], more: Sum | None) -> bool:
        """Returns whether a sum is part of one that is wanted, of which `more`, if given, holds what it lacks."""
        part = self.expression.part
        if more is None:
            return part(sum_, targets)
        return any(part(sum_, (target,)) and part(target - sum_, (more,)) for target in targets)

    def _may_go_on(self, state: _State, number: int, last: bool) -> bool:
        """Returns whether the nodes that are left can still hold what is missing."""
        expression, sum_ = self.expression, state.sums[-1]
        if len(expression.single) - len(state.written) > self.room[number]:
            return False
        if len(expression.needed.difference(state.sums)) > len(self.topology.sources) - number - 1:
            return False
        if self.topology.output == "all":
            return sum_ is not None and state.sums[self.topology.inputs :].count(sum_) <= expression.outputs[sum_]
        return not last or self.topology.output == "unused" or sum_ in expression.outputs

    def _complete(self, state: _State, writings: list[Writing]) -> bool:
        if len(state.written) < len(self.expression.single):
            return False
        nodes = [
            [(o, s) for o, s in zip(operations, self.topology.sources[number][alternative], strict=True) if o != "none"]
            for number, (alternative, operations) in enumerate(writings)
        ]
        return Counter(state.sums[node] for node in self.topology.outputs(nodes)) == self.expression.outputs
