"""Local executor: runs trials on this machine, in this process or each in a child process."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from nas.executors.base import ExecutionContext, Executor, Job, JobEvent, JobStarted
from nas.executors.isolated import ChildProcesses
from nas.executors.jobs import run_job
from nas.executors.parallel import run_in_parallel
from nas.training.checkpoints import Checkpoint, FileStore, trial_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@final
@dataclass(frozen=True, kw_only=True)
class Local(Executor):
    """Runs jobs on this machine.

    Attributes:
        workers: Number of parallel trials. One runs in this process or, with search.isolate, in a child process. Several run
            in child processes. The proposals then depend on the order in which trials end.

    Raises:
        ValueError: workers is below 1.
    """

    workers: int = 1

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")

    def run(self, jobs: Iterable[Job], context: ExecutionContext) -> Iterator[tuple[Job, JobEvent]]:
        """Yields the events of the jobs, with one worker of each job in turn."""
        if self.workers > 1:
            yield from run_in_parallel(jobs, context, self.workers)
            return
        with ChildProcesses(context.evaluate) if context.isolate else nullcontext() as children:
            for job in jobs:
                yield job, JobStarted("local")
                yield from ((job, event) for event in run_here_or_in_child(job, context, children))


def run_here_or_in_child(job: Job, context: ExecutionContext, children: ChildProcesses | None) -> Iterator[JobEvent]:
    """Yields the events of a job, which runs in a child process, or in this one if children is None.

    `context.isolate` has no effect.
    """
    if children is not None:
        yield from children.run(job, context)
        return
    checkpoint = Checkpoint(FileStore(trial_file(context.folder, job.number)), context.checkpoint_seconds)
    yield from run_job(job, context, checkpoint)
