"""The plug-ins of Ray Tune: a searcher that pulls jobs, a scheduler that stops them, and callbacks."""

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
from nas.executors.base import Job, TrialResult
from nas.executors.ray_tune.channel import (
    Channel,
    EpochReported,
    FatalError,
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

# Characters of the message about a worker that died.
MAX_MESSAGE = 400


@final
class PluginState:
    """What the plug-ins of one Tune share."""

    def __init__(self, channel: Channel, cluster: Cluster, checkpoint_actor: str) -> None:
        self.channel, self.cluster, self.checkpoint_actor = channel, cluster, checkpoint_actor
        # Tune's trials: those that the searcher has given and that have not ended, and, of them, those that run, with their
        # workers; and how many workers have no trial.
        self.given: set[str] = set()
        self.running: dict[str, Any] = {}
        self.idle = 0

    def kill(self) -> None:
        """Kills the workers of all that runs."""
        for worker in list(self.running.values()):
            kill_worker(worker)


def kill_worker(worker: Any) -> None:
    """Kills a worker, if it still runs."""
    with contextlib.suppress(Exception):  # It may have died by itself, and Ray may have been shut down.
        ray.kill(worker)


@final
class JobSearcher(Searcher):
    """Pulls a job when there is room for it."""

    def __init__(self, plugins: PluginState) -> None:
        super().__init__()
        self._plugins = plugins

    def suggest(self, trial_id: str) -> Any:
        """Returns a job as a trial's config; None if there is no room, or no job now."""
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
        """Makes room."""
        self._plugins.given.discard(trial_id)
        if self._plugins.running.pop(trial_id, None) is not None and not error:
            self._plugins.idle += 1

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: the study holds all that there is to know."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing."""


@final
class RungScheduler(FIFOScheduler):
    """Asks, at every epoch, whether the job ends there; and chooses the trial that a free worker takes."""

    def __init__(self, plugins: PluginState) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._plugins = plugins
        self._chosen: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Passes an epoch on."""
        event = result.get(EVENT)
        if isinstance(event, EpochResult) and self._plugins.channel.request(
            EpochReported(trial.config["job"]["number"], event)
        ):
            return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Returns the next trial for which Tune has not yet asked for a worker.

        A FIFO scheduler would return the first that waits, though a worker starts for it already: that start would be
        broken off as soon as another worker is free, so that of short trials none ever gets a second worker.
        """
        trials: list[Trial] = tune_controller.get_trials()
        for trial in trials:
            if trial.status == Trial.PENDING and trial.trial_id not in self._chosen:
                self._chosen.add(trial.trial_id)
                return trial
        return None


@final
class EventCallback(tune.Callback):
    """Tells what becomes of trials, and takes out of their results what is not for Tune's files."""

    def __init__(self, plugins: PluginState) -> None:
        self._plugins = plugins

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tells that a job has begun."""
        worker = trial_actor(trial)
        self._plugins.running[trial.trial_id] = worker
        try:
            name = ray.get(worker.get_worker_name.remote(), timeout=10)
        except Exception:  # It has just died: Tune is about to find out.
            return
        self._plugins.channel.send(
            WorkerStarted(trial.config["job"]["number"], name, lambda: kill_worker(worker), time.monotonic())
        )

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Passes an outcome on."""
        event = result.pop(EVENT, None)
        number = trial.config["job"]["number"]
        if isinstance(event, TrialResult):
            self._plugins.channel.send(JobFinished(number, event))
        elif isinstance(event, WorkerFailure):
            self._plugins.channel.send(FatalError(number, event.error()))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tells that a worker has died, or could not be started."""
        number = trial.config["job"]["number"]
        died, message = death_message(trial)
        self._plugins.channel.send(
            WorkerDied(number, message) if died else FatalError(number, RunError(f"no worker can start: {message}"))
        )


@final
class CloseLogsCallback(tune.Callback):
    """Closes the files of trials that Tune did not end."""

    def __init__(self, loggers: list[Any]) -> None:
        self._loggers = loggers

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Closes them."""
        for logger in self._loggers:
            for trial in trials:
                logger.log_trial_end(trial)


@final
class StopWhenClosed(tune.Stopper):
    """Ends Tune when nobody listens any more."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Returns whether this trial is to end."""
        return self._channel.closed

    def stop_all(self) -> bool:
        """Returns whether all trials are to end."""
        return self._channel.closed

    def __reduce__(self) -> tuple[type[tune.Stopper], tuple[()]]:
        """Lets Tune write itself down without the channel, which goes nowhere."""
        return NoopStopper, ()


def death_message(trial: Trial) -> tuple[bool, str]:
    """Returns whether a trial ended because its worker died, and what Ray says of it, on one line."""
    try:
        error = trial_error(trial)
    except Exception:  # An error that cannot be read here.
        return False, "an error that cannot be shown"
    died = isinstance(error, RayActorError) and not error.actor_init_failed
    lines = [line.strip() for line in str(error).splitlines()]
    if died:  # Between the first line, which says that an actor died, and the rest lie its numbers.
        reasons = [line for line in str(error).splitlines()[1:] if line and not line.startswith("\t")]
        return True, " ".join(" ".join(reasons).split())[:MAX_MESSAGE] or first_line(error)
    return False, next((line for line in reversed(lines) if line), type(error).__name__)[:MAX_MESSAGE]
