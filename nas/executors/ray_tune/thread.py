"""Runs Ray Tune in a separate thread."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Self, final

from ray import tune
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback

from nas.errors import HeadLostError, format_error
from nas.executors.ray_tune.channel import Channel, TuneFinished
from nas.executors.ray_tune.checkpoints import CheckpointService
from nas.executors.ray_tune.plugins import (
    CloseLogsCallback,
    EventCallback,
    JobSearcher,
    PluginState,
    RungScheduler,
    StopWhenClosed,
)
from nas.executors.ray_tune.ray_internals import treat_memory_kills_as_deaths, use_started_processes
from nas.executors.ray_tune.worker import Worker

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from nas.executors.base import ExecutionContext
    from nas.executors.ray_tune.cluster import Cluster


# Maximum number of waiting trials in Tune. It is never reached, because JobSearcher limits the number of trials.
MAX_PENDING = 1_000_000


ENVIRONMENT = {
    "TUNE_MAX_PENDING_TRIALS_PG": str(MAX_PENDING),
    # Tune need not print errors of trials, because the plug-ins send them to the study thread.
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Interval of Tune's own checkpoints. They are not used, because runs resume from the study.
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    # The new output of Tune ignores verbose=0.
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


# Timeout of Tune's shutdown, in seconds.
SHUTDOWN_TIMEOUT = 15.0


@final
class TuneThread:
    """Context manager that runs Tune in a separate thread.

    Attributes:
        channel: Channel to the study thread, which iterates `Ray.run`.
    """

    def __init__(self, cluster: Cluster, context: ExecutionContext) -> None:
        self.channel = Channel()
        self._cluster, self._folder = cluster, context.folder
        self._checkpoint_service = CheckpointService(context)
        self._plugins = PluginState(self.channel, cluster, self._checkpoint_service.name)
        self._thread = threading.Thread(target=self._run, name="ray-tune", daemon=True)
        self._environment = {name: os.environ.get(name) for name in ENVIRONMENT}

    def __enter__(self) -> Self:
        os.environ.update(ENVIRONMENT)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Ends all running jobs and Tune. If the head node is lost, these are not ended."""
        self.channel.close()
        if kind is not HeadLostError:
            self._plugins.kill()
            self._thread.join(SHUTDOWN_TIMEOUT)
            self._checkpoint_service.stop()
        for name, value in self._environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    def _run(self) -> None:
        """Runs Tune until all jobs are finished or the channel is closed."""
        error = None
        # The default loggers of Tune, passed here so that CloseLogsCallback can close their files if Tune ends early.
        loggers = [JsonLoggerCallback(), CSVLoggerCallback()]
        treat_memory_kills_as_deaths()
        try:
            with use_started_processes():
                tune.run(
                    Worker,
                    name=time.strftime(f"%Y-%m-%d_%H-%M-%S_{os.getpid()}"),
                    storage_path=str((self._folder / "ray").resolve()),
                    resources_per_trial=tune.PlacementGroupFactory([self._cluster.job_resources]),
                    num_samples=-1,
                    search_alg=JobSearcher(self._plugins),
                    scheduler=RungScheduler(self._plugins),
                    callbacks=[EventCallback(self._plugins), *loggers, CloseLogsCallback(loggers)],
                    stop=StopWhenClosed(self.channel),
                    reuse_actors=True,
                    # The Dispatcher restarts jobs whose worker died.
                    max_failures=0,
                    raise_on_failed_trial=False,
                    trial_name_creator=_name,
                    trial_dirname_creator=_name,
                    verbose=0,
                )
        except BaseException as raised:  # Any error of Tune ends the search, in the study thread.
            error = format_error(raised)
        self.channel.send(TuneFinished(error))


def _name(trial: Trial) -> str:
    return f"trial-{trial.config['job']['number']}"
