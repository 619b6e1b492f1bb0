"""Message channel between the Tune thread and the thread of the study."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from nas.errors import RunError
from nas.executors.base import Job, TrialResult
from nas.training.epoch import EpochResult

# A job, None for "not now", False for "no more"; or whether a job is to end.
Reply = Job | bool | None


@final
@dataclass(frozen=True)
class JobRequest:
    """There is room for a job; answered by one."""


@final
@dataclass(frozen=True)
class WorkerStarted:
    """A job has begun.

    Attributes:
        number: Number of the trial.
        worker: Name of the worker.
        kill: Kills the worker.
        time: When, by the monotonic clock.
    """

    number: int
    worker: str
    kill: Callable[[], None]
    time: float


@final
@dataclass(frozen=True)
class EpochReported:
    """An epoch of a job is done; answered by whether the job ends with it."""

    number: int
    result: EpochResult


@final
@dataclass(frozen=True)
class JobFinished:
    """A job has ended by itself."""

    number: int
    outcome: TrialResult


@final
@dataclass(frozen=True)
class WorkerDied:
    """The worker of a job has died.

    Attributes:
        number: Number of the trial.
        message: What Ray says of it, on one line.
    """

    number: int
    message: str


@final
@dataclass(frozen=True)
class FatalError:
    """A job cannot run on a worker, and so no job can."""

    number: int
    error: RunError


@final
@dataclass(frozen=True)
class TuneFinished:
    """Tune has ended.

    Attributes:
        error: Why, where it was not for want of jobs.
    """

    error: str | None


Message = JobRequest | WorkerStarted | EpochReported | JobFinished | WorkerDied | FatalError | TuneFinished


@final
class Channel:
    """Two queues. Tune's thread asks one thing at a time; once the channel is closed, it waits for nothing any more."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether nobody listens any more."""
        return self._closed.is_set()

    def close(self) -> None:
        """Ends all asking."""
        self._closed.set()
        self._replies.put(False)

    def send(self, message: Message) -> None:
        """Says something that needs no answer. In Tune's thread."""
        self._messages.put(message)

    def request(self, message: JobRequest | EpochReported) -> Reply:
        """Returns the answer; False once the channel is closed. In Tune's thread."""
        if self.closed:
            return False
        self._messages.put(message)
        return self._replies.get()

    def receive(self, timeout: float | None) -> Message | None:
        """Returns what comes next; None if nothing comes for so many seconds. In the study's thread."""
        try:
            return self._messages.get(timeout=timeout)
        except queue.Empty:
            return None

    def reply(self, answer: Reply) -> None:
        """Answers what was asked last. In the study's thread."""
        self._replies.put(answer)
