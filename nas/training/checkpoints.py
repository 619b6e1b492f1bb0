"""Checkpoints of the training. A killed trial resumes from its last checkpoint."""

from __future__ import annotations

import io
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch

from nas.errors import RunError
from nas.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable

State = dict[str, Any]


class CheckpointError(RunError):
    """A checkpoint cannot be written. This error stops the run. It does not count as a failure of the candidate."""


class Store(ABC):
    """Storage of the checkpoint of one training."""

    @abstractmethod
    def read(self) -> bytes | None:
        """Returns the last content; None if there is none."""

    @abstractmethod
    def write(self, content: bytes) -> None:
        """Writes the content atomically."""


@final
@dataclass(frozen=True)
class FileStore(Store):
    """A checkpoint in a file.

    Attributes:
        path: The file.
    """

    path: Path

    def read(self) -> bytes | None:
        """Returns the content of the file; None if it is missing or unreadable."""
        try:
            return self.path.read_bytes()
        except OSError:
            return None

    def write(self, content: bytes) -> None:
        """Writes the file.

        Raises:
            CheckpointError: the disk is full, or the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, content)
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: {error.strerror or error}; finished work is kept; solve this, then run `hardcell resume`"
            ) from error


@final
@dataclass
class Checkpoint:
    """The checkpoint of one training.

    Attributes:
        store: Storage of the checkpoint; None to write none.
        seconds: Minimum seconds before the first write and between two writes.
    """

    store: Store | None = None
    seconds: float = 10.0
    _written: float = field(default_factory=time.monotonic)

    def load(self) -> State | None:
        """Returns the last saved state; None if it is missing or unreadable."""
        content = self.store.read() if self.store is not None else None
        if content is None:
            return None
        try:
            return dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
        except Exception:  # torch raises various errors for damaged files; the training restarts.
            return None

    def save(self, state: Callable[[], State]) -> None:
        """Writes the state if `seconds` have passed since the last write or, before the first, since the start.

        Raises:
            CheckpointError: the checkpoint cannot be written.
        """
        if self.store is None or time.monotonic() - self._written < self.seconds:
            return
        content = io.BytesIO()
        torch.save(state(), content)
        self.store.write(content.getvalue())
        self._written = time.monotonic()


def checkpoint_file(folder: Path, name: str) -> Path:
    """Returns the path of a checkpoint in a run's folder."""
    return folder / "checkpoints" / f"{name}.pt"


def trial_file(folder: Path, number: int) -> Path:
    """Returns the path of a trial's checkpoint in a run's folder."""
    return checkpoint_file(folder, f"trial-{number}")
