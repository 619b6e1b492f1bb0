"""Trainable that runs on Ray's workers: jobs in sequence, in one process."""

from __future__ import annotations

import contextlib
import os
import platform
import traceback
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import ray
from ray import tune

from nas.data import Dataset
from nas.device import set_threads
from nas.errors import RunError, format_error
from nas.executors.base import Evaluate, ExecutionContext, Job, Precheck, TrialResult
from nas.executors.jobs import run_job
from nas.executors.ray_tune.checkpoints import RemoteStore
from nas.executors.ray_tune.ray_internals import unpickling_error
from nas.training.checkpoints import Checkpoint, CheckpointError
from nas.training.epoch import EpochResult

if TYPE_CHECKING:
    from collections.abc import Iterator

# Key of the event object in a Tune result. The other keys are for Tune: `done`, and numbers for its files.
EVENT = "event"


@final
@dataclass(frozen=True)
class WorkerFailure:
    """Event: this worker cannot run any job. This is not a result of the candidate.

    Attributes:
        message: Message for the user.
        checkpoint: Whether the cause is a failed write of a checkpoint.
    """

    message: str
    checkpoint: bool = False

    def error(self) -> RunError:
        """Returns the failure as an error of the run."""
        return CheckpointError(self.message) if self.checkpoint else RunError(self.message)


class Worker(tune.Trainable):
    """Runs jobs in sequence. One Tune step is one event of a job, such as an epoch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The driver sets this variable too, but a running cluster does not have the environment of the driver.
        os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
        super().__init__(*args, **kwargs)

    def setup(self, config: dict[str, Any]) -> None:
        """Fetches the ExecutionContext and starts the first job."""
        self._steps: Iterator[Precheck | EpochResult | TrialResult] | None = None
        try:
            self._checkpoint_actor = ray.get_actor(config["checkpoint_actor"])
            self._context = fetch_context(self._checkpoint_actor)
        except Exception as error:
            self._failure: WorkerFailure | None = worker_failure(error)
            return
        self._failure = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Starts another job."""
        self.cleanup()
        if self._failure is None:
            self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Returns the next event of the job as a result of Tune: its precheck, an epoch, its result or a failure."""
        event: Precheck | EpochResult | TrialResult | WorkerFailure | None = self._failure
        if self._steps is not None:
            try:
                event = next(self._steps)
            except Exception as error:
                event = worker_failure(error)
        return {EVENT: event, "done": not isinstance(event, Precheck | EpochResult), **_numbers(event)}

    def cleanup(self) -> None:
        """Ends the current job."""
        steps, self._steps = self._steps, None
        if steps is not None:
            with contextlib.suppress(Exception):  # Errors of a discarded job are ignored.
                steps.close()  # type: ignore[attr-defined]

    def get_worker_name(self) -> str:
        """Returns the name of the worker: host, node and process."""
        return worker_name()

    def _begin(self, config: dict[str, Any]) -> None:
        job = Job(**config["job"])
        checkpoint = Checkpoint(RemoteStore(self._checkpoint_actor, job.number), self._context.checkpoint_seconds)
        self._steps = run_job(job, self._context, checkpoint)


def worker_name() -> str:
    """Returns the name HOST/NODE:PID of this process. A machine may have several nodes."""
    return f"{platform.node()}/{ray.get_runtime_context().get_node_id()[:6]}:{os.getpid()}"


def fetch_context(checkpoint_actor: Any) -> ExecutionContext:
    """Returns the ExecutionContext, with the images on the device of this worker.

    On the CPU the images are not copied: all workers of a node share the memory.
    """
    context: ExecutionContext = ray.get(ray.get(checkpoint_actor.context.remote()))
    data = getattr(context.evaluate, "data", None)
    if not isinstance(data, Dataset) or not is_dataclass(context.evaluate):
        return context
    set_threads(context.threads, data.train.x[0, 0].numel())
    if not ray.get_gpu_ids():
        return context
    evaluate: Evaluate = replace(context.evaluate, data=data.to("cuda"))
    return replace(context, evaluate=evaluate)


def worker_failure(error: Exception) -> WorkerFailure:
    """Converts an error of this worker to a WorkerFailure."""
    if isinstance(error, CheckpointError):
        return WorkerFailure(str(error), checkpoint=True)
    error = unpickling_error(error) or error
    if isinstance(error, ModuleNotFoundError):
        return WorkerFailure(f"worker {worker_name()} has no module {error.name!r}; install it on every node of the cluster")
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return WorkerFailure(f"no job can run on worker {worker_name()}: {format_error(error)}{place}")


def _numbers(event: Precheck | EpochResult | TrialResult | WorkerFailure | None) -> dict[str, Any]:
    """Returns the numbers of an event, for Tune's files."""
    if isinstance(event, EpochResult):
        return {
            "epoch": event.epoch,
            "loss": event.loss,
            "clean_error": event.clean_error,
            "adversarial_error": event.adversarial_error,
        }
    return dict(event.metrics) if isinstance(event, Precheck | TrialResult) else {}
