"""Runs each job in a child process, so that a crash costs one trial and not the search.

The driver is the process of the search. It starts a server process, which imports torch once and holds the images. The
server forks a child for each job. It computes nothing itself, so that it has no threads and no CUDA context, which would not
survive a fork.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np
import torch

from nas.device import set_threads
from nas.errors import RunError, format_error
from nas.executors.base import Evaluate, ExecutionContext, Job, Precheck, TrialResult
from nas.executors.jobs import GRACE, import_late_modules, limit_message, run_job
from nas.executors.ray_tune.cluster import code_by_value
from nas.training.checkpoints import Checkpoint, CheckpointError, FileStore, trial_file
from nas.training.epoch import EpochResult

if TYPE_CHECKING:
    from collections.abc import Iterator

# Seconds between two checks by the server whether its child or the driver has ended.
POLL_SECONDS = 0.02
# `code_by_value` changes a table of modules that all threads share.
PICKLING = threading.Lock()


@final
@dataclass(frozen=True)
class StopRequest:
    """Message of a child: request for the decision of early stopping. The reply is whether the job ends."""

    epoch: EpochResult


@final
@dataclass(frozen=True)
class ChildEnded:
    """Message of the server: the child has ended, with its exit code, or minus the number of its signal."""

    code: int


@final
class ChildProcesses:
    """Context manager that runs jobs in sequence, each in a child process."""

    def __init__(self, evaluate: Evaluate) -> None:
        """Takes the evaluator of the jobs, which is sent to the server once."""
        self._evaluate = evaluate
        self._server: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any]
        self._ready = False  # Whether the server has the evaluator.

    def __enter__(self) -> Self:
        self._start()  # The server needs seconds to import torch. The caller may do other things meanwhile.
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, job: Job, context: ExecutionContext) -> Iterator[Precheck | EpochResult | TrialResult]:
        """Yields the events of a job, and its result. A child that dies gives a result with the reason.

        Args:
            job: The job.
            context: Functions and limits of the job. Its `evaluate` is ignored: the server has the evaluator already.

        Raises:
            CheckpointError: a checkpoint cannot be written.
            RunError: the search cannot be sent to another process.
        """
        if self._server is not None and self._server.poll() is not None:  # It was killed, such as for lack of memory.
            self._stop()
        if self._server is None:
            self._start()
        started, limit, ended = time.monotonic(), context.time_limit, False
        epochs: list[EpochResult] = []
        result: TrialResult | None = None
        code = child = None
        overdue = False
        try:
            if not self._ready:
                self._send_evaluate()
            self._connection.send((job, replace(context, evaluate=_no_evaluation, stop=_no_decision)))
            while code is None:
                left = None
                if limit is not None and not overdue and child is not None:  # Without a child, the server may be starting.
                    left = max(0.0, started + limit + GRACE - time.monotonic())
                if not self._connection.poll(left):
                    overdue = True  # The alarm in the child has no effect while it hangs outside of Python.
                    _kill(child)
                    continue
                match self._connection.recv():
                    case int(pid):
                        child, started = pid, time.monotonic()
                    case StopRequest(epoch):
                        self._connection.send(context.stop(job, epoch))
                    case TrialResult() as returned:
                        result = returned
                    case EpochResult() as epoch:
                        epochs.append(epoch)
                        yield epoch
                    case Precheck() as known:
                        yield known
                    case RunError() as error:
                        raise error
                    case ChildEnded(status):
                        code = status
            ended = True
        except (EOFError, OSError, pickle.UnpicklingError):  # The server has ended, for example for lack of memory.
            code = None
        finally:
            if not ended:
                self._stop()
        if result is None:
            reason = limit_message(limit) if overdue and limit is not None else end_of_process(code)
            result = TrialResult(reason=reason, seconds=time.monotonic() - started, epochs=tuple(epochs))
        yield result

    def kill(self) -> None:
        """Kills the running job from another thread than that of `run`, which then yields a result with the reason."""
        server = self._server
        if server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)

    def _start(self) -> None:
        self._ready = False
        mine, theirs = socket.socketpair()
        self._connection = Connection(mine.detach())
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from nas.executors.isolated import serve; serve({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches the driver only.
            )

    def _send_evaluate(self) -> None:
        try:
            with PICKLING, code_by_value():
                from ray import cloudpickle  # Standard pickle cannot send a search space.

                content = cloudpickle.dumps((self._evaluate, _device_of(self._evaluate)))
        except Exception as error:
            raise RunError(f"the search cannot be sent to a child process: {format_error(error)}") from error
        self._connection.send_bytes(content)
        self._ready = True

    def _stop(self) -> None:
        """Kills the server and its child, which are one group of processes."""
        if self._server is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._server.pid, signal.SIGKILL)
        self._connection.close()
        self._server.wait()
        self._server = None


def end_of_process(code: int | None) -> str:
    """Returns the reason of a trial whose process has ended.

    Args:
        code: Exit code, or minus the number of a signal; None if unknown.
    """
    if code is None:
        return "the process ended for an unknown reason"
    if code >= 0:
        return f"the process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    hint = "; it may have run out of memory" if -code == signal.SIGKILL else ""
    return f"the process ended with signal {name}{hint}"


def _kill(pid: int | None) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _device_of(evaluate: Any) -> str | None:
    """Returns the device of an evaluator's images; None if it has no images."""
    data = getattr(evaluate, "data", None)
    return None if data is None else str(data.train.x.device)


