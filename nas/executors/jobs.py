"""Runs one job in this process, with limits of time and output."""

from __future__ import annotations

import importlib
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nas.errors import LimitError
from nas.executors.base import ExecutionContext, Job, Precheck, TrialResult
from nas.executors.output import LimitedOutput
from nas.training.epoch import EpochResult

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from nas.training.checkpoints import Checkpoint

# Seconds after the time limit until a process is killed. The alarm of `time_limit` has no effect in a process that hangs
# outside of Python.
GRACE = 10.0
# Seconds between two alarms after the time limit.
REPEAT = 5.0


def run_job(job: Job, context: ExecutionContext, checkpoint: Checkpoint) -> Iterator[Precheck | EpochResult | TrialResult]:
    """Runs a job in this process. Yields its precheck, its epochs and its result."""
    import_late_modules()
    started = time.monotonic()
    steps, output = context.steps(context.evaluate, job, checkpoint), LimitedOutput()
    epochs: list[EpochResult] = []
    while True:
        left = None if context.time_limit is None else context.time_limit - (time.monotonic() - started)
        try:
            with time_limit(left, context.time_limit), output:
                event = next(steps)
        except StopIteration as stop:
            yield stop.value
            return
        except LimitError as error:  # Raised between two epochs, or inside an epoch.
            yield TrialResult(reason=str(error), seconds=time.monotonic() - started, epochs=tuple(epochs))
            return
        stopped = None
        if isinstance(event, EpochResult):
            epochs.append(event)
            stopped = event.epoch if event.rung and context.stop(job, event) else None
        yield event
        if stopped is not None:
            steps.close()
            yield TrialResult(stopped=stopped, seconds=time.monotonic() - started, epochs=tuple(epochs))
            return


def import_late_modules() -> None:
    """Imports what torch imports at its first use. This takes seconds, and an alarm in this time would break the import."""
    importlib.import_module("torch._dynamo")


@contextmanager
def time_limit(left: float | None, limit: float | None) -> Iterator[None]:
    """Raises LimitError inside the block when the time is over.

    Python code is interrupted anywhere. A call into torch is interrupted only after it returns. Outside the main thread no
    signal arrives. There, a running block is not interrupted, but a block that starts too late raises the error.

    Args:
        left: Remaining seconds; None for no limit.
        limit: The limit in seconds, for the message; None for no limit.
    """
    message = limit_message(limit) if limit is not None else ""
    if left is None:
        yield
        return
    if left <= 0:
        raise LimitError(message)
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise LimitError(message)

    started, before = time.monotonic(), signal.signal(signal.SIGALRM, ring)
    # The alarm repeats, because code that catches every error would also catch the error of a single alarm.
    rest, interval = signal.setitimer(signal.ITIMER_REAL, left, REPEAT)
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
