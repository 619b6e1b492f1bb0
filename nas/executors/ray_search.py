"""Ray Tune's side of the executor: a searcher that pulls jobs, a scheduler that stops them, and the thread that Tune has."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, final

import ray
from ray import cloudpickle, tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.experiment import Trial
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import NoopStopper

from nas.errors import RunError, first_line, told
from nas.executors.base import EpochResult, Job, Outcome
from nas.executors.ray_keeper import Kept
from nas.executors.ray_line import Began, Broken, Died, Ended, Epoch, Line, Over, Pull
from nas.executors.ray_worker import NEWS, Fault, Worker

if TYPE_CHECKING:
    from nas.executors.base import Work
    from nas.executors.ray_cluster import Cluster
    from nas.executors.ray_tune import Ray

# Tune asks the searcher until this many trials wait; ours says itself when there is room.
MOST_WAITING = 1_000_000
ENVIRONMENT = {
    "TUNE_MAX_PENDING_TRIALS_PG": str(MOST_WAITING),
    # A trial's error is in its outcome.
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # What Tune writes down of its own state, to go on from: nobody reads it, the study is what a run goes on from.
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    # Tune's newer output prints even where it is told not to.
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
# Seconds that Tune may take to end once it is asked to.
FAREWELL = 15.0
# Characters of what Ray says of a death.
MOST_WORDS = 400


@final
class Search:
    """Tune, running in a thread of its own while the search is open.

    Attributes:
        line: Where it asks and tells.
    """

    def __init__(self, settings: Ray, cluster: Cluster, work: Work) -> None:
        self.line = Line()
        self._settings, self._cluster, self._folder = settings, cluster, work.folder
        self._keeper = Kept(work)
        self._plugins = _Plugins(self.line, cluster, self._keeper.name)
        self._thread = threading.Thread(target=self._run, name="ray-tune", daemon=True)
        self._environment = {name: os.environ.get(name) for name in ENVIRONMENT}

    def __enter__(self) -> Self:
        os.environ.update(ENVIRONMENT)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends all jobs that are still in hand, and Tune."""
        self.line.close()
        self._plugins.kill()
        self._thread.join(FAREWELL)
        self._keeper.stop()
        for name, value in self._environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    def _run(self) -> None:
        """Runs Tune until there are no more jobs."""
        error = None
        # Tune would make these by itself; but it leaves their files open where it ends before its trials do.
        loggers = [JsonLoggerCallback(), CSVLoggerCallback()]
        _see_memory_kills_as_deaths()
        try:
            tune.run(
                Worker,
                name=time.strftime(f"%Y-%m-%d_%H-%M-%S_{os.getpid()}"),
                storage_path=str((self._folder / "ray").resolve()),
                resources_per_trial=tune.PlacementGroupFactory([self._cluster.bundle]),
                num_samples=-1,
                search_alg=_Puller(self._plugins),
                scheduler=_Stopper(self._plugins),
                callbacks=[_Teller(self._plugins), *loggers, _Closer(loggers)],
                stop=_Closed(self.line),
                reuse_actors=True,
                # A job whose worker died comes again from the searcher.
                max_failures=0,
                raise_on_failed_trial=False,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
                verbose=0,
            )
        except BaseException as raised:  # Whatever ends Tune ends the search, in the other thread.
            error = told(raised)
        self.line.tell(Over(error))


def _see_memory_kills_as_deaths() -> None:
    """Lets Tune take a worker that Ray's memory monitor killed for one that died.

    Tune 2.60 knows but one kind of a worker's death, and ends altogether at any other; there is no public way round this.
    Should Tune change inside, it stays as it is: then such a death ends the run, which can go on.
    """
    manager: Any = RayActorManager
    whole = getattr(manager, "_actor_task_failed", None)
    if whole is None or getattr(whole, "knows_memory", False):
        return

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=f"The worker died.\n{exception}")
        whole(self, tracked_actor_task, exception)

    failed.knows_memory = True  # type: ignore[attr-defined]
    manager._actor_task_failed = failed


def _name(trial: Trial) -> str:
    return f"trial-{trial.config['job']['number']}"


