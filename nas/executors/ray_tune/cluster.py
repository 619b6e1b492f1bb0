"""A connection to Ray: this machine's cores or a running cluster, what there is room for on it, and code that travels."""

from __future__ import annotations

import contextlib
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
from typing import TYPE_CHECKING, final

from nas.errors import RunError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # What Ray means to do in time, and warns of until then.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Seconds after which the nodes are counted again.
NODE_CACHE_SECONDS = 1.0
# Seconds to wait for a connection to the machine at an address.
CONNECT_TIMEOUT = 10.0


@final
class Cluster:
    """What jobs run on, and how much of it there is.

    Attributes:
        job_resources: What one job takes.
    """

    def __init__(self, *, workers: int | None = None, cpus: float = 1.0, gpus: float = 0.0) -> None:
        self.job_resources: dict[str, float] = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
        self._workers = workers
        self._slots, self._counted_at = 0, -math.inf

    def has_room(self, *, given: int, running: int, idle: int) -> bool:
        """Returns whether one more job is to be given to Tune, beside those given to it, some of which run.

        A worker that has just become idle is to have a new job, though others wait: their own workers are starting, and Tune
        would break that off to give it one of them.

        One whose number of workers is set may wait for room: a cluster that grows by itself grows for what waits.
        """
        limit = max(1, self.slots()) if self._workers is None else min(self._workers, self.slots() + 1)
        if given >= limit:
            return False
        # Where jobs wait for a worker, though there seemed to be room, others may use the cluster, too.
        return given == running or idle > 0 or self._jobs_on(_available()) > 0

    def slots(self) -> int:
        """Returns how many jobs all nodes together hold."""
        import ray

        if time.monotonic() - self._counted_at > NODE_CACHE_SECONDS:
            self._slots = sum([self._jobs_on(node["Resources"]) for node in ray.nodes() if node["Alive"]])
            self._counted_at = time.monotonic()
        return self._slots

    def _jobs_on(self, resources: dict[str, float]) -> int:
        return min(int(resources.get(name, 0) / amount + 1e-9) for name, amount in self.job_resources.items())

    def check(self) -> None:
        """Refuses a cluster on which no job can ever run.

        Raises:
            RunError: no node is large enough.
        """
        if self.slots() > 0 or self._workers is not None:
            return
        wanted = " and ".join(f"{amount:g} {name}" for name, amount in self.job_resources.items())
        raise RunError(
            f"search.executor: no node of the cluster has {wanted}; lower cpus or gpus, "
            "or set workers if the cluster grows by itself"
        )


def _available() -> dict[str, float]:
    import ray

    resources: dict[str, float] = ray.available_resources()
    return resources


@contextlib.contextmanager
def connected(
    address: str | None = None, *, workers: int | None = None, cpus: float = 1.0, gpus: float = 0.0
) -> Iterator[Cluster]:
    """Connects to a cluster; a connection that this process has already is used, and stays open.

    Args:
        address: HOST:PORT of the cluster, auto, or None for this machine's cores.
        workers: Jobs at a time; None for as many as there is room for.
        cpus: CPU cores of a job.
        gpus: GPUs of a job, or a share of one.

    Raises:
        RunError: Ray is not installed, or the cluster cannot be used; the message says what to do.
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
                _connect(address, math.ceil((workers or 0) * cpus))
            cluster = Cluster(workers=workers, cpus=cpus, gpus=gpus)
            cluster.check()
            yield cluster
        finally:
            if connects:
                ray.shutdown()
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def ray_output_disabled() -> Iterator[None]:
    """Keeps Ray from printing: what matters of its words is in outcomes and errors."""
    from nas.executors.ray_tune.ray_internals import worker_logs_disabled

    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with worker_logs_disabled():
            yield
    finally:
        logger.setLevel(level)


def _connect(address: str | None, cores_needed: int) -> None:
    import ray

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    cores = None
    if address is None:
        cores = max(os.cpu_count() or 1, cores_needed)
    else:
        _check_answers(address)
    try:
        ray.init(
            address or "local",
            num_cpus=cores,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
    except Exception as error:
        raise RunError(connection_message(address, error)) from error


def _check_answers(address: str) -> None:
    """Refuses an address at which nothing listens: Ray itself would wait for minutes, and then end the process."""
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
        "or leave the address out to use this machine's cores"
    )


def connection_message(address: str | None, error: BaseException) -> str:
    """Returns what to do about a connection that failed."""
    import ray

    text = str(error)
    # Ray says no more than that it cannot connect, where something listens, and so has refused.
    refused = isinstance(error, ConnectionError) and address not in (None, "auto")
    # Ray 2.50 has no such error.
    if refused or isinstance(error, getattr(ray.exceptions, "AuthenticationError", ())) or "token" in text.lower():
        return (
            f"search.executor: the cluster at {address} refuses this process: every node and this one need the same token, "
            f"in RAY_AUTH_TOKEN or the file that RAY_AUTH_TOKEN_PATH names, and the same Ray ({first_line(error)})"
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
    """Lets code travel with what is pickled meanwhile: that of the user's own files, which no other node has, and more."""
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
    """Returns whether a module is from a file of the user's own: neither installed, nor of Python, nor of Hardcell."""
    name, file = getattr(module, "__name__", ""), getattr(module, "__file__", None)
    if name.startswith("hardcell_user_"):
        return True
    if name == "__main__" or name not in sys.modules or not isinstance(file, str) or not file.endswith(".py"):
        return False
    if name.partition(".")[0] in ("nas", "search_spaces", "evaluators"):
        return False
    paths = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    path = Path(file).resolve()
    installed = any(path.is_relative_to(Path(place).resolve()) for place in paths if Path(place).is_absolute())
    return not installed and not {"site-packages", "dist-packages"} & set(path.parts)
