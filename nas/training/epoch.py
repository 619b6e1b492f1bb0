"""Result of one epoch of training, and what else is measured at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from nas.training.early_stopping import AttackBudget

if TYPE_CHECKING:
    from torch import nn

# Function that measures a network, and returns numbers by name.
MeasureNetwork = Callable[["nn.Module"], Mapping[str, float]]


@final
@dataclass(frozen=True)
class EpochResult:
    """Losses, errors and time of one epoch.

    Attributes:
        epoch: Number of the epoch, from 1.
        epochs: Total number of epochs.
        loss: Mean training loss; None if the epoch comes from a table.
        clean_error: Clean error on the validation split, in [0, 1]. None if the epoch is no rung and too early for its
            weights to be kept.
        adversarial_error: Error on the validation split under the selection attack, in [0, 1]. None if clean_error is None.
        seconds: Wall time, in seconds.
        rung: Whether early stopping may stop the trial at this epoch. If so, and if the epoch is too early for its weights
            to be kept, the errors are those of averaged weights under the attack budget of the rung.
        averaged: Whether the errors are those of averaged weights.
        collapsed: Whether training with one gradient step collapsed in this epoch, so that it was repeated with PGD.
        stages: Seconds in each stage of the epoch, by name: data, attack, gradient, update and judging.
        measured: Numbers of `EpochMeasures.function`, by name; empty without this function.
    """

    epoch: int
    epochs: int
    loss: float | None
    clean_error: float | None
    adversarial_error: float | None
    seconds: float
    rung: bool = False
    averaged: bool = False
    collapsed: bool = False
    stages: Mapping[str, float] = field(default_factory=dict, compare=False)
    measured: Mapping[str, float] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class EpochMeasures:
    """Measurements at the ends of epochs, besides those that choose the weights.

    Attributes:
        rungs: Attack budgets of early stopping, by epoch from 1. Before the share `selection_from` of the epochs, validation
            errors at these epochs are measured with averaged weights and this budget. Afterwards, the errors of every epoch
            are measured with the full budget.
        function: Function of the network after each epoch, for a learning curve; None for none. The network has averaged
            weights if `average` is set, and is in evaluation mode.
    """

    rungs: Mapping[int, AttackBudget] = field(default_factory=dict)
    function: MeasureNetwork | None = None
