"""Message channel between the Tune thread, which runs Ray Tune, and the study thread, which reads and writes the study."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from nas.errors import RunError
from nas.executors.base import Job, Precheck, TrialResult
from nas.training.epoch import EpochResult

# The reply to a JobRequest is a job, None for "not now", or False for "no more jobs". The reply to an EpochReported is
# whether the job ends.
Reply = Job | bool | None


@final
@dataclass(frozen=True)
class JobRequest:
    """Request: a job can start. The reply is a job, None or False."""


@final
@dataclass(frozen=True)
class WorkerStarted:
    """A job has started.

    Attributes:
        number: Number of the trial.
        worker: Name of the worker.
        kill: Function that kills the worker.
        time: Start time on the monotonic clock, in seconds.
    """

    number: int
    worker: str
    kill: Callable[[], None]
    time: float


@final
@dataclass(frozen=True)
class JobChecked:
    """The precheck of a job has ended."""

    number: int
    known: Precheck


@final
@dataclass(frozen=True)
class EpochReported:
    """Request: a job has finished an epoch. The reply is whether the job ends there."""

    number: int
    result: EpochResult


@final
@dataclass(frozen=True)
class JobFinished:
    """A job has returned its result."""

    number: int
    outcome: TrialResult


@final
@dataclass(frozen=True)
class WorkerDied:
    """The worker of a job has died.

    Attributes:
        number: Number of the trial.
        message: Ray's error message, on one line.
    """

    number: int
    message: str


@final
@dataclass(frozen=True)
class FatalError:
    """A job cannot run on a worker. This ends the search."""

    number: int
    error: RunError


@final
@dataclass(frozen=True)
class TuneFinished:
    """Tune has ended.

    Attributes:
        error: The error that ended Tune; None if there were no more jobs.
    """

    error: str | None


Message = JobRequest | WorkerStarted | JobChecked | EpochReported | JobFinished | WorkerDied | FatalError | TuneFinished


@final
class Channel:
    """Two queues: messages from the Tune thread, and replies of the study thread.

    The Tune thread sends one request at a time. After `close`, requests return False at once.
    """

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether the channel is closed."""
        return self._closed.is_set()

    def close(self) -> None:
        """Closes the channel and releases a waiting request."""
        self._closed.set()
        self._replies.put(False)

    def send(self, message: Message) -> None:
        """Sends a message without a reply. Call it in the Tune thread."""
        self._messages.put(message)

    def request(self, message: JobRequest | EpochReported) -> Reply:
        """Sends a request and returns the reply; False if the channel is closed. Call it in the Tune thread."""
        if self.closed:
            return False
        self._messages.put(message)
        return self._replies.get()

    def receive(self, timeout: float | None) -> Message | None:
        """Returns the next message; None after `timeout` seconds without one. Call it in the study thread."""
        try:
            return self._messages.get(timeout=timeout)
        except queue.Empty:
            return None

    def reply(self, answer: Reply) -> None:
        """Replies to the last request. Call it in the study thread."""
        self._replies.put(answer)
