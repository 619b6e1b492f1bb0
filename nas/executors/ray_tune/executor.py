"""The Ray executor: trials under Ray Tune, on this machine's cores or on a cluster.

Tune runs in a thread (`thread`), where its plug-ins (`plugins`) place jobs on workers (`worker`) and reuse these. The thread
in which `Ray.run` is iterated gives it the next job and says whether early stopping ends one (`channel`): only that thread
touches the study. Ray is imported at first use, so the settings work without it.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from nas.errors import RunError
from nas.executors.base import ExecutionContext, Executor, Job, JobEvent, JobStarted, TrialResult
from nas.executors.local import limit_message
from nas.executors.ray_tune.channel import (
    Channel,
    EpochReported,
    FatalError,
    JobFinished,
    JobRequest,
    Reply,
    TuneFinished,
    WorkerDied,
    WorkerStarted,
)
from nas.training.epoch import EpochResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Seconds beyond the time limit until a worker is killed that does not end its job by itself: it hangs outside of Python.
GRACE = 10.0


@final
@dataclass(frozen=True, kw_only=True)
class Ray(Executor):
    """Runs jobs under Ray Tune.

    Attributes:
        address: Of a running cluster, HOST:PORT, or auto for the one that this machine belongs to; None for this machine's
            cores, with no set-up.
        workers: Trials at a time; None for as many as there is room for, more when nodes are added.
        cpus: CPU cores of a trial.
        gpus: GPUs of a trial, or a share of one; with any, trials run on it.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if not (math.isfinite(self.cpus) and self.cpus > 0):
            raise ValueError(f"cpus must be above 0, got {self.cpus:g}")
        if not (math.isfinite(self.gpus) and self.gpus >= 0):
            raise ValueError(f"gpus must be at least 0, got {self.gpus:g}")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus must be a share of one GPU or a whole number of them, got {self.gpus:g}")
        if self.address is not None and "://" in self.address:
            raise ValueError(
                f"address must be HOST:PORT or auto, got {self.address!r}; a search cannot run through Ray's client: "
                "start it on a machine of the cluster, with address: auto"
            )

    def run(self, jobs: Iterable[Job], context: ExecutionContext) -> Iterator[tuple[Job, JobEvent]]:
        """Yields what becomes of the jobs, as it happens; a job whose worker died begins again, and says so again.

        Raises:
            RunError: Ray is not installed, the cluster cannot be used, or jobs cannot run on its workers.
            CheckpointError: a checkpoint cannot be written.
        """
        # Ray is slow to import, and no part of what the settings need.
        from nas.executors.ray_tune.cluster import connected
        from nas.executors.ray_tune.thread import TuneThread

        cluster = connected(self.address, workers=self.workers, cpus=self.cpus, gpus=self.gpus)
        with cluster as opened, TuneThread(opened, context) as search:
            yield from Dispatcher(search.channel, context).serve(jobs)


@final
@dataclass
class RunningJob:
    """A job that Tune has and that has no outcome yet.

    Attributes:
        job: The job.
        started: When it started, on the worker that it is on.
        deaths: How many workers have died with it.
        epochs: The epochs that were passed on.
    """

    job: Job
    started: WorkerStarted | None = None
    deaths: int = 0
    epochs: list[EpochResult] = field(default_factory=list)

    def outcome(self, **what: Any) -> TrialResult:
        """Returns an outcome that the worker does not tell itself."""
        seconds = time.monotonic() - self.started.time if self.started is not None else 0.0
        return TrialResult(seconds=seconds, epochs=tuple(self.epochs), **what)


@final
class Dispatcher:
    """Answers what Tune's thread asks, in the thread of the study, and sees to it that each job has exactly one outcome."""

    def __init__(self, channel: Channel, context: ExecutionContext) -> None:
        self._channel, self._context = channel, context
        self._running: dict[int, RunningJob] = {}
        # Jobs whose worker died, to begin again.
        self._restarts: deque[Job] = deque()
        self._exhausted = False

    def serve(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, JobEvent]]:
        """Yields what becomes of the jobs."""
        jobs = iter(jobs)
        while True:
            message = self._channel.receive(self._seconds_to_deadline())
            yield from self._kill_overdue()
            match message:
                case JobRequest():
                    self._channel.reply(self._next_job(jobs))
                case TuneFinished(error):
                    if error is not None or self._running:
                        raise RunError(f"Ray Tune ended before the search: {error or 'no reason given'}")
                    return
                case WorkerStarted() | EpochReported() | JobFinished() | WorkerDied() | FatalError() if (
                    message.number in self._running
                ):
                    yield from self._handle(self._running[message.number], message)
                case EpochReported():  # Of a job that has its outcome already.
                    self._channel.reply(True)
                case _:
                    pass

    def _next_job(self, jobs: Iterator[Job]) -> Reply:
        """Returns a job for the room that there is; None to wait for the jobs that run; False if all is done."""
        if self._restarts:
            return self._restarts.popleft()
        job = None if self._exhausted else next(jobs, None)
        if job is None:
            self._exhausted = True
            return None if self._running else False
        self._running[job.number] = RunningJob(job)
        return job

    def _handle(
        self, running: RunningJob, message: WorkerStarted | EpochReported | JobFinished | WorkerDied | FatalError
    ) -> Iterator[tuple[Job, JobEvent]]:
        match message:
            case WorkerStarted():
                running.started = message
                yield running.job, JobStarted(message.worker)
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
        """Passes an epoch on, unless a worker that has died told of it before, and answers whether the job ends with it."""
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

    def _seconds_to_deadline(self) -> float | None:
        """Returns the seconds until the next job is overdue; None if none ever is."""
        times = [running.started.time for running in self._running.values() if running.started is not None]
        if self._context.time_limit is None or not times:
            return None
        return max(0.0, min(times) + self._context.time_limit + GRACE - time.monotonic())

    def _kill_overdue(self) -> Iterator[tuple[Job, JobEvent]]:
        """Kills the workers that should have ended their jobs long ago."""
        limit = self._context.time_limit
        if limit is None:
            return
        for number, running in list(self._running.items()):
            if running.started is not None and time.monotonic() > running.started.time + limit + GRACE:
                del self._running[number]
                running.started.kill()
                yield running.job, running.outcome(reason=limit_message(limit))
