"""Grid search: every architecture once, in an order that covers the space evenly from the start."""

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
    """Steps through the indices of the space by about 0.618 times its size, and skips architectures that are not new.

    The steps are modulo the size. At any time, the gaps between visited indices have at most three lengths (three-gap
    theorem; Sós, 1958). The step is coprime to the size, so every index is visited once. The order does not depend on the
    seed.
    """

    max_resamples: ClassVar[int] = 0

    def propose(self, history: History, seed: int) -> dict[str, Value]:
        """Returns the next new architecture after the last finished proposal, or an old one if none is new."""
        space, proposed = history.space, [trial for trial in history.finished if trial.number >= history.start]
        size, stride = space.size, golden_stride(space.size)
        # Start in the middle of the indices: at index 0 every choice has its first value.
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
    """Returns the largest number up to 0.618 times the size (golden ratio) that is coprime to the size, at least 1.

    The multiples of this number modulo the size visit every index from 0 to size - 1 once.
    """
    stride = (math.isqrt(5 * size * size) - size) // 2
    while math.gcd(stride, size) > 1:
        stride -= 1
    return max(1, stride)


def _count(start: int, stop: int) -> itertools.takewhile[int]:
    """Counts like `range`, without its limit on the size."""
    return itertools.takewhile(lambda position: position < stop, itertools.count(start))
