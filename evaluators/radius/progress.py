"""Progress of work that has several parts."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float], None]


def part_of(report: Progress, number: int, of: int) -> Progress:
    """Returns a progress function for part `number` of `of` equal parts. It reports the progress of the whole."""
    return lambda share: report((number + share) / of)


def half_of_the_rest(report: Progress, turn: int) -> Progress:
    """Returns a progress function for round `turn` of an unknown number of rounds: each takes half of what is left."""
    return lambda share: report(1 - 0.5**turn * (1 - share / 2))
