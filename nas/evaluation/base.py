"""What an evaluator is: it answers the trials of a search."""

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
    """What is known of a candidate before any training.

    Attributes:
        metrics: Its parameters and macs.
        constant: Its logits do not depend on the image.
    """

    metrics: dict[str, float]
    constant: bool


class Evaluator(ABC):
    """What answers the trials of a search. A subclass is a frozen dataclass, fit to be sent to other machines.

    Attributes:
        config: The run's settings.
        space: The search space.
    """

    config: Config
    space: SearchSpace

    @property
    @abstractmethod
    def hashes(self) -> dict[str, str]:
        """Hashes of what the answers depend on, by name: a run that goes on must find them unchanged."""

    @property
    @abstractmethod
    def source(self) -> str:
        """What answers the trials, in words."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the candidates are evaluated in this process."""

    @abstractmethod
    def precheck(self, job: Job) -> Precheck:
        """Returns what is known of a candidate before any training."""

    @abstractmethod
    def __call__(self, job: Job, checkpoint: Checkpoint) -> Generator[EpochResult, None, TrialResult]:
        """Yields the epochs of the training, if there are any, and returns the outcome."""
