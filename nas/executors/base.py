"""What an executor is: it pulls jobs, and yields what becomes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, final

from search_spaces import Architecture

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator


@final
@dataclass(frozen=True)
class Job:
    """One architecture to train and score: plain data, fit to be sent anywhere.

    Attributes:
        number: Number of the trial.
        architecture: The canonical architecture.
        seed: Seed of the weights, batches and attacks.
    """

    number: int
    architecture: Architecture
    seed: int


@final
@dataclass(frozen=True)
class EpochResult:
    """One epoch of training.

    Attributes:
        epoch: Number of the epoch, from 1.
        epochs: Number of epochs in all.
        loss: Mean training loss.
        clean_error: On the validation split; None where the epoch is not a candidate to be kept.
        adversarial_error: Under the selection attack, likewise.
        seconds: Wall time.
    """

    epoch: int
    epochs: int
    loss: float
    clean_error: float | None
    adversarial_error: float | None
    seconds: float


@final
@dataclass(frozen=True)
class Outcome:
    """What became of a job: metrics, or the reason why there are none.

    Attributes:
        metrics: Metrics of the trained network, by name; empty where it failed.
        reason: Why it failed; None where it did not.
        seconds: Wall time.
        worker: Where it ran.
        epochs: One entry an epoch.
        radii: Summary of the validation radii: quantiles by name.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    seconds: float = 0.0
    worker: str = "local"
    epochs: tuple[EpochResult, ...] = ()
    radii: Mapping[str, Any] = field(default_factory=dict)


class Evaluate(Protocol):
    """Trains and scores an architecture, epoch by epoch."""

    def __call__(self, job: Job, /) -> Generator[EpochResult, None, Outcome]:
        """Yields the epochs and returns the outcome."""


class Executor(ABC):
    """Runs jobs somewhere. A subclass is a frozen dataclass of settings."""

    @abstractmethod
    def run(self, jobs: Iterable[Job], evaluate: Evaluate) -> Iterator[tuple[Job, EpochResult | Outcome]]:
        """Yields every epoch and, last, the outcome of every job.

        A job is pulled when there is room for it and not before: the iterable asks the sampler as it is pulled, so that a
        proposal knows of all that has been told.
        """
