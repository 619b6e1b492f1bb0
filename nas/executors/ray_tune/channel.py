"""The line between Tune's thread and the study's: what the one asks and tells, and what the other answers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from nas.errors import RunError
from nas.executors.base import Job, Outcome
from nas.training.epoch import EpochResult

# A job, None for "not now", False for "no more"; or whether a job is to end.
Answer = Job | bool | None


@final
@dataclass(frozen=True)
class Pull:
    """There is room for a job; answered by one."""


@final
@dataclass(frozen=True)
class Began:
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
class Epoch:
    """An epoch of a job is done; answered by whether the job ends with it."""

    number: int
    result: EpochResult


@final
@dataclass(frozen=True)
class Ended:
    """A job has ended by itself."""

    number: int
    outcome: Outcome


@final
@dataclass(frozen=True)
class Died:
    """The worker of a job has died.

    Attributes:
        number: Number of the trial.
        words: What Ray says of it, on one line.
    """

    number: int
    words: str


@final
@dataclass(frozen=True)
class Broken:
    """A job cannot run on a worker, and so no job can."""

    number: int
    error: RunError


@final
@dataclass(frozen=True)
class Over:
    """Tune has ended.

    Attributes:
        error: Why, where it was not for want of jobs.
    """

    error: str | None


Message = Pull | Began | Epoch | Ended | Died | Broken | Over


@final
class Line:
    """Two queues. Tune's thread asks one thing at a time; once the line is closed, it waits for nothing any more."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether nobody listens any more."""
        return self._closed.is_set()

    def close(self) -> None:
        """Ends all asking."""
        self._closed.set()
        self._answers.put(False)

    def tell(self, message: Message) -> None:
        """Says something that needs no answer. In Tune's thread."""
        self._messages.put(message)

    def ask(self, message: Pull | Epoch) -> Answer:
        """Returns the answer; False once the line is closed. In Tune's thread."""
        if self.closed:
            return False
        self._messages.put(message)
        return self._answers.get()

    def hear(self, patience: float | None) -> Message | None:
        """Returns what comes next; None if nothing comes for so many seconds. In the study's thread."""
        try:
            return self._messages.get(timeout=patience)
        except queue.Empty:
            return None

    def answer(self, answer: Answer) -> None:
        """Answers what was asked last. In the study's thread."""
        self._answers.put(answer)
