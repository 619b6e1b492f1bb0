"""What a cell computes, as an expression: every node a sum of terms, every term an operation on a sum.

An operation with weights is a term by itself; one without weights is the same term wherever it has the same argument. Skips
pass their sum on, average pooling of a sum is the sum of average poolings, operations that vanish on nothing vanish, a
convolution of nothing is a constant, which pooling leaves alone, and what reaches no output is not there. Sums have no
order, and neither has the output: weights after it can be permuted. The inputs keep their places.

What goes further than structure is not used: that max pooling of a doubled sum is the doubled max pooling, that two max
poolings are a larger one, and that constants add up to a constant. The kernel of a convolution of nothing still counts.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from search_spaces.operations import LINEAR, OPERATIONS, POINTWISE, VANISHING, WEIGHTLESS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from search_spaces.graph import CellGraph

# A sum of terms: how often each is added, packed into one number of so many bits a term. So sums are added as numbers are.
Sum = int
BITS = 24
# An operation, and whether it has a stride.
Kind = tuple[str, bool]


class Expression:
    """What a cell computes: its live terms, each with its kind and argument, and the sums that leave it."""

    def __init__(self, graph: CellGraph, vanishing: frozenset[str] = VANISHING) -> None:
        self.vanishing = vanishing
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
        if operation == "none" or (not argument and operation in self.vanishing):
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
