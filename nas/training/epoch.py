"""Result of one epoch of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
        averaged: Whether the errors are those of averaged weights.
        collapsed: Whether training with one gradient step collapsed in this epoch, so that it was repeated with PGD.
        stages: Seconds in each stage of the epoch, by name: data, attack, gradient, update and judging.
        measured: Numbers of the caller's function `at_epoch` of `train`, by name; empty without such a function.
    """

    epoch: int
    epochs: int
    loss: float
    clean_error: float | None
    adversarial_error: float | None
    seconds: float
    rung: bool = False
    averaged: bool = False
    collapsed: bool = False
    stages: Mapping[str, float] = field(default_factory=dict, compare=False)
    measured: Mapping[str, float] = field(default_factory=dict)
