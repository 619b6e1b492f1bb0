"""Result of one epoch of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class EpochResult:
    """Losses, errors and time of one epoch.

    Attributes:
        epoch: Number of the epoch, from 1.
        epochs: Total number of epochs.
        loss: Mean training loss.
        clean_error: Clean error on the validation split, in [0, 1]. None if the epoch is no rung and cannot be kept.
        adversarial_error: Error on the validation split under the selection attack, in [0, 1]; None like clean_error.
        seconds: Wall time, in seconds.
        rung: Whether early stopping may stop the trial at this epoch. The errors then use the attack budget of the rung.
    """

    epoch: int
    epochs: int
    loss: float
    clean_error: float | None
    adversarial_error: float | None
    seconds: float
    rung: bool = False
