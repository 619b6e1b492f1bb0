"""Ray executor: runs trials with Ray Tune on the cores of this machine or on a cluster.

Tune runs in the Tune thread (`thread`). Its plug-ins (`plugins`) place jobs on workers (`worker`) and reuse the workers. The
study thread is the thread that iterates `Ray.run`. Only this thread uses the study. It replies to the messages of the Tune
thread (`channel`) with the next job, and with the decisions of early stopping.

Ray is imported on first use, so the settings work without it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from nas.errors import RunError
from nas.executors.base import ExecutionContext, Executor, Job, JobEvent, JobStarted, TrialResult
from nas.executors.jobs import GRACE, limit_message
from nas.executors.ray_tune.channel import (
    Channel,
    EpochReported,
    FatalError,
    JobChecked,
    JobFinished,
    JobRequest,
    Reply,
    TuneFinished,
    WorkerDied,
    WorkerStarted,
)
from nas.executors.ray_tune.cluster import HEAD_CHECK_SECONDS
from nas.training.epoch import EpochResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from nas.executors.ray_tune.cluster import Cluster


@final
@dataclass(frozen=True, kw_only=True)
class Ray(Executor):
    """Runs jobs with Ray Tune.

    Attributes:
        address: Address of a running cluster: HOST:PORT, or auto for the cluster of this machine; null for the cores of this
            machine.
        workers: Maximum number of parallel trials; null for as many as fit on the nodes, including nodes added later.
        cpus: CPU cores per trial.
        gpus: GPUs per trial, which may be a fraction; 0 to train on the CPU.

    Raises:
        ValueError: a value is out of range, or address is a URL of Ray's client.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if not (math.isfinite(self.cpus) and self.cpus > 0):
            raise ValueError(f"cpus must be a finite number above 0, got {self.cpus:g}")
        if not (math.isfinite(self.gpus) and self.gpus >= 0):
            raise ValueError(f"gpus must be a finite number of at least 0, got {self.gpus:g}")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus must be a fraction of one GPU or a whole number, got {self.gpus:g}")
        if self.address is not None and "://" in self.address:
            raise ValueError(
                f"address must be HOST:PORT or auto, got {self.address!r}; Ray's client is not supported; "
                "start the search on a machine of the cluster, with address: auto"
            )

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """Connects to Ray inside the block. Without an address, processes on this machine may import torch meanwhile.

        Raises:
            RunError: Ray is not installed, or the cluster cannot be used.
        """
        with self._connected():
            yield

    def run(self, jobs: Iterable[Job], context: ExecutionContext) -> Iterator[tuple[Job, JobEvent]]:
        """Yields the events of the jobs as they happen. A restarted job yields another JobStarted.

        Raises:
            RunError: Ray is not installed, the cluster cannot be used, or jobs cannot run on its workers.
            CheckpointError: a checkpoint cannot be written.
        """
        # Ray is slow to import, and the settings do not need it.
        import ray

        from nas.executors.ray_tune.cluster import HeadMonitor
        from nas.executors.ray_tune.thread import TuneThread

        with self._connected() as cluster, TuneThread(cluster, context) as search:
            head = HeadMonitor(ray.get_runtime_context().gcs_address, context.folder)
            yield from Dispatcher(search.channel, context, head.check).serve(jobs)

    def _connected(self) -> AbstractContextManager[Cluster]:
        from nas.executors.ray_tune.cluster import connected

        return connected(self.address, workers=self.workers, cpus=self.cpus, gpus=self.gpus)


@final
@dataclass
class RunningJob:
    """A job that was given to Tune and has no result yet.

    Attributes:
        job: The job.
        started: Event of the last start; None if the job waits for a worker.
        deaths: Number of workers that have died with this job.
        epochs: The epochs that were yielded.
    """

    job: Job
    started: WorkerStarted | None = None
    deaths: int = 0
    epochs: list[EpochResult] = field(default_factory=list)

    def outcome(self, **what: Any) -> TrialResult:
        """Returns the result of a job whose worker returns none, such as a killed worker."""
        seconds = time.monotonic() - self.started.time if self.started is not None else 0.0
        return TrialResult(seconds=seconds, epochs=tuple(self.epochs), **what)


