"""Settings of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from evaluators.attacks import PGD, Attack, margin
from nas.training.optimiser import OptimiserName, ScheduleName
from nas.training.recipes import NFGSM, Recipe
from nas.validation import bounded, check_bounds, check_types, raise_if_invalid


@final
@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How every candidate is trained.

    Attributes:
        recipe: Training points and their loss: standard (clean images), adversarial (images of any attack), fast, n_fgsm,
            fgsm_pgi, free, pgd, trades, mart or mixture.
        epochs: Passes over the training images in a trial.
        batch_size: Number of images in one step. null for the largest power of two from 16 to 128 that gives at least 15
            steps in an epoch, and for 16 if none does.
        optimiser: sgd (with Nesterov momentum) or adamw. For transformers, adamw with a learning_rate near 0.002 is usual.
        schedule: Learning rate over the steps: one_cycle (rises and falls, and the momentum with it), cosine or linear.
        learning_rate: Largest learning rate of the schedule. null for 0.2 (sgd) or 0.02 (adamw), times the square root of
            batch_size / 64.
        weight_decay: L2 penalty on the weights for sgd; relative decay per unit of the learning rate for adamw.
        clip_gradients: Largest L2 norm of the gradient of all weights; longer gradients are shortened. null for no limit.
        weight_perturbation: Size of the adversarial weight perturbation, as a share of the length of each layer's weights; 0
            for none, and about 0.005 to 0.01 otherwise. It doubles the time of the gradients of the weights.
        shift: Largest random shift of the augmentation, in pixels.
        flip: Mirror half of the images left to right in one epoch and the other half in the next, as augmentation.
        cutout: Side of a square that is cut out of each image at a random place, in pixels; 0 for none.
        precision: float32, bfloat16 (autocast), or auto for the faster one. It is measured at the start of a search, on the
            machine that starts it, and stored in the run's config. In custom spaces it is not measured: there, auto is
            bfloat16 on GPUs that support it, and float32 elsewhere.
        selection: Attack that measures the adversarial error of an epoch on the validation split. The weights of the epoch
            with the smallest error are kept.
        selection_from: Share of the epochs, at the start, whose weights are never kept.
        average: Also measure the average of the weights over the recent steps in each epoch that may be kept. The weights
            with the smaller error count.
        on_collapse: What happens if a recipe of one gradient step suddenly loses its robustness to several steps. multi_step
            repeats the epoch with PGD and continues with it, fail ends the trial, and ignore turns the check off.

    Raises:
        ValueError: a value has the wrong type or is out of range.
    """

    recipe: Recipe = NFGSM()
    epochs: int = bounded(10, 1)
    batch_size: int | None = bounded(None, 2)
    optimiser: OptimiserName = "sgd"
    schedule: ScheduleName = "one_cycle"
    learning_rate: float | None = bounded(None, 1e-6, 100)
    weight_decay: float = bounded(5e-4, 0, 1)
    clip_gradients: float | None = bounded(None, 1e-6, 1e6)
    weight_perturbation: float = bounded(0.0, 0, 1)
    shift: int = bounded(0, 0, 64)
    flip: bool = False
    cutout: int = bounded(0, 0, 1024)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    selection: Attack = PGD(steps=5, step_size=0.4, loss=margin)
    selection_from: float = bounded(0.8, 0, 1)
    average: bool = True
    on_collapse: Literal["multi_step", "fail", "ignore"] = "multi_step"

    def __post_init__(self) -> None:
        faults = check_types(self) + check_bounds(self)
        for name, kind in (("recipe", Recipe), ("selection", Attack)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                got = f"the class {value.__name__}; write {value.__name__}()" if isinstance(value, type) else repr(value)
                faults.append((name, f"must be an instance of {kind.__name__}, got {got}"))
        raise_if_invalid(faults)
