"""The result of one epoch of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class EpochResult:
    """One epoch of training.

    Attributes:
        epoch: Number of the epoch, from 1.
        epochs: Number of epochs in all.
        loss: Mean training loss.
        clean_error: On the validation split; None where the epoch is neither a candidate to be kept nor a rung.
        adversarial_error: Under the selection attack, likewise.
        seconds: Wall time.
        rung: Whether early stopping judges the trial at this epoch, by these errors, measured with the rung's effort.
    """

    epoch: int
    epochs: int
    loss: float
    clean_error: float | None
    adversarial_error: float | None
    seconds: float
    rung: bool = False
