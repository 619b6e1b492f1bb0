"""The canonical form of a cell: the first of all cells, in the order of their choices, that compute the same by structure.

What a cell computes is written as an expression: every node a sum of terms, every term an operation on a sum. An operation
with weights is a term by itself; one without weights is the same term wherever it has the same argument. Skips pass their
sum on, average pooling of a sum is the sum of average poolings, operations that vanish on nothing vanish, a convolution of
nothing is a constant, which pooling leaves alone, and what reaches no output is not there. Sums have no order, and neither
has the output: weights after it can be permuted. The inputs keep their places.

Then cells are written node by node, always the first that the expression still allows, until one has the whole of it. That
this is the first of its class, and the same for all of it, needs no more proof than that the search passes nothing over.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, final

from search_spaces.operations import LINEAR, OPERATIONS, POINTWISE, VANISHING, WEIGHTLESS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from search_spaces.graph import CellGraph
    from search_spaces.topology import Topology

# A sum of terms: how often each is added, packed into one number of so many bits a term. So sums are added as numbers are.
Sum = int
BITS = 24
# An operation, and whether it has a stride.
Kind = tuple[str, bool]
# Of each node: which alternative feeds it, and its operations.
Writing = tuple[int, tuple[str, ...]]


@lru_cache(maxsize=100_000)
def first_of_class(topology: Topology, operations: tuple[str, ...], graph: CellGraph) -> tuple[Writing, ...]:
    """Returns the alternative and the operations of each node of the first cell that computes what a graph does."""
    expression = Expression(graph)
    found = _Search(topology, operations, expression).run()
    assert found is not None, "the graph itself is one of those that are looked through"
    return tuple(found)


class Expression:
    """What a cell computes: its live terms, each with its kind and argument, and the sums that leave it."""

    def __init__(self, graph: CellGraph) -> None:
        self.inputs, self.strided = graph.inputs, graph.strided
        self.kinds: dict[int, Kind] = {}
        self.arguments: dict[int, Sum] = {}
        # The terms without weights, by what they are; and those that are the same at every pixel.
        self.shared: dict[tuple[Kind, Sum], int] = {}
        self.constants: set[int] = set()
        sums: list[Sum] = [once(i) for i in range(graph.inputs)]
        for summands in graph.nodes:
            sums.append(sum(self._written(operation, source, sums[source]) for operation, source in summands))
        # One guard bit a term, which tells a sum that is part of another.
        self.guards = sum(once(term) << (BITS - 1) for term in range(graph.inputs + len(self.kinds)))
        self.outputs = Counter(sums[node] for node in graph.outputs)
        live = self._live()
        self.kinds = {term: kind for term, kind in self.kinds.items() if term in live}
        # The live terms with weights, by what they are: each is written exactly once.
        self.own: dict[tuple[Kind, Sum], list[int]] = {}
        for term, kind in self.kinds.items():
            if not weightless(kind):
                self.own.setdefault((kind, self.arguments[term]), []).append(term)
        # The terms of which an operation writes one only, and what some node must be: it leaves the cell, or one of them is
        # of it. Of pooling that is not certain where there are constants, which a node may hold besides.
        self.single = {term for term, kind in self.kinds.items() if kind[0] not in LINEAR}
        certain = [term for term in self.single if not self.constants or not weightless(self.kinds[term])]
        self.needed = {*self.outputs, *(self.arguments[term] for term in certain)}
        self.useful = self._useful()

    def kind(self, operation: str, source: int) -> Kind:
        """Returns the kind of an operation on a node; on the inputs of a cell that halves the resolution it has a stride."""
        return operation, self.strided and source < self.inputs

    def part(self, sum_: Sum, targets: Iterable[Sum]) -> bool:
        """Returns whether all of a sum is part of one of others."""
        return any(((target | self.guards) - sum_) & self.guards == self.guards for target in targets)

    def applied(self, kind: Kind, argument: Sum) -> Sum | None:
        """Returns what an operation without weights makes of a sum, or None if that holds terms which are not there."""
        if kind == ("skip", False):
            return argument
        constant = sum(count * once(term) for term, count in counted(argument) if term in self.constants)
        rest = argument - constant
        parts = counted(rest) if kind[0] in LINEAR else [(-1, 1)] if rest else []
        made = constant
        for term, count in parts:
            found = self.shared.get((kind, rest if term < 0 else once(term)))
            if found is None:
                return None
            made += count * once(found)
        return made

    def _written(self, operation: str, source: int, argument: Sum) -> Sum:
        """Returns what an operation makes of a sum, after its terms were added to those there are."""
        kind = self.kind(operation, source)
        if operation == "none" or (not argument and operation in VANISHING):
            return 0
        if not weightless(kind):
            term = self._add(kind, argument)
            spread = operation in POINTWISE or not argument
            if operation in OPERATIONS and spread and all(t in self.constants for t in terms_of(argument)):
                self.constants.add(term)
            return once(term)
        rest = sum(count * once(term) for term, count in counted(argument) if term not in self.constants)
        for of in [once(term) for term in terms_of(rest)] if operation in LINEAR else [rest] if rest else []:
            if kind != ("skip", False) and (kind, of) not in self.shared:
                self.shared[kind, of] = self._add(kind, of)
        made = self.applied(kind, argument)
        assert made is not None
        return made

    def _add(self, kind: Kind, argument: Sum) -> int:
        term = self.inputs + len(self.kinds)
        self.kinds[term], self.arguments[term] = kind, argument
        return term

    def _live(self) -> set[int]:
        live: set[int] = set()
        new = [term for sum_ in self.outputs for term in terms_of(sum_)]
        while new:
            term = new.pop()
            if term not in live:
                live.add(term)
                new += terms_of(self.arguments.get(term, 0))
        return live

    def _useful(self) -> set[Sum]:
        """Returns what is needed, and what is before pooling that is needed: every node must be a part of one of these."""
        useful, new = set(self.needed), list(self.needed)
        pooled = {kind for kind in self.kinds.values() if weightless(kind)}
        while new:
            terms = counted(new.pop())
            constant = sum(count * once(term) for term, count in terms if term in self.constants)
            for kind in pooled:
                before = [count * self.arguments[term] for term, count in terms if self.kinds.get(term) == kind]
                for sum_ in [sum(before)] if kind[0] in LINEAR else before:
                    if sum_ and sum_ + constant not in useful:
                        useful.add(sum_ + constant)
                        new.append(sum_ + constant)
        return useful


def counted(sum_: Sum) -> list[tuple[int, int]]:
    """Returns the terms of a sum, and how often each is added."""
    return [(term, sum_ >> BITS * term & (1 << BITS) - 1) for term in terms_of(sum_)]


def once(term: int) -> Sum:
    """Returns the sum of one term."""
    return 1 << BITS * term


def terms_of(sum_: Sum) -> list[int]:
    """Returns the terms of a sum, each once."""
    terms, term = [], 0
    while sum_:
        if sum_ % (1 << BITS):
            terms.append(term)
        sum_, term = sum_ >> BITS, term + 1
    return terms


def weightless(kind: Kind) -> bool:
    """Returns whether two operations of a kind on one input are one; at a stride of 2 a skip has weights."""
    return kind[0] in WEIGHTLESS and kind != ("skip", True)


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
        self.any_order = topology.any_order

    def run(self) -> list[Writing] | None:
        """Returns the alternative and the operations of each node, or None if no cell has the expression."""
        return self._from(0, [_State(tuple(once(i) for i in range(self.topology.inputs)), frozenset())], [])

    def _from(self, number: int, states: Sequence[_State], before: list[Writing]) -> list[Writing] | None:
        """Returns the first way to go on from any of some states, which are all written alike, or None if there is none."""
        if number == len(self.topology.sources):
            return before if any(self._complete(state, before) for state in states) else None
        states = [state for state in states if self._prospect(state) not in self.hopeless]
        prepared = [(state, *self._prepare(state, number)) for state in states]
        for alternative, sources in enumerate(self.topology.sources[number]):
            ways: dict[tuple[int, ...], set[_State]] = {}
            for state, targets, offers in prepared:
                for ranks, after in self._node(state, number, [offers[source] for source in sources], targets):
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

    def _prepare(self, state: _State, number: int) -> tuple[set[Sum], list[list[_Offer]]]:
        """Returns what the next node must be, or be part of, and what operations on each node so far can add to it."""
        targets = self._targets(state, number)
        offers = []
        for source, argument in enumerate(state.sums):
            found = [self._offers(rank, parts, source, argument, state) for rank, parts in enumerate(self.parts)]
            offers.append([offer for some in found for offer in some if self.expression.part(offer.sum, targets)])
        return targets, offers

    def _targets(self, state: _State, number: int) -> set[Sum]:
        """Returns the sums of which the next node must be one, where `_exact`, or part of one."""
        if self.topology.output == "all":
            sums = state.sums[self.topology.inputs :]
            return {sum_ for sum_, count in self.expression.outputs.items() if sums.count(sum_) < count}
        missing = self.expression.needed.difference(state.sums)
        return missing if self._exact(missing, number) else self.expression.useful

    def _exact(self, missing: Collection[Sum], number: int) -> bool:
        """Returns whether no node that is left may be anything but what is still missing."""
        return self.topology.output == "all" or len(missing) == len(self.topology.sources) - number

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
        if not argument and operation in VANISHING:
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
        self, state: _State, number: int, offers: Sequence[Sequence[_Offer]], targets: Collection[Sum]
    ) -> Iterator[tuple[tuple[int, ...], _State]]:
        """Yields the ranks of a node's operations and what follows, for whatever is needed or does no harm."""
        last = number + 1 == len(self.topology.sources)
        exact = self._exact(self.expression.needed.difference(state.sums), number)
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
