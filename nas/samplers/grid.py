"""Every architecture once, in an order that spreads over the space from the start."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from nas.samplers.base import Sampler

if TYPE_CHECKING:
    from nas.samplers.base import History
    from search_spaces import Value


@final
@dataclass(frozen=True, kw_only=True)
class Grid(Sampler):
    """Walks through the indices of the space in steps near the golden ratio of its size, past all that is known.

    Such steps, taken modulo the size, leave gaps of at most three lengths at any time (the three-gap theorem: Sós, 1958);
    as they have no divisor in common with the size, they meet every index once. Whatever the seed, the walk is the same.
    """

    max_resamples: ClassVar[int] = 0

    def propose(self, history: History, seed: int) -> dict[str, Value]:
        """Returns the next new architecture after the last one proposed that has ended, or any once all are known."""
        space, proposed = history.space, [trial for trial in history.finished if trial.number >= history.start]
        size, stride = space.size, golden_stride(space.size)
        # The walk starts in the middle: the first index is where every choice has its first value.
        middle = size // 2
        start = 0
        if proposed:
            start = (space.index(proposed[-1].architecture) - middle) * pow(stride, -1, size) % size + 1
        for position in itertools.chain(_count(start, size), _count(0, start)):
            architecture = space.at((middle + position * stride) % size)
            if history.is_new(architecture):
                break
        return architecture


def golden_stride(size: int) -> int:
    """Returns the largest number up to the golden section of a size, 0.618 of it, that has no divisor in common with it.

    Its multiples modulo the size meet every index from 0 to size - 1 once.
    """
    stride = (math.isqrt(5 * size * size) - size) // 2
    while math.gcd(stride, size) > 1:
        stride -= 1
    return max(1, stride)


def _count(start: int, stop: int) -> itertools.takewhile[int]:
    """Counts, as `range` does, to any size."""
    return itertools.takewhile(lambda position: position < stop, itertools.count(start))
