"""Checkpoints of Ray's workers. An actor on the driver's node reads and writes them.

So no shared file system is needed, and a job whose worker died can resume on any node.
"""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.errors import RunError, format_error
from nas.executors.ray_tune.cluster import code_by_value
from nas.training.checkpoints import CheckpointError, FileStore, Store, trial_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nas.executors.base import ExecutionContext, Job
    from nas.training.epoch import EpochResult


@final
class RemoteStore(Store):
    """A checkpoint in the run's folder on the driver's node.

    Writes are asynchronous. An error of a write is raised by the next write.
    """

    def __init__(self, checkpoint_actor: Any, number: int) -> None:
        self._checkpoint_actor, self._number = checkpoint_actor, number
        self._written: Any = None

    def read(self) -> bytes | None:
        """Returns the last content; None if there is none."""
        with defer_alarm(), _ray_errors_as_checkpoint_errors():
            content: bytes | None = ray.get(self._checkpoint_actor.read.remote(self._number))
        return content

    def write(self, content: bytes) -> None:
        """Sends the checkpoint to the actor, without waiting for the write.

        Raises:
            CheckpointError: the previous write failed, or the actor has ended.
        """
        with defer_alarm(), _ray_errors_as_checkpoint_errors():
            reason = ray.get(self._written) if self._written is not None else None
            if reason is not None:
                raise CheckpointError(reason)
            self._written = self._checkpoint_actor.write.remote(self._number, content)


@contextlib.contextmanager
def _ray_errors_as_checkpoint_errors() -> Iterator[None]:
    """Converts errors of the checkpoint actor to CheckpointError, so that they do not count as failures of a candidate."""
    try:
        yield
    except ray.exceptions.RayError as error:
        raise CheckpointError(
            f"the checkpoint actor has ended ({type(error).__name__}); run `hardcell resume` to continue"
        ) from error


@contextlib.contextmanager
def defer_alarm() -> Iterator[None]:
    """Defers the alarm of a time limit to the end of the block.

    The alarm raises an exception, which would corrupt the return value of a call of Ray.
    """
    alarms: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: alarms.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
        if alarms:
            signal.raise_signal(signal.SIGALRM)


@final
class CheckpointActor:
    """Actor on the driver's node that reads and writes checkpoints and provides the ExecutionContext.

    The class is pickled by value, so that the actor does not import torch, which would dominate its start time.
    """

    def __init__(self, folder: str, context: list[Any]) -> None:
        self._folder, self._context = folder, context

    def context(self) -> Any:
        """Returns a reference to the ExecutionContext."""
        return self._context[0]

    def read(self, number: int) -> bytes | None:
        """Returns the checkpoint of a trial; None if there is none."""
        return self._store(number).read()

    def write(self, number: int, content: bytes) -> str | None:
        """Writes the checkpoint of a trial. Returns the message of an error, or None."""
        try:
            self._store(number).write(content)
        except CheckpointError as error:
            return str(error)
        return None

    def _store(self, number: int) -> FileStore:
        return FileStore(trial_file(Path(self._folder), number))


@final
class CheckpointService:
    """Starts and stops the checkpoint actor on the driver's node.

    Attributes:
        name: Name of the checkpoint actor.
    """

    def __init__(self, context: ExecutionContext) -> None:
        """Starts the checkpoint actor and puts the ExecutionContext into Ray's object store.

        Raises:
            RunError: the context cannot be pickled.
        """
        self.name = f"hardcell-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            with code_by_value():
                # `stop` reads the study, so it stays in the driver, and workers get a function that never stops.
                self._context = ray.put(replace(context, stop=_never_stop, folder=Path()))
        except Exception as error:
            raise RunError(f"the search cannot be sent to Ray's workers: {format_error(error)}") from error
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(CheckpointActor).options(name=self.name, num_cpus=0, scheduling_strategy=here)
        with code_by_value(__name__, FileStore.__module__):
            self._actor: Any = actor.remote(str(context.folder.resolve()), [self._context])

    def stop(self) -> None:
        """Ends the checkpoint actor."""
        with contextlib.suppress(Exception):  # The actor may have ended with Ray.
            ray.kill(self._actor)


def _never_stop(job: Job, epoch: EpochResult) -> bool:
    """Returns False. The driver decides about early stopping."""
    return False