def _no_evaluation(job: Job, checkpoint: Checkpoint) -> Any:
    """Replaces the evaluator in a context, because the evaluator is sent separately."""
    raise AssertionError


def _no_decision(job: Job, epoch: EpochResult) -> bool:
    """Replaces the decision of early stopping, which only the driver can make."""
    raise AssertionError


def serve(handle: int) -> None:
    """Runs the server process: forks a child for each job until the driver closes the connection.

    Args:
        handle: File descriptor of the connection to the driver.
    """
    connection: Connection[Any, Any] = Connection(handle)
    torch.set_num_threads(1)  # No pool of threads: it would not survive the fork.
    import_late_modules()
    try:
        evaluate, device = pickle.loads(connection.recv_bytes())
        while True:
            job, context = connection.recv()
            child = os.fork()
            if child == 0:
                _run_child(connection, job, replace(context, evaluate=evaluate), device)
            connection.send(ChildEnded(_wait(child, connection)))
    except (EOFError, OSError):  # The driver has ended.
        return


def _wait(child: int, connection: Connection[Any, Any]) -> int:
    """Returns the exit code of the child, or minus the number of its signal. Kills the child if the driver has ended."""
    driver = select.poll()
    driver.register(connection.fileno(), 0)  # Reports only that the other end is closed.
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if driver.poll(1000 * POLL_SECONDS):
            os.kill(child, signal.SIGKILL)


def _run_child(connection: Connection[Any, Any], job: Job, context: ExecutionContext, device: str | None) -> None:
    """Runs one job in this process, sends its events, and ends the process."""
    try:
        connection.send(os.getpid())
        _discard_output_of_libraries()
        np.random.seed()  # Otherwise numpy would draw the same numbers in every child, for example in a custom space.
        evaluate: Any = context.evaluate
        if device is not None:
            set_threads(context.threads, evaluate.data.train.x[0, 0].numel())
            if device != "cpu":
                evaluate = replace(evaluate, data=evaluate.data.to(device))

        def stop(job: Job, epoch: EpochResult) -> bool:
            connection.send(StopRequest(epoch))
            return bool(connection.recv())

        checkpoint = Checkpoint(FileStore(trial_file(context.folder, job.number)), context.checkpoint_seconds)
        for event in run_job(job, replace(context, evaluate=evaluate, stop=stop), checkpoint):
            connection.send(event)
    except CheckpointError as error:
        connection.send(error)
    except BaseException as error:  # In this process, even a KeyboardInterrupt comes from the candidate.
        connection.send(TrialResult(reason=format_error(error)))
    finally:
        os._exit(0)


def _discard_output_of_libraries() -> None:
    """Sends output that bypasses Python to /dev/null. Python's own output is limited by `LimitedOutput`."""
    for stream, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, os.fdopen(os.dup(stream), "w", buffering=1))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream)
        os.close(null)
