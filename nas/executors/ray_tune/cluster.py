"""Connection to Ray on this machine or on a cluster, free capacity, and pickling of user code."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import signal
import site
import socket
import sys
import sysconfig
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from nas.errors import HeadLostError, RunError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # This will be Ray's default. Setting it already avoids a warning.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Seconds for which the number of slots (jobs that fit on all nodes together) is cached.
NODE_CACHE_SECONDS = 1.0
# Timeout of a connection to an address, in seconds.
CONNECT_TIMEOUT = 10.0
# If Ray starts more processes than this, none of them imports modules before the first trial.
MOST_PRELOADED = 16
# Seconds between two checks of the head node, and seconds without an answer after which it is lost. After 60 seconds Ray
# ends this process, without a message.
HEAD_CHECK_SECONDS, HEAD_LOST_SECONDS = 5.0, 20.0


@final
class HeadMonitor:
    """Checks that the head node of the cluster answers.

    Attributes:
        lost: Whether the head node of the last cluster of this process is lost.
    """

    lost: ClassVar[bool] = False

    def __init__(self, address: str, folder: Path) -> None:
        """Stores the address HOST:PORT of the head node, and the folder of the run for the message."""
        self._address, self._folder = address, folder
        self._checked = self._answered = time.monotonic()

    def check(self) -> None:
        """Connects to the head node, at most once in HEAD_CHECK_SECONDS.

        Raises:
            HeadLostError: the head node has not answered for HEAD_LOST_SECONDS.
        """
        if time.monotonic() - self._checked < HEAD_CHECK_SECONDS:
            return
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=HEAD_CHECK_SECONDS).close()
            self._answered = time.monotonic()
        except OSError as error:
            silent = time.monotonic() - self._answered
            if silent >= HEAD_LOST_SECONDS:
                HeadMonitor.lost = True
                raise HeadLostError(
                    f"search.executor: the head of the Ray cluster at {self._address} has not answered for {silent:.0f} s "
                    f"({first_line(error)}); finished trials are kept: `hardcell resume {self._folder}` continues, with "
                    "--address for another cluster or --executor local"
                ) from error
        self._checked = time.monotonic()


@final
class Cluster:
    """Resources of a Ray cluster.

    Attributes:
        job_resources: Resources of one job, by Ray's names.
    """

    def __init__(self, *, workers: int | None = None, cpus: float = 1.0, gpus: float = 0.0) -> None:
        self.job_resources: dict[str, float] = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
        self._workers = workers
        self._slots, self._counted_at = 0, -math.inf

    def has_room(self, *, given: int, running: int, idle: int) -> bool:
        """Returns whether to give Tune one more job.

        If a worker is idle, Tune gets a new job even while other jobs wait for their workers to start. Otherwise Tune would
        move a waiting job to the idle worker, and cancel the start of that job's own worker.

        If the number of workers is set, one job may wait for resources, because an autoscaling cluster grows only for
        waiting jobs.

        Args:
            given: Number of unfinished jobs that Tune has.
            running: Number of those jobs that run on a worker.
            idle: Number of workers without a job.
        """
        limit = max(1, self.slots()) if self._workers is None else min(self._workers, self.slots() + 1)
        if given >= limit:
            return False
        # Jobs that wait despite free slots indicate other users of the cluster: check the available resources.
        return given == running or idle > 0 or self._jobs_on(_available()) > 0

    def slots(self) -> int:
        """Returns the number of jobs that fit on all nodes together."""
        import ray

        if time.monotonic() - self._counted_at > NODE_CACHE_SECONDS:
            self._slots = sum([self._jobs_on(node["Resources"]) for node in ray.nodes() if node["Alive"]])
            self._counted_at = time.monotonic()
        return self._slots

    def _jobs_on(self, resources: dict[str, float]) -> int:
        return min(int(resources.get(name, 0) / amount + 1e-9) for name, amount in self.job_resources.items())

    def check(self) -> None:
        """Checks that some node can run a job.

        Raises:
            RunError: no node is large enough, and the number of workers is not set.
        """
        if self.slots() > 0 or self._workers is not None:
            return
        wanted = " and ".join(f"{amount:g} {name}" for name, amount in self.job_resources.items())
        raise RunError(
            f"search.executor: no node of the cluster has {wanted}; lower cpus or gpus, "
            "or set workers if the cluster scales automatically"
        )


def _available() -> dict[str, float]:
    import ray

    resources: dict[str, float] = ray.available_resources()
    return resources


@contextlib.contextmanager
def connected(
    address: str | None = None, *, workers: int | None = None, cpus: float = 1.0, gpus: float = 0.0
) -> Iterator[Cluster]:
    """Connects to Ray inside the block. An existing connection of this process is used and stays open.

    Args:
        address: HOST:PORT of the cluster, auto, or None for the cores of this machine.
        workers: Maximum number of parallel jobs; None for as many as fit.
        cpus: CPU cores of a job.
        gpus: GPUs of a job, which may be a fraction.

    Raises:
        RunError: Ray is not installed, or the cluster cannot be used.
    """
    try:
        import ray
        import ray.tune
    except ImportError as error:
        raise RunError(f"search.executor: Ray is not installed: pip install 'ray[tune]' ({first_line(error)})") from error
    from nas.executors.ray_tune import ray_internals

    ray_internals.require()
    connects = not ray.is_initialized()
    with ray_output_disabled():
        handler = signal.getsignal(signal.SIGTERM)
        try:
            if connects:
                HeadMonitor.lost = False
                _connect(address, workers=workers, cpus=cpus, gpus=gpus)
            cluster = Cluster(workers=workers, cpus=cpus, gpus=gpus)
            cluster.check()
            yield cluster
        finally:
            if connects and not HeadMonitor.lost:
                ray.shutdown()
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def ray_output_disabled() -> Iterator[None]:
    """Disables Ray's output inside the block. Ray's messages reach the user in results and errors."""
    from nas.executors.ray_tune.ray_internals import worker_logs_disabled

    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with worker_logs_disabled():
            yield
    finally:
        logger.setLevel(level)


def _connect(address: str | None, *, workers: int | None, cpus: float, gpus: float) -> None:
    import ray

    from nas.executors.ray_tune.ray_internals import fewer_processes, preloading

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    local: dict[str, Any] = {}
    if address is None:
        # Ray starts one process per core. With a given number of workers, one more core is for the checkpoint actor.
        local["num_cpus"] = math.ceil(workers * cpus) + 1 if workers is not None else os.cpu_count() or 1
        # If a job needs one core, each process can become a worker, and imports early what the trials need.
        # Too many imports would slow down the checks of the search, which run at the same time.
        if cpus == 1 and not gpus and local["num_cpus"] <= MOST_PRELOADED:
            local["_system_config"] = preloading("nas.executors.ray_tune.worker", "nas.evaluation.train_and_attack")
    else:
        _check_answers(address)
    try:
        with fewer_processes() if address is None else contextlib.nullcontext():
            ray.init(
                address or "local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                **local,
            )
    except Exception as error:
        raise RunError(connection_message(address, error)) from error


def _check_answers(address: str) -> None:
    """Raises RunError if nothing listens at an address: Ray would wait for minutes and then end the process."""
    if address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise RunError(f"search.executor.address must be HOST:PORT or auto, got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise RunError(f"{_no_cluster(address)} ({error})") from error


def _no_cluster(address: str | None) -> str:
    return (
        f"search.executor.address: no Ray cluster at {address}; start one with `ray start --head --port 6379`, "
        "or remove the address to use the cores of this machine"
    )


def connection_message(address: str | None, error: BaseException) -> str:
    """Returns the message for a failed connection, with a remedy."""
    import ray

    text = str(error)
    # `_check_answers` has found that something listens at the address, so a ConnectionError means that the cluster refuses.
    refused = isinstance(error, ConnectionError) and address not in (None, "auto")
    # Ray 2.50 has no AuthenticationError.
    if refused or isinstance(error, getattr(ray.exceptions, "AuthenticationError", ())) or "token" in text.lower():
        return (
            f"search.executor: the cluster at {address} refuses this process: all nodes need RAY_AUTH_MODE=token, the same "
            f"token in RAY_AUTH_TOKEN or the file RAY_AUTH_TOKEN_PATH, and the same Ray version ({first_line(error)})"
        )
    if "ersion mismatch" in text:
        return (
            f"search.executor: the cluster at {address} has another version of Ray or Python; they must be the same on "
            f"every node: {' '.join(text.split())}"
        )
    if isinstance(error, ConnectionError):
        return f"{_no_cluster(address)} ({first_line(error)})"
    return f"search.executor: Ray does not start: {type(error).__name__}: {first_line(error)}"


@contextlib.contextmanager
def code_by_value(*more: str) -> Iterator[None]:
    """Pickles user modules by value inside the block, because other nodes do not have their files.

    Args:
        more: Names of further modules to pickle by value.
    """
    from ray import cloudpickle

    modules = [module for module in list(sys.modules.values()) if is_user_module(module) or module.__name__ in more]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def is_user_module(module: ModuleType) -> bool:
    """Returns whether a module is a user file: not installed, and not part of Python or Hardcell."""
    name, file = getattr(module, "__name__", ""), getattr(module, "__file__", None)
    if name.startswith("hardcell_user_"):
        return True
    if name == "__main__" or name not in sys.modules or not isinstance(file, str) or not file.endswith(".py"):
        return False
    if name.partition(".")[0] in ("nas", "search_spaces", "evaluators"):
        return False
    path = Path(file).resolve()
    return not {"site-packages", "dist-packages"} & set(path.parts) and not _installed_folders() & set(path.parents)


@functools.cache
def _installed_folders() -> frozenset[Path]:
    """Returns the folders of Python and of installed packages. Finding them takes too long to repeat it for each module."""
    places = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    return frozenset(Path(place).resolve() for place in places if Path(place).is_absolute())
