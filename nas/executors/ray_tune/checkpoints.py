"""Where the checkpoints of Ray's workers lie: with the driver, whose actor reads and writes them.

So no file system need be shared, and a job whose worker died goes on wherever it begins again.
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
    """A checkpoint that lies with the driver, in the run's folder.

    A write is not waited for; whether it succeeded is asked at the next one.
    """

    def __init__(self, checkpoint_actor: Any, number: int) -> None:
        self._checkpoint_actor, self._number = checkpoint_actor, number
        self._written: Any = None

    def read(self) -> bytes | None:
        """Returns what was written last; None where nothing was."""
        with defer_alarm(), _ray_errors_as_checkpoint_errors():
            content: bytes | None = ray.get(self._checkpoint_actor.read.remote(self._number))
        return content

    def write(self, content: bytes) -> None:
        """Sends the checkpoint off.

        Raises:
            CheckpointError: the one before could not be written.
        """
        with defer_alarm(), _ray_errors_as_checkpoint_errors():
            reason = ray.get(self._written) if self._written is not None else None
            if reason is not None:
                raise CheckpointError(reason)
            self._written = self._checkpoint_actor.write.remote(self._number, content)


@contextlib.contextmanager
def _ray_errors_as_checkpoint_errors() -> Iterator[None]:
    """Has the end of the checkpoint actor told as what it is: not the candidate's doing."""
    try:
        yield
    except ray.exceptions.RayError as error:
        raise CheckpointError(
            f"the process that keeps the checkpoints has ended ({type(error).__name__}); `hardcell resume` goes on"
        ) from error


@contextlib.contextmanager
def defer_alarm() -> Iterator[None]:
    """Puts a time limit's alarm off to the end: an exception raised inside of Ray's own code damages what Ray returns."""
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
    """An actor on the driver's machine that reads and writes checkpoints, and tells workers what to do with jobs.

    It travels by value, and so does not import torch: that would take longer than all else at the start.
    """

    def __init__(self, folder: str, context: list[Any]) -> None:
        self._folder, self._context = folder, context

    def context(self) -> Any:
        """Returns a reference to what is done with every job."""
        return self._context[0]

    def read(self, number: int) -> bytes | None:
        """Returns the checkpoint of a trial; None where there is none."""
        return self._store(number).read()

    def write(self, number: int, content: bytes) -> str | None:
        """Writes the checkpoint of a trial; returns why it cannot be written, None if it is."""
        try:
            self._store(number).write(content)
        except CheckpointError as error:
            return str(error)
        return None

    def _store(self, number: int) -> FileStore:
        return FileStore(trial_file(Path(self._folder), number))


@final
class CheckpointService:
    """A checkpoint actor that runs on the driver's node, and can be found there by its name.

    Attributes:
        name: The checkpoint actor's name.
    """

    def __init__(self, context: ExecutionContext) -> None:
        """Starts the checkpoint actor, and puts what is done with jobs where every node can fetch it once.

        Raises:
            RunError: it cannot be sent to other processes.
        """
        self.name = f"hardcell-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            with code_by_value():
                # The driver keeps what asks the study.
                self._context = ray.put(replace(context, stop=_never_stop, folder=Path()))
        except Exception as error:
            raise RunError(f"the search cannot be sent to Ray's workers: {format_error(error)}") from error
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(CheckpointActor).options(name=self.name, num_cpus=0, scheduling_strategy=here)
        with code_by_value(__name__, FileStore.__module__):
            self._actor: Any = actor.remote(str(context.folder.resolve()), [self._context])

    def stop(self) -> None:
        """Ends the checkpoint actor."""
        with contextlib.suppress(Exception):  # It may have ended with Ray.
            ray.kill(self._actor)


def _never_stop(job: Job, epoch: EpochResult) -> bool:
    """Stops no job: that is decided elsewhere."""
    return False
