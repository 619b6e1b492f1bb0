"""Local executor: runs trials sequentially, in this process or each in a child process."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from nas.executors.base import ExecutionContext, Executor, Job, JobEvent, JobStarted
from nas.executors.isolated import ChildProcesses
from nas.executors.jobs import run_job
from nas.training.checkpoints import Checkpoint, FileStore, trial_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@final
@dataclass(frozen=True, kw_only=True)
class Local(Executor):
    """Runs jobs sequentially: in this process, or each in a child process if the context isolates them."""

    def run(self, jobs: Iterable[Job], context: ExecutionContext) -> Iterator[tuple[Job, JobEvent]]:
        """Yields the events of each job in turn."""
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
