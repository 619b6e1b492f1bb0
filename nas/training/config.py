"""Settings of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from evaluators.attacks import PGD, Attack, margin
from nas.training.recipes import Adversarial, Recipe
from nas.validation import bounded, check_bounds, raise_if_invalid


@final
@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How every candidate is trained: SGD with momentum under a one-cycle learning rate.

    Attributes:
        recipe: Training points and their loss: standard (clean images), adversarial (images of any attack), fast, n_fgsm,
            pgd, trades, mart or mixture.
        epochs: Passes over the training images in a trial.
        batch_size: Number of images in one step.
        learning_rate: Peak learning rate of the one-cycle schedule.
        weight_decay: L2 penalty on the weights.
        shift: Largest random shift of the augmentation, in pixels.
        flip: Mirror half of the images left to right as augmentation.
        precision: float32, bfloat16 (autocast), or auto for bfloat16 on GPUs that support it and float32 elsewhere.
        selection: Attack that measures the adversarial error of an epoch on the validation split. The weights of the epoch
            with the smallest error are kept.
        selection_from: Share of the epochs, at the start, whose weights are never kept.

    Raises:
        ValueError: a value is out of range.
    """

    recipe: Recipe = Adversarial()
    epochs: int = bounded(10, 1)
    batch_size: int = bounded(64, 2)
    learning_rate: float = bounded(0.2, 1e-6, 100)
    weight_decay: float = bounded(5e-4, 0, 1)
    shift: int = bounded(0, 0, 64)
    flip: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    selection: Attack = PGD(steps=5, step_size=0.4, loss=margin)
    selection_from: float = bounded(0.7, 0, 1)

    def __post_init__(self) -> None:
        raise_if_invalid(check_bounds(self))
