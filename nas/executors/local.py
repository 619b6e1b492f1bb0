"""The local executor: trials one after another, in this process, with no daemon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from nas.executors.base import Evaluate, Executor, Job

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nas.executors.base import EpochResult, Outcome


@final
@dataclass(frozen=True, kw_only=True)
class Local(Executor):
    """Runs one job after another."""

    def run(self, jobs: Iterable[Job], evaluate: Evaluate) -> Iterator[tuple[Job, EpochResult | Outcome]]:
        """Yields the epochs and the outcome of each job in turn."""
        for job in jobs:
            steps = evaluate(job)
            while True:
                try:
                    yield job, next(steps)
                except StopIteration as stop:
                    yield job, stop.value
                    break
