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
        clean_error: Clean error on the validation split, in [0, 1]. None if the epoch is no rung and too early for its
            weights to be kept.
        adversarial_error: Error on the validation split under the selection attack, in [0, 1]. None if clean_error is None.
        seconds: Wall time, in seconds.
        rung: Whether early stopping may stop the trial at this epoch. If so, and if the epoch is too early for its weights
            to be kept, the errors are those of averaged weights under the attack budget of the rung.
    """

    epoch: int
    epochs: int
    loss: float
    clean_error: float | None
    adversarial_error: float | None
    seconds: float
    rung: bool = False
