"""Settings of the training."""

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
        recipe: The loss: standard or adversarial.
        epochs: Passes over the training images for a trial.
        batch_size: Images in one step.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: L2 penalty on the weights.
        shift: Augmentation: largest random shift, in pixels.
        flip: Augmentation: mirror half of the images, left to right.
        precision: float32, bfloat16 (autocast), or auto: bfloat16 on a GPU that has it, else float32.
        selection: Attack that judges the epochs on the validation split; the best epoch's weights are kept.
        selection_from: Share of the epochs before the first one that may be kept.
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
