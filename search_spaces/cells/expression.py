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
OperationKind = tuple[str, bool]


class Expression:
    """What a cell computes: its live terms, each with its kind and argument, and the sums that leave it."""

    def __init__(self, graph: CellGraph, vanishing: frozenset[str] = VANISHING) -> None:
        self.vanishing = vanishing
        self.inputs, self.strided = graph.inputs, graph.strided
        self.kinds: dict[int, OperationKind] = {}
        self.arguments: dict[int, Sum] = {}
        # The terms without weights, by what they are; and those that are the same at every pixel.
        self.weightless_terms: dict[tuple[OperationKind, Sum], int] = {}
        self.constants: set[int] = set()
        sums: list[Sum] = [single_term(i) for i in range(graph.inputs)]
        for summands in graph.nodes:
            sums.append(sum(self._add_operation(operation, source, sums[source]) for operation, source in summands))
        # One guard bit a term, which tells a sum that is part of another.
        self.guards = sum(single_term(term) << (BITS - 1) for term in range(graph.inputs + len(self.kinds)))
        self.outputs = Counter(sums[node] for node in graph.outputs)
        live = self._live()
        self.kinds = {term: kind for term, kind in self.kinds.items() if term in live}
        # The live terms with weights, by what they are: each is written exactly once.
        self.weighted_terms: dict[tuple[OperationKind, Sum], list[int]] = {}
        for term, kind in self.kinds.items():
            if not weightless(kind):
                self.weighted_terms.setdefault((kind, self.arguments[term]), []).append(term)
        # The terms of which an operation writes one only, and what some node must be: it leaves the cell, or one of them is
        # of it. Of pooling that is not certain where there are constants, which a node may hold besides.
        self.one_per_operation = {term for term, kind in self.kinds.items() if kind[0] not in LINEAR}
        certain = [term for term in self.one_per_operation if not self.constants or not weightless(self.kinds[term])]
        self.needed = {*self.outputs, *(self.arguments[term] for term in certain)}
        self.useful = self._useful()

    def kind(self, operation: str, source: int) -> OperationKind:
        """Returns the kind of an operation on a node; on the inputs of a cell that halves the resolution it has a stride."""
        return operation, self.strided and source < self.inputs

    def is_part(self, sum_: Sum, targets: Iterable[Sum]) -> bool:
        """Returns whether all of a sum is part of one of others."""
        return any(((target | self.guards) - sum_) & self.guards == self.guards for target in targets)

    def apply(self, kind: OperationKind, argument: Sum) -> Sum | None:
        """Returns what an operation without weights makes of a sum, or None if that holds terms which are not there."""
        if kind == ("skip", False):
            return argument
        constant = sum(count * single_term(term) for term, count in term_counts(argument) if term in self.constants)
        rest = argument - constant
        parts = term_counts(rest) if kind[0] in LINEAR else [(-1, 1)] if rest else []
        result = constant
        for term, count in parts:
            term_of_operation = self.weightless_terms.get((kind, rest if term < 0 else single_term(term)))
            if term_of_operation is None:
                return None
            result += count * single_term(term_of_operation)
        return result

    def _add_operation(self, operation: str, source: int, argument: Sum) -> Sum:
        """Returns what an operation makes of a sum, after its terms were added to those there are."""
        kind = self.kind(operation, source)
        if operation == "none" or (not argument and operation in self.vanishing):
            return 0
        if not weightless(kind):
            term = self._new_term(kind, argument)
            keeps_constants = operation in POINTWISE or not argument
            if operation in OPERATIONS and keeps_constants and all(t in self.constants for t in terms_in(argument)):
                self.constants.add(term)
            return single_term(term)
        rest = sum(count * single_term(term) for term, count in term_counts(argument) if term not in self.constants)
        for operand in [single_term(term) for term in terms_in(rest)] if operation in LINEAR else [rest] if rest else []:
            if kind != ("skip", False) and (kind, operand) not in self.weightless_terms:
                self.weightless_terms[kind, operand] = self._new_term(kind, operand)
        result = self.apply(kind, argument)
        assert result is not None
        return result

    def _new_term(self, kind: OperationKind, argument: Sum) -> int:
        term = self.inputs + len(self.kinds)
        self.kinds[term], self.arguments[term] = kind, argument
        return term

    def _live(self) -> set[int]:
        live: set[int] = set()
        pending = [term for sum_ in self.outputs for term in terms_in(sum_)]
        while pending:
            term = pending.pop()
            if term not in live:
                live.add(term)
                pending += terms_in(self.arguments.get(term, 0))
        return live

    def _useful(self) -> set[Sum]:
        """Returns what is needed, and what is before pooling that is needed: every node must be a part of one of these."""
        useful, pending = set(self.needed), list(self.needed)
        pooled = {kind for kind in self.kinds.values() if weightless(kind)}
        while pending:
            terms = term_counts(pending.pop())
            constant = sum(count * single_term(term) for term, count in terms if term in self.constants)
            for kind in pooled:
                before = [count * self.arguments[term] for term, count in terms if self.kinds.get(term) == kind]
                for sum_ in [sum(before)] if kind[0] in LINEAR else before:
                    if sum_ and sum_ + constant not in useful:
                        useful.add(sum_ + constant)
                        pending.append(sum_ + constant)
        return useful


def term_counts(sum_: Sum) -> list[tuple[int, int]]:
    """Returns the terms of a sum, and how often each is added."""
    return [(term, sum_ >> BITS * term & (1 << BITS) - 1) for term in terms_in(sum_)]


def single_term(term: int) -> Sum:
    """Returns the sum of one term."""
    return 1 << BITS * term


def terms_in(sum_: Sum) -> list[int]:
    """Returns the terms of a sum, each once."""
    terms, term = [], 0
    while sum_:
        if sum_ % (1 << BITS):
            terms.append(term)
        sum_, term = sum_ >> BITS, term + 1
    return terms


def weightless(kind: OperationKind) -> bool:
    """Returns whether two operations of a kind on one input are one; at a stride of 2 a skip has weights."""
    return kind[0] in WEIGHTLESS and kind != ("skip", True)
