"""Interface of evaluators."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, final

from evaluators.engine.batches import out_of_memory
from nas.config.metrics import CHEAP_METRICS
from nas.errors import LimitError, RecordError, UndefinedMetricError, first_line, format_error
from nas.executors.base import Precheck, TrialResult
from nas.training.checkpoints import CheckpointError
from nas.training.collapse import CollapsedError
from nas.training.epoch import EpochResult
from nas.training.train import DivergedError
from nas.training.updates import NoGradientError

if TYPE_CHECKING:
    from collections.abc import Generator

    import torch

    from nas.config.schema import Config
    from nas.executors.base import Job
    from nas.training.checkpoints import Checkpoint
    from search_spaces import SearchSpace


class Evaluator(ABC):
    """Computes the metrics of trials. A subclass is a frozen dataclass that can be pickled.

    Attributes:
        config: The settings of the run.
        space: The search space.
    """

    config: Config
    space: SearchSpace

    @property
    @abstractmethod
    def hashes(self) -> dict[str, str]:
        """Hashes of the data behind the metrics, by name. A resumed run checks that they are unchanged."""

    @property
    @abstractmethod
    def source(self) -> str:
        """Description of the data, for the display."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the evaluation in this process."""

    @abstractmethod
    def precheck(self, job: Job) -> Precheck:
        """Returns the properties of a candidate that need no training."""

    @abstractmethod
    def measure(self, job: Job, checkpoint: Checkpoint) -> Generator[EpochResult, None, TrialResult]:
        """Yields the epochs of the training, if any, and returns the metrics of the trial.

        Raises:
            Exception: any error of the candidate.
        """

    @final
    def __call__(self, job: Job, checkpoint: Checkpoint) -> Generator[Precheck | EpochResult, None, TrialResult]:
        """Yields the precheck and the epochs of a trial and returns its result.

        An error of the candidate is not raised. It becomes the result of the trial.

        Raises:
            CheckpointError: a checkpoint cannot be written.
            KeyboardInterrupt: the user has interrupted the search.
        """
        started, epochs = time.perf_counter(), list[EpochResult]()
        steps = self._steps(job, checkpoint)
        try:
            while True:
                try:
                    step = next(steps)
                except StopIteration as stop:
                    result: TrialResult = stop.value
                    break
                except (CheckpointError, KeyboardInterrupt):
                    raise
                except BaseException as error:  # Any error of a candidate is its result, and the search continues.
                    result = TrialResult(reason=reason_of(error))
                    break
                if isinstance(step, EpochResult):
                    epochs.append(step)
                yield step
        finally:
            steps.close()
        return replace(result, seconds=time.perf_counter() - started, epochs=tuple(epochs))

    def _steps(self, job: Job, checkpoint: Checkpoint) -> Generator[Precheck | EpochResult, None, TrialResult]:
        known = self.precheck(job)
        yield known
        faults = [
            f"{name} {known.metrics[name]:g} exceeds {bound:g}"
            for name, bound in self.config.objective.constraints.items()
            if name in CHEAP_METRICS and known.metrics[name] > bound
        ]
        if known.constant:
            faults.append("no path leads from the image to the logits")
        if faults:
            return TrialResult(infeasible="; ".join(faults))
        return (yield from self.measure(job, checkpoint))


def reason_of(error: BaseException) -> str:
    """Returns the reason of a failure, on one line."""
    if isinstance(error, SystemExit):
        return f"SystemExit: the candidate called sys.exit({'' if error.code is None else repr(error.code)[:80]})"
    if isinstance(error, MemoryError) or out_of_memory(error):
        return f"out of memory: {first_line(error)}"
    if isinstance(error, DivergedError | CollapsedError | NoGradientError | RecordError | UndefinedMetricError | LimitError):
        return first_line(error)
    return format_error(error)
