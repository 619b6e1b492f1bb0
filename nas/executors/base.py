"""What an executor is: it pulls jobs, and yields what becomes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, final

from nas.training.epoch import EpochResult
from search_spaces import Architecture

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from nas.training.checkpoints import Checkpoint


@final
@dataclass(frozen=True)
class Job:
    """One architecture to train and score: plain data, fit to be sent anywhere.

    Attributes:
        number: Number of the trial.
        architecture: The canonical architecture.
        proposed: The architecture as it was proposed: it computes the same.
        seed: Seed of the weights, batches and attacks.
    """

    number: int
    architecture: Architecture
    proposed: Architecture
    seed: int


@final
@dataclass(frozen=True)
class JobStarted:
    """A job has begun.

    Attributes:
        worker: Where it runs.
    """

    worker: str


@final
@dataclass(frozen=True)
class TrialResult:
    """What became of a job: metrics, or the reason why there are none.

    Attributes:
        metrics: Metrics of the trained network, by name; empty where it failed or was stopped.
        reason: Why it failed; None where it did not.
        stopped: The epoch after which early stopping ended it; None where that did not.
        seconds: Wall time.
        epochs: One entry an epoch.
        radii: Summary of the validation radii, by name.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    stopped: int | None = None
    seconds: float = 0.0
    epochs: tuple[EpochResult, ...] = ()
    radii: Mapping[str, Any] = field(default_factory=dict)


class Evaluate(Protocol):
    """Trains and scores an architecture, epoch by epoch."""

    def __call__(self, job: Job, checkpoint: Checkpoint, /) -> Generator[EpochResult, None, TrialResult]:
        """Yields the epochs, those before the checkpoint included, and returns the outcome; the job's own errors are one."""


@final
@dataclass(frozen=True)
class ExecutionContext:
    """What is done with every job.

    Attributes:
        evaluate: Trains and scores; goes to where the job runs.
        stop: Says, at a rung, whether early stopping ends a job there; stays with the caller.
        folder: The run's folder, where checkpoints and an executor's own files go.
        checkpoint_seconds: How often training is written down, at most.
        time_limit: Seconds that a job may take; None for no limit.
        attempts: How often a job is started again where its worker died.
        threads: CPU threads of a job; None for what suits the images.
    """

    evaluate: Evaluate
    stop: Callable[[Job, EpochResult], bool]
    folder: Path
    checkpoint_seconds: float = 10.0
    time_limit: float | None = None
    attempts: int = 3
    threads: int | None = None


JobEvent = JobStarted | EpochResult | TrialResult


class Executor(ABC):
    """Runs jobs somewhere. A subclass is a frozen dataclass of settings."""

    @abstractmethod
    def run(self, jobs: Iterable[Job], context: ExecutionContext) -> Iterator[tuple[Job, JobEvent]]:
        """Yields that a job has started, every epoch of it, and, last, its outcome.

        A job is pulled when there is room for it and not before: the iterable asks the sampler as it is pulled, so that a
        proposal knows of all that has been told. Closing the iterator ends the jobs in hand.
        """
