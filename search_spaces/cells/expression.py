"""Algebraic expression of a cell. Every node is a sum of terms. A term is an input of the cell or an operation on a sum.

Rules of equivalence:

- Each operation with weights is a separate term. Operations without weights on the same sum are the same term.
- A skip returns its input sum. Average pooling of a sum is the sum of the average poolings.
- Operations in `vanishing` map the empty sum, which is zero, to the empty sum.
- A convolution of the empty sum is a spatial constant. Pooling does not change constants.
- Terms that do not reach the output are removed.
- The summands of a sum are unordered. The outputs are also unordered, because the weights of the next layer can be permuted.
  The inputs are ordered.

Other identities are not used: max pooling of a doubled sum, two max poolings as one larger pooling, and the sum of two
constants as one constant. Convolutions of the empty sum with different kernels stay different.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from search_spaces.operations import LINEAR, OPERATIONS, POINTWISE, VANISHING, WEIGHTLESS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from search_spaces.graph import CellGraph

# A sum of terms, packed into one integer: the count of each term has BITS bits. Adding two integers adds the sums.
Sum = int
BITS = 24
# Name of an operation, and whether it has a stride.
OperationKind = tuple[str, bool]


class Expression:
    """The expression of a cell: its terms, each with its kind and argument, and the sums of the output nodes.

    Only live terms are kept: terms that reach the output.
    """

    def __init__(self, graph: CellGraph, vanishing: frozenset[str] = VANISHING) -> None:
        self.vanishing = vanishing
        self.inputs, self.strided = graph.inputs, graph.strided
        self.kinds: dict[int, OperationKind] = {}
        self.arguments: dict[int, Sum] = {}
        # Terms without weights, by kind and argument; and terms that are spatially constant.
        self.weightless_terms: dict[tuple[OperationKind, Sum], int] = {}
        self.constants: set[int] = set()
        sums: list[Sum] = [single_term(i) for i in range(graph.inputs)]
        for summands in graph.nodes:
            sums.append(sum(self._add_operation(operation, source, sums[source]) for operation, source in summands))
        # One guard bit for each term. `is_part` uses them to detect a borrow.
        self.guards = sum(single_term(term) << (BITS - 1) for term in range(graph.inputs + len(self.kinds)))
        self.outputs = Counter(sums[node] for node in graph.outputs)
        live = self._live()
        self.kinds = {term: kind for term, kind in self.kinds.items() if term in live}
        # Live terms with weights, by kind and argument. Each has exactly one edge.
        self.weighted_terms: dict[tuple[OperationKind, Sum], list[int]] = {}
        for term, kind in self.kinds.items():
            if not weightless(kind):
                self.weighted_terms.setdefault((kind, self.arguments[term]), []).append(term)
        # `one_per_operation`: terms that are the only term of their operation. A linear operation has one term per summand.
        # `needed`: sums that some node must equal. Each of them is an output or the argument of a term. If there are
        # constants, the argument of a pooling term is not certain, because a node may also hold constants.
        self.one_per_operation = {term for term, kind in self.kinds.items() if kind[0] not in LINEAR}
        certain = [term for term in self.one_per_operation if not self.constants or not weightless(self.kinds[term])]
        self.needed = {*self.outputs, *(self.arguments[term] for term in certain)}
        self.useful = self._useful()

    def kind(self, operation: str, source: int) -> OperationKind:
        """Returns the kind of an operation on a node. In a strided cell, operations on the inputs have a stride."""
        return operation, self.strided and source < self.inputs

    def is_part(self, sum_: Sum, targets: Iterable[Sum]) -> bool:
        """Returns whether at least one target contains all terms of a sum."""
        return any(((target | self.guards) - sum_) & self.guards == self.guards for target in targets)

    def apply(self, kind: OperationKind, argument: Sum) -> Sum | None:
        """Returns the result of an operation without weights on a sum; None if the result has a term that is not live."""
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
        """Adds the terms of an operation on a sum to the expression, and returns the result of the operation."""
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
        """Returns the needed sums and the sums whose poolings give needed sums. Every node is a part of one of these."""
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
    """Returns the (term, count) pairs of a sum."""
    return [(term, sum_ >> BITS * term & (1 << BITS) - 1) for term in terms_in(sum_)]


def single_term(term: int) -> Sum:
    """Returns the sum that contains one term once."""
    return 1 << BITS * term


def terms_in(sum_: Sum) -> list[int]:
    """Returns the distinct terms of a sum."""
    terms, term = [], 0
    while sum_:
        if sum_ % (1 << BITS):
            terms.append(term)
        sum_, term = sum_ >> BITS, term + 1
    return terms


def weightless(kind: OperationKind) -> bool:
    """Returns whether a kind of operation has no weights. A skip with a stride has weights."""
    return kind[0] in WEIGHTLESS and kind != ("skip", True)
