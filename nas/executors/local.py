"""Local executor: runs trials sequentially in this process."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from nas.errors import TimeLimitError
from nas.executors.base import ExecutionContext, Executor, Job, JobEvent, JobStarted, TrialResult
from nas.training.checkpoints import Checkpoint, FileStore, trial_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

    from nas.training.epoch import EpochResult


@final
@dataclass(frozen=True, kw_only=True)
class Local(Executor):
    """Runs jobs sequentially in this process."""

    def run(self, jobs: Iterable[Job], context: ExecutionContext) -> Iterator[tuple[Job, JobEvent]]:
        """Yields the events of each job in turn."""
        for job in jobs:
            yield job, JobStarted("local")
            checkpoint = Checkpoint(FileStore(trial_file(context.folder, job.number)), context.checkpoint_seconds)
            yield from ((job, event) for event in run_job(job, context, checkpoint))


def run_job(job: Job, context: ExecutionContext, checkpoint: Checkpoint) -> Iterator[EpochResult | TrialResult]:
    """Runs a job in this process. Yields its epochs and its result."""
    started = time.monotonic()
    steps = context.evaluate(job, checkpoint)
    epochs: list[EpochResult] = []
    while True:
        left = None if context.time_limit is None else context.time_limit - (time.monotonic() - started)
        try:
            with time_limit(left, context.time_limit):
                epoch = next(steps)
        except StopIteration as stop:
            yield stop.value
            return
        except TimeLimitError as error:  # Raised between two epochs, or inside an epoch.
            yield TrialResult(reason=str(error), seconds=time.monotonic() - started, epochs=tuple(epochs))
            return
        epochs.append(epoch)
        stopped = epoch.rung and context.stop(job, epoch)
        yield epoch
        if stopped:
            steps.close()
            yield TrialResult(stopped=epoch.epoch, seconds=time.monotonic() - started, epochs=tuple(epochs))
            return


@contextmanager
def time_limit(left: float | None, limit: float | None) -> Iterator[None]:
    """Raises TimeLimitError inside the block when the time is over.

    Python code is interrupted anywhere, a call into torch only after it returns. Outside the main thread no signal arrives.
    There, a running block is not interrupted, but a block that starts too late raises the error.

    Args:
        left: Remaining seconds; None for no limit.
        limit: The limit in seconds, for the message; None for no limit.
    """
    message = limit_message(limit) if limit is not None else ""
    if left is None:
        yield
        return
    if left <= 0:
        raise TimeLimitError(message)
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeLimitError(message)

    started, before = time.monotonic(), signal.signal(signal.SIGALRM, ring)
    rest, interval = signal.setitimer(signal.ITIMER_REAL, left)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if rest > 0:  # Restore an alarm of the caller.
            signal.setitimer(signal.ITIMER_REAL, max(0.001, rest - (time.monotonic() - started)), interval)


def limit_message(limit: float) -> str:
    """Returns the reason of a job that exceeded a time limit in seconds."""
    return f"took longer than search.time_limit, {limit:g} s"
