"""Plug-ins of Ray Tune: a searcher that pulls jobs, a scheduler that stops them, and callbacks."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import ray
from ray import tune
from ray.exceptions import RayActorError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import NoopStopper

from nas.errors import RunError, first_line
from nas.executors.base import Job, Precheck, TrialResult
from nas.executors.ray_tune.channel import (
    Channel,
    EpochReported,
    FatalError,
    JobChecked,
    JobFinished,
    JobRequest,
    WorkerDied,
    WorkerStarted,
)
from nas.executors.ray_tune.ray_internals import trial_actor, trial_error
from nas.executors.ray_tune.worker import EVENT, WorkerFailure
from nas.training.epoch import EpochResult

if TYPE_CHECKING:
    from nas.executors.ray_tune.cluster import Cluster

# Maximum length of the message about a dead worker, in characters.
MAX_MESSAGE = 400


@final
class PluginState:
    """Shared state of the plug-ins."""

    def __init__(self, channel: Channel, cluster: Cluster, checkpoint_actor: str) -> None:
        self.channel, self.cluster, self.checkpoint_actor = channel, cluster, checkpoint_actor
        # Tune's ids of the unfinished trials.
        self.given: set[str] = set()
        # Workers of the running trials, by Tune's id.
        self.running: dict[str, Any] = {}
        # Number of workers without a trial.
        self.idle = 0

    def kill(self) -> None:
        """Kills the workers of all running trials."""
        for worker in list(self.running.values()):
            kill_worker(worker)


def kill_worker(worker: Any) -> None:
    """Kills a worker if it is alive."""
    with contextlib.suppress(Exception):  # The worker may be dead, or Ray shut down.
        ray.kill(worker)


@final
class JobSearcher(Searcher):
    """Searcher that pulls a job when the cluster can start one."""

    def __init__(self, plugins: PluginState) -> None:
        super().__init__()
        self._plugins = plugins

    def suggest(self, trial_id: str) -> Any:
        """Returns a job as the config of a trial; None if no job can start now, FINISHED after the last job."""
        plugins = self._plugins
        if not plugins.cluster.has_room(given=len(plugins.given), running=len(plugins.running), idle=plugins.idle):
            return None
        job = plugins.channel.request(JobRequest())
        if job is False:
            return Searcher.FINISHED
        if not isinstance(job, Job):
            return None
        plugins.given.add(trial_id)
        plugins.idle = max(0, plugins.idle - 1)
        return {"checkpoint_actor": plugins.checkpoint_actor, "job": asdict(job)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Removes the trial from the state. If it ended without an error, its worker counts as idle."""
        self._plugins.given.discard(trial_id)
        if self._plugins.running.pop(trial_id, None) is not None and not error:
            self._plugins.idle += 1

    def save(self, checkpoint_path: str) -> None:
        """Writes an empty file, because the study holds the state of the search."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing."""


@final
class RungScheduler(FIFOScheduler):
    """Scheduler that requests the early-stopping decision at every epoch, and chooses the next trial to start."""

    def __init__(self, plugins: PluginState) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._plugins = plugins
        self._chosen: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Reports an epoch, and returns whether Tune stops the trial."""
        event = result.get(EVENT)
        if isinstance(event, EpochResult) and self._plugins.channel.request(
            EpochReported(trial.config["job"]["number"], event)
        ):
            return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Returns the next trial for which Tune has not requested a worker.

        A FIFO scheduler would return the first waiting trial again while its worker starts. Tune would cancel this start as
        soon as another worker is free, so short trials would all run on one worker.
        """
        trials: list[Trial] = tune_controller.get_trials()
        for trial in trials:
            if trial.status == Trial.PENDING and trial.trial_id not in self._chosen:
                self._chosen.add(trial.trial_id)
                return trial
        return None


@final
class EventCallback(tune.Callback):
    """Callback that sends the events of trials, and removes them from the results that Tune writes to files."""

    def __init__(self, plugins: PluginState) -> None:
        self._plugins = plugins

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Sends WorkerStarted."""
        worker = trial_actor(trial)
        self._plugins.running[trial.trial_id] = worker
        try:
            name = ray.get(worker.get_worker_name.remote(), timeout=10)
        except Exception:  # The worker has just died; Tune will report it.
            return
        self._plugins.channel.send(
            WorkerStarted(trial.config["job"]["number"], name, lambda: kill_worker(worker), time.monotonic())
        )

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Sends JobChecked, JobFinished or FatalError."""
        event = result.pop(EVENT, None)
        number = trial.config["job"]["number"]
        if isinstance(event, TrialResult):
            self._plugins.channel.send(JobFinished(number, event))
        elif isinstance(event, Precheck):
            self._plugins.channel.send(JobChecked(number, event))
        elif isinstance(event, WorkerFailure):
            self._plugins.channel.send(FatalError(number, event.error()))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Sends WorkerDied, or FatalError if the worker could not start."""
        number = trial.config["job"]["number"]
        died, message = death_message(trial)
        self._plugins.channel.send(
            WorkerDied(number, message) if died else FatalError(number, RunError(f"no worker can start: {message}"))
        )


@final
class CloseLogsCallback(tune.Callback):
    """Callback that closes the log files of trials that Tune did not end."""

    def __init__(self, loggers: list[Any]) -> None:
        self._loggers = loggers

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Closes the log files of all trials."""
        for logger in self._loggers:
            for trial in trials:
                logger.log_trial_end(trial)


@final
class StopWhenClosed(tune.Stopper):
    """Stopper that ends Tune when the channel is closed."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Returns whether to stop this trial."""
        return self._channel.closed

    def stop_all(self) -> bool:
        """Returns whether to stop all trials."""
        return self._channel.closed

    def __reduce__(self) -> tuple[type[tune.Stopper], tuple[()]]:
        """Pickles as a NoopStopper, because Tune pickles its state and the channel cannot be pickled."""
        return NoopStopper, ()


def death_message(trial: Trial) -> tuple[bool, str]:
    """Returns whether a trial ended because its worker died, and Ray's error message on one line."""
    try:
        error = trial_error(trial)
    except Exception:  # The error cannot be unpickled here.
        return False, "an error that cannot be shown"
    died = isinstance(error, RayActorError) and not error.actor_init_failed
    lines = [line.strip() for line in str(error).splitlines()]
    if died:  # Skip the first line, and indented lines, which hold ids of the actor.
        reasons = [line for line in str(error).splitlines()[1:] if line and not line.startswith("\t")]
        return True, " ".join(" ".join(reasons).split())[:MAX_MESSAGE] or first_line(error)
    return False, next((line for line in reversed(lines) if line), type(error).__name__)[:MAX_MESSAGE]
