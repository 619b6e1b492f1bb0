"""Interface of evaluators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Generator

    import torch

    from nas.config.schema import Config
    from nas.executors.base import Job, TrialResult
    from nas.training.checkpoints import Checkpoint
    from nas.training.epoch import EpochResult
    from search_spaces import SearchSpace


@final
@dataclass(frozen=True)
class Precheck:
    """Properties of a candidate that need no training.

    Attributes:
        metrics: Number of parameters and macs, by name.
        constant: Whether the logits do not depend on the image.
    """

    metrics: dict[str, float]
    constant: bool


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
    def __call__(self, job: Job, checkpoint: Checkpoint) -> Generator[EpochResult, None, TrialResult]:
        """Yields the epochs of the training, if any, and returns the result of the trial."""