@final
class _Plugins:
    """What the plug-ins of one Tune share."""

    def __init__(self, line: Line, cluster: Cluster, keeper: str) -> None:
        self.line, self.cluster, self.keeper = line, cluster, keeper
        # Tune's trials: those that the searcher has given and that have not ended, and, of them, those that run, with their
        # workers; and how many workers have no trial.
        self.given: set[str] = set()
        self.running: dict[str, Any] = {}
        self.idle = 0

    def kill(self) -> None:
        """Kills the workers of all that runs."""
        for worker in list(self.running.values()):
            _kill(worker)


def _kill(worker: Any) -> None:
    with contextlib.suppress(Exception):  # It may have died by itself, and Ray may have been shut down.
        ray.kill(worker)


@final
class _Puller(Searcher):
    """Pulls a job when there is room for it."""

    def __init__(self, plugins: _Plugins) -> None:
        super().__init__()
        self._plugins = plugins

    def suggest(self, trial_id: str) -> Any:
        """Returns a job as a trial's config; None if there is no room, or no job now."""
        plugins = self._plugins
        if not plugins.cluster.has_room(given=len(plugins.given), running=len(plugins.running), idle=plugins.idle):
            return None
        job = plugins.line.ask(Pull())
        if job is False:
            return Searcher.FINISHED
        if not isinstance(job, Job):
            return None
        plugins.given.add(trial_id)
        plugins.idle = max(0, plugins.idle - 1)
        return {"keeper": plugins.keeper, "job": asdict(job)}

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
class _Stopper(FIFOScheduler):
    """Asks, at every epoch, whether the job ends there; and chooses the trial that a free worker takes."""

    def __init__(self, plugins: _Plugins) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._plugins = plugins
        self._chosen: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Passes an epoch on."""
        news = result.get(NEWS)
        if isinstance(news, EpochResult) and self._plugins.line.ask(Epoch(trial.config["job"]["number"], news)):
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
class _Teller(tune.Callback):
    """Tells what becomes of trials, and takes out of their results what is not for Tune's files."""

    def __init__(self, plugins: _Plugins) -> None:
        self._plugins = plugins

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tells that a job has begun."""
        worker: Any = trial.temporary_state.ray_actor
        self._plugins.running[trial.trial_id] = worker
        try:
            name = ray.get(worker.where.remote(), timeout=10)
        except Exception:  # It has just died: Tune is about to find out.
            return
        self._plugins.line.tell(Began(trial.config["job"]["number"], name, lambda: _kill(worker), time.monotonic()))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Passes an outcome on."""
        news = result.pop(NEWS, None)
        number = trial.config["job"]["number"]
        if isinstance(news, Outcome):
            self._plugins.line.tell(Ended(number, news))
        elif isinstance(news, Fault):
            self._plugins.line.tell(Broken(number, news.error()))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tells that a worker has died, or could not be started."""
        number = trial.config["job"]["number"]
        died, line = words(trial)
        self._plugins.line.tell(Died(number, line) if died else Broken(number, RunError(f"no worker can start: {line}")))


@final
class _Closer(tune.Callback):
    """Closes the files of trials that Tune did not end."""

    def __init__(self, loggers: list[Any]) -> None:
        self._loggers = loggers

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Closes them."""
        for logger in self._loggers:
            for trial in trials:
                logger.log_trial_end(trial)


@final
class _Closed(tune.Stopper):
    """Ends Tune when nobody listens any more."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Returns whether this trial is to end."""
        return self._line.closed

    def stop_all(self) -> bool:
        """Returns whether all trials are to end."""
        return self._line.closed

    def __reduce__(self) -> tuple[type[tune.Stopper], tuple[()]]:
        """Lets Tune write itself down without the line, which goes nowhere."""
        return NoopStopper, ()


def words(trial: Trial) -> tuple[bool, str]:
    """Returns whether a trial ended because its worker died, and what Ray says of it, on one line."""
    try:
        error = cloudpickle.loads(Path(trial.pickled_error_file or "").read_bytes())
    except Exception:  # An error that cannot be read here.
        return False, "an error that cannot be shown"
    died = isinstance(error, RayActorError) and not error.actor_init_failed
    lines = [line.strip() for line in str(error).splitlines()]
    if died:  # Between the first line, which says that an actor died, and the rest lie its numbers.
        told_of = [line for line in str(error).splitlines()[1:] if line and not line.startswith("\t")]
        return True, " ".join(" ".join(told_of).split())[:MOST_WORDS] or first_line(error)
    return False, next((line for line in reversed(lines) if line), type(error).__name__)[:MOST_WORDS]
