"""Interface of executors, which pull jobs and yield their events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import contextmanager
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
    """One architecture to evaluate, as plain data.

    Attributes:
        number: Number of the trial.
        architecture: The canonical architecture.
        proposed: The architecture that the sampler proposed. It computes the same function as the canonical one.
        seed: Seed of the weights, batches and attacks.
    """

    number: int
    architecture: Architecture
    proposed: Architecture
    seed: int


@final
@dataclass(frozen=True)
class JobStarted:
    """Event: a job has started.

    Attributes:
        worker: Name of the worker.
    """

    worker: str


@final
@dataclass(frozen=True)
class Precheck:
    """Event: properties of a candidate that need no training.

    Attributes:
        metrics: Numbers of parameters and of multiply-accumulates (macs), by name.
        constant: Whether the logits do not depend on the image.
        response: Sum of the squared logits of the untrained network for a few training images; None if there is no network.
            It shows whether a changed search space still builds the same network.
    """

    metrics: Mapping[str, float]
    constant: bool
    response: float | None = None


@final
@dataclass(frozen=True)
class TrialResult:
    """Result of a job: metrics, or the reason why there are none.

    Attributes:
        metrics: Metrics of the trained network, by name; empty if the job failed or was stopped.
        reason: Reason of a failure; None otherwise.
        infeasible: Reason why a constraint excludes the candidate before its training; None otherwise.
        stopped: Epoch at which early stopping ended the job; None otherwise.
        seconds: Wall time, in seconds.
        epochs: Results of the epochs.
        radii: Summary of the validation radii, by name.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    infeasible: str | None = None
    stopped: int | None = None
    seconds: float = 0.0
    epochs: tuple[EpochResult, ...] = ()
    radii: Mapping[str, Any] = field(default_factory=dict)


class Evaluate(Protocol):
    """Evaluates an architecture, epoch by epoch."""

    def __call__(self, job: Job, checkpoint: Checkpoint, /) -> Generator[Precheck | EpochResult, None, TrialResult]:
        """Yields the precheck and all epochs, including those before the checkpoint.

        Returns the result, also if the job fails.
        """


# Function that evaluates a job with an evaluator, completely (`all_steps`) or in part. The evaluator is the first argument.
Steps = Callable[[Any, Job, "Checkpoint"], "Generator[Precheck | EpochResult, None, TrialResult]"]


def all_steps(evaluate: Evaluate, job: Job, checkpoint: Checkpoint) -> Generator[Precheck | EpochResult, None, TrialResult]:
    """Evaluates a job from the precheck to the metrics."""
    return evaluate(job, checkpoint)


@final
@dataclass(frozen=True)
class ExecutionContext:
    """Functions and limits that apply to every job.

    Attributes:
        evaluate: Evaluates a job. It is called in the process of the worker.
        stop: Returns whether early stopping ends a job at a rung. It is called in the process of the search.
        folder: Folder of the run, for checkpoints and files of the executor.
        checkpoint_seconds: Minimum seconds between two checkpoints.
        time_limit: Maximum seconds of a job; None for no limit.
        attempts: Maximum number of restarts of a job whose worker died.
        threads: Number of CPU threads of a job; None to choose it from the image size.
        isolate: Run each job in a child process. Workers of Ray are processes anyway.
        steps: Function that evaluates a job with `evaluate`; by default completely, from the precheck to the metrics.
    """

    evaluate: Evaluate
    stop: Callable[[Job, EpochResult], bool]
    folder: Path
    checkpoint_seconds: float = 10.0
    time_limit: float | None = None
    attempts: int = 3
    threads: int | None = None
    isolate: bool = False
    steps: Steps = all_steps


JobEvent = JobStarted | Precheck | EpochResult | TrialResult


class Executor(ABC):
    """Runs jobs. A subclass is a frozen dataclass of settings."""

    @contextmanager
    def started(self) -> Iterator[None]:
        """Starts what the executor needs, such as a cluster, inside the block. A later `run` in the block begins sooner.

        Raises:
            RunError: the executor cannot be used.
        """
        yield

    @abstractmethod
    def run(self, jobs: Iterable[Job], context: ExecutionContext) -> Iterator[tuple[Job, JobEvent]]:
        """Yields the events of each job: its start, its precheck, every epoch, and its result.

        Implementations must pull a job only when it can start. Each pull calls the sampler, which should use all results so
        far. Closing the iterator ends the running jobs.

        Args:
            jobs: The jobs, as an iterable that may call the sampler.
            context: Functions and limits for all jobs.
        """