@final
class Dispatcher:
    """Replies to messages of the Tune thread and yields events, with exactly one result per job, in the study thread."""

    def __init__(self, channel: Channel, context: ExecutionContext, check_head: Callable[[], None] = lambda: None) -> None:
        """Stores the channel, the context, and a function that raises an error if the head node is lost."""
        self._channel, self._context, self._check_head = channel, context, check_head
        self._running: dict[int, RunningJob] = {}
        # Jobs to restart because their worker died.
        self._restarts: deque[Job] = deque()
        self._exhausted = False

    def serve(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, JobEvent]]:
        """Yields the events of the jobs until Tune has ended.

        Raises:
            RunError: Tune has ended too early, a job cannot run on a worker, or the head node is lost.
        """
        jobs = iter(jobs)
        while True:
            message = self._channel.receive(self._seconds_to_wait())
            self._check_head()
            yield from self._kill_overdue()
            match message:
                case JobRequest():
                    self._channel.reply(self._next_job(jobs))
                case TuneFinished(error):
                    if error is not None or self._running:
                        raise RunError(
                            f"Ray Tune ended before the search: {error or 'no reason given'}; finished trials are kept: "
                            f"`hardcell resume {self._context.folder}` continues"
                        )
                    return
                case WorkerStarted() | JobChecked() | EpochReported() | JobFinished() | WorkerDied() | FatalError() if (
                    message.number in self._running
                ):
                    yield from self._handle(self._running[message.number], message)
                case EpochReported():  # The job has a result already.
                    self._channel.reply(True)
                case _:
                    pass

    def _next_job(self, jobs: Iterator[Job]) -> Reply:
        """Returns a job to start; None to wait for the running jobs; False if all jobs are finished."""
        if self._restarts:
            return self._restarts.popleft()
        job = None if self._exhausted else next(jobs, None)
        if job is None:
            self._exhausted = True
            return None if self._running else False
        self._running[job.number] = RunningJob(job)
        return job

    def _handle(
        self,
        running: RunningJob,
        message: WorkerStarted | JobChecked | EpochReported | JobFinished | WorkerDied | FatalError,
    ) -> Iterator[tuple[Job, JobEvent]]:
        match message:
            case WorkerStarted():
                running.started = message
                yield running.job, JobStarted(message.worker)
            case JobChecked(known=known):
                yield running.job, known
            case EpochReported(result=epoch):
                yield from self._handle_epoch(running, epoch)
            case JobFinished(outcome=outcome):
                del self._running[running.job.number]
                yield running.job, outcome
            case FatalError(error=error):
                raise error
            case WorkerDied(message=death):
                running.deaths, running.started = running.deaths + 1, None
                if running.deaths <= self._context.attempts:
                    self._restarts.append(running.job)
                    return
                del self._running[running.job.number]
                reason = f"the worker died {running.deaths} times: killed, out of memory, or its node was lost ({death})"
                yield running.job, running.outcome(reason=reason)

    def _handle_epoch(self, running: RunningJob, epoch: EpochResult) -> Iterator[tuple[Job, JobEvent]]:
        """Yields an epoch, unless an earlier worker reported it before its death, and replies whether the job ends there."""
        if epoch.epoch <= len(running.epochs):
            self._channel.reply(False)
            return
        running.epochs.append(epoch)
        stopped = epoch.rung and self._context.stop(running.job, epoch)
        self._channel.reply(stopped)
        if stopped:
            del self._running[running.job.number]
        yield running.job, epoch
        if stopped:
            yield running.job, running.outcome(stopped=epoch.epoch)

    def _seconds_to_wait(self) -> float:
        """Returns the seconds until the next job is overdue, but at most HEAD_CHECK_SECONDS."""
        times = [running.started.time for running in self._running.values() if running.started is not None]
        if self._context.time_limit is None or not times:
            return HEAD_CHECK_SECONDS
        return max(0.0, min(HEAD_CHECK_SECONDS, min(times) + self._context.time_limit + GRACE - time.monotonic()))

    def _kill_overdue(self) -> Iterator[tuple[Job, JobEvent]]:
        """Kills workers whose jobs are overdue, and yields the results of these jobs."""
        limit = self._context.time_limit
        if limit is None:
            return
        for number, running in list(self._running.items()):
            if running.started is not None and time.monotonic() > running.started.time + limit + GRACE:
                del self._running[number]
                running.started.kill()
                yield running.job, running.outcome(reason=limit_message(limit))
