"""Checkpoints: training written down on its way, so that a killed trial goes on instead of beginning anew."""

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
    """A checkpoint cannot be written. Not the candidate's fault, so no result of it."""


class Store(ABC):
    """Where the checkpoint of one training lies."""

    @abstractmethod
    def read(self) -> bytes | None:
        """Returns what was written last; None where nothing was."""

    @abstractmethod
    def write(self, content: bytes) -> None:
        """Writes, whole or not at all."""


@final
@dataclass(frozen=True)
class FileStore(Store):
    """A checkpoint in a file.

    Attributes:
        path: The file.
    """

    path: Path

    def read(self) -> bytes | None:
        """Returns what the file holds; None where there is none that can be read."""
        try:
            return self.path.read_bytes()
        except OSError:  # There is none, or none that can be read.
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
                f"{self.path}: {error.strerror or error}; what is written is kept: mend that, and `hardcell resume` goes on"
            ) from error


@final
@dataclass
class Checkpoint:
    """The checkpoint of one training.

    Attributes:
        store: Where it lies; None to keep none.
        seconds: It is written again when this long has passed since it was.
    """

    store: Store | None = None
    seconds: float = 10.0
    _written: float = field(default_factory=time.monotonic)

    def load(self) -> State | None:
        """Returns the state that was written down last; None where there is none that can be read."""
        content = self.store.read() if self.store is not None else None
        if content is None:
            return None
        try:
            return dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
        except Exception:  # What a damaged file raises depends on where the damage is; the training begins anew.
            return None

    def save(self, state: Callable[[], State]) -> None:
        """Writes the state down, if it is time for that.

        Raises:
            CheckpointError: it cannot be written.
        """
        if self.store is None or time.monotonic() - self._written < self.seconds:
            return
        content = io.BytesIO()
        torch.save(state(), content)
        self.store.write(content.getvalue())
        self._written = time.monotonic()


def checkpoint_file(folder: Path, name: str) -> Path:
    """Returns the file of a training's checkpoint in a run's folder."""
    return folder / "checkpoints" / f"{name}.pt"


def trial_file(folder: Path, number: int) -> Path:
    """Returns the file of a trial's checkpoint in a run's folder."""
    return checkpoint_file(folder, f"trial-{number}")
