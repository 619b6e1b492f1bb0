"""Ray's private interfaces. All uses of them in this project are in this file.

The list gives the use of each interface, and the reason why no public one is sufficient.

- `ray._private.worker._worker_logs_enabled`, in `worker_logs_disabled`: `ray.init(log_to_driver=False)` silences the output
  of workers, but not the cluster's messages about workers that died.
- `Node.start_api_server`, `Node.start_monitor` and `Node.start_log_monitor`, in `fewer_processes`: `ray.init` starts the
  processes of the dashboard, the autoscaler and the logs even if they are not needed, and waits for the dashboard process.
- `ray.init(_system_config)`, in `preloading`: nothing public imports modules in the processes that Ray starts in advance, or
  keeps these processes until the first trial.
- `_ActorClassCache.get`, in `use_started_processes`: Tune sets variables in the environment of its workers, so each trial
  would start a new process and import torch there; nothing public turns this off.
- `RayActorManager._actor_task_failed`, in `treat_memory_kills_as_deaths`: Tune treats `RayActorError` as the death of a
  worker and `RayTaskError` as an error of the trial. It ends at any other error, such as that of a worker killed for its
  memory; nothing public converts an error before Tune handles it.
- `Trial.temporary_state.ray_actor`, in `trial_actor`: callbacks receive the trial, but nothing public returns its actor.
- `Trial.pickled_error_file`, in `trial_error`: callbacks receive no exception, and `Result.error` exists only after Tune has
  ended.
- `RaySystemError.client_exc`, in `unpickling_error`: the public message is text, without the type of the original error.

Ray 2.50.0 and 2.60.0 have the same interfaces. Before a search connects to Ray, `require` checks all of them except
`_system_config` and the methods of `Node`. `tests/nas/executors/ray_tune/test_ray_internals.py` tests all of them except
`_system_config`, without starting Ray.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import cloudpickle
from ray.exceptions import RayActorError, RayError, RaySystemError, RayTaskError
from ray.tune.experiment import Trial

from nas.errors import RunError

REMEDY = "install a version that is known to work: pip install 'ray[tune]==2.60.0'"

try:
    from ray._private import node, worker
    from ray.air.execution._internal import actor_manager
    from ray.tune.execution import class_cache
except ImportError as error:
    raise RunError(f"search.executor: Ray {ray.__version__} has changed {error.name}; {REMEDY}") from error

if TYPE_CHECKING:
    from collections.abc import Iterator

PRELOADED_SECONDS = 120

UNUSED_PROCESSES = ("start_api_server", "start_monitor", "start_log_monitor")


def missing_interfaces() -> list[str]:
    """Returns the required private interfaces that are missing or have another signature in the installed Ray."""
    cache = getattr(class_cache, "_ActorClassCache", None)
    handler = getattr(getattr(actor_manager, "RayActorManager", None), "_actor_task_failed", None)
    try:
        state = Trial("hardcell", stub=True).temporary_state
    except (AttributeError, TypeError):
        state = None
    present = {
        "ray._private.worker._worker_logs_enabled": isinstance(getattr(worker, "_worker_logs_enabled", None), bool),
        "ray.air.execution._internal.actor_manager.RayActorManager._actor_task_failed(tracked_actor_task, exception)": (
            handler is not None and [*inspect.signature(handler).parameters] == ["self", "tracked_actor_task", "exception"]
        ),
        "ray.tune.execution.class_cache._ActorClassCache.get(trainable_cls)": (
            [*inspect.signature(getattr(cache, "get", len)).parameters] == ["self", "trainable_cls"]
        ),
        "ray.tune.experiment.Trial.temporary_state.ray_actor": hasattr(state, "ray_actor"),
        "ray.tune.experiment.Trial.pickled_error_file": isinstance(
            inspect.getattr_static(Trial, "pickled_error_file", None), property
        ),
        "ray.exceptions.RaySystemError.client_exc": hasattr(RaySystemError(ValueError()), "client_exc"),
    }
    return [name for name, is_present in present.items() if not is_present]


def require() -> None:
    """Checks that the installed Ray has the private interfaces without which the executor cannot run.

    Raises:
        RunError: an interface is missing.
    """
    missing = missing_interfaces()
    if missing:
        raise RunError(f"search.executor: Ray {ray.__version__} has changed {', '.join(missing)}; {REMEDY}")


@contextlib.contextmanager
def worker_logs_disabled() -> Iterator[None]:
    """Disables the output of workers, and messages of the cluster about workers, inside the block."""
    enabled = worker._worker_logs_enabled
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        worker._worker_logs_enabled = enabled


@contextlib.contextmanager
def fewer_processes() -> Iterator[None]:
    """Inside the block, `ray.init` does not start the processes of the dashboard, the autoscaler and the logs."""
    # If Ray lacks one of these methods, `ray.init` starts the process as usual.
    methods = {name: getattr(node.Node, name) for name in UNUSED_PROCESSES if hasattr(node.Node, name)}
    for name in methods:
        setattr(node.Node, name, lambda self, *args, **settings: None)
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(node.Node, name, method)


def preloading(*modules: str) -> dict[str, Any]:
    """Returns settings for `ray.init`: the processes that Ray starts in advance import the modules at once.

    These processes wait up to `PRELOADED_SECONDS` for their first trial. By default, Ray ends them when Tune reserves their
    cores, often before a trial uses them.
    """
    return {"preload_python_modules": [*modules], "idle_worker_killing_time_threshold_ms": 1000 * PRELOADED_SECONDS}


@contextlib.contextmanager
def use_started_processes() -> Iterator[None]:
    """Inside the block, workers of Tune are processes that Ray has started already, if there are any.

    The variables that Tune would set are unnecessary: `Worker` itself sets the only one that matters.
    """

    def get(self: Any, trainable_cls: type) -> Any:
        if trainable_cls not in self._cache:
            self._cache[trainable_cls] = ray.remote(trainable_cls)
        return self._cache[trainable_cls]

    original = class_cache._ActorClassCache.get
    class_cache._ActorClassCache.get = get  # type: ignore[method-assign]
    try:
        yield
    finally:
        class_cache._ActorClassCache.get = original  # type: ignore[method-assign]


def treat_memory_kills_as_deaths() -> None:
    """Patches Tune in this process: a worker killed by Ray's memory monitor counts as dead, not as an error."""
    manager: Any = actor_manager.RayActorManager
    handle_error = manager._actor_task_failed
    if getattr(handle_error, "treats_memory_kills_as_deaths", False):
        return

    @functools.wraps(handle_error)
    def _actor_task_failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=f"The worker died.\n{exception}")
        handle_error(self, tracked_actor_task, exception)

    _actor_task_failed.treats_memory_kills_as_deaths = True  # type: ignore[attr-defined]
    manager._actor_task_failed = _actor_task_failed


def trial_actor(trial: Trial) -> Any:
    """Returns the handle of a trial's actor."""
    return trial.temporary_state.ray_actor


def trial_error(trial: Trial) -> Exception:
    """Returns the exception of a failed trial, which Tune has stored in the trial's folder.

    Raises:
        Exception: of any type, if the file is missing or cannot be unpickled.
    """
    error: Exception = cloudpickle.loads(Path(trial.pickled_error_file or "").read_bytes())
    return error


def unpickling_error(error: Exception) -> Exception | None:
    """Returns the cause of an unpickling error of Ray; None for other errors."""
    cause = getattr(error, "client_exc", None)
    return cause if isinstance(cause, Exception) else None
