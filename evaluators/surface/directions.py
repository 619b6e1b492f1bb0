"""Directions in which to look at a network around an image: to an adversarial point, to one of a given class, at random."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, cast, final

import torch

from evaluators.attacks.base import Attack, MinimumNorm, check_attack
from evaluators.attacks.iterative_ll import IterativeLL
from evaluators.attacks.losses import TARGETED, Loss, targeted
from evaluators.attacks.step_ll import StepLL
from evaluators.engine.input_checks import check_images
from evaluators.engine.noise import ImageNoise
from evaluators.engine.prepared import prepare
from evaluators.norms import L2

if TYPE_CHECKING:
    from torch import Tensor, nn

# Apart from the streams of attacks, so that a random direction is not the random start of one.
_STREAM = 1


def adversarial_direction(
    network: nn.Module,
    image: Tensor,
    label: int,
    attack: Attack,
    epsilon: float,
    *,
    towards: int | None = None,
    seed: int = 0,
) -> Tensor | None:
    """Returns the perturbation (C, H, W) that an attack finds, or None where it fools the network nowhere.

    It is the last point that the attack reaches or, where that does not fool, the first that did on the way.

    Args:
        network: Maps images (N, C, H, W) with pixels in [0, 1] to logits (N, K); left as it was.
        image: Clean image, (C, H, W).
        label: Its true label.
        attack: Any attack.
        epsilon: Radius of the ball, in pixel units and the attack's norm.
        towards: The class as which the image is to be taken; None for any but its own. The attack is then `aimed` at it.
        seed: Seed of whatever the attack draws.

    Raises:
        TypeError: image is not a tensor of floating point, or attack is no attack.
        ValueError: image, label, towards or epsilon is out of range, the image is misclassified when clean, or the attack
            cannot be aimed.
    """
    check_attack(attack)
    check_image(image)
    x, y = image.detach()[None], torch.tensor([label], device=image.device)
    with prepare(network, x, y, attempts=1) as prepared:
        clean, classes = int(prepared.logits.argmax(1)), prepared.logits.shape[1]
    if clean != label:
        raise ValueError(f"the image must be classified rightly, got class {clean} for label {label}; take another one")
    if towards is not None:
        if not 0 <= towards < classes or towards == label:
            raise ValueError(f"towards must be a class from 0 to {classes - 1} other than the label {label}, got {towards}")
        attack = aimed(attack, towards)
    for early in (False, True):
        point = attack(network, x, y, epsilon, seed=seed, stop_when_fooled=early)
        with prepare(network, point, y, attempts=1) as prepared:
            prediction = int(prepared.logits.argmax(1))
        if prediction == towards if towards is not None else prediction != label:
            return (point - x)[0]
    return None


def aimed(attack: Attack, towards: int) -> Attack:
    """Returns an attack whose loss leads to the class `towards`: any whose only way to a loss is its setting `loss`.

    Raises:
        ValueError: it has no such setting, or a loss without a targeted form; it has a class of its own to lead to; or it
            ends at the nearest point of whatever wrong class.
    """
    loss = getattr(attack, "loss", None)
    if loss in TARGETED and dataclasses.is_dataclass(attack) and not isinstance(attack, MinimumNorm | StepLL | IterativeLL):
        return cast("Attack", dataclasses.replace(cast("Any", attack), loss=_Aimed(targeted(loss), towards)))
    having = "that walks up a loss of cross_entropy, margin or dlr, such as pgd"
    raise ValueError(f"attack must be one {having}, to be aimed at a class, got {type(attack).__name__}")


@final
@dataclasses.dataclass(frozen=True)
class _Aimed:
    """A targeted loss with its class."""

    loss: Loss
    towards: int

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.loss(logits, y, torch.full_like(y, self.towards))


def random_direction(image: Tensor, length: float, *, seed: int = 0) -> Tensor:
    """Returns a perturbation (C, H, W) of this L2 length in a random direction, turned towards the pixel range.

    The direction is drawn uniformly; then the signs of those changes are turned that would leave the pixel range one way and
    not the other: many pixels of real images are 0 or 1, and without this nearly all random directions would lead to no
    image at all.

    Args:
        image: Clean image, (C, H, W).
        length: In pixel units.
        seed: Another direction for each.

    Raises:
        TypeError: image is not a tensor of floating point.
        ValueError: image is out of range, or length is not positive or not finite.
    """
    check_image(image)
    if not 0 < length < math.inf:
        raise ValueError(f"length must be {'finite' if length > 0 else 'above 0'}, got {length:g}")
    x = image.detach()[None]
    noise = ImageNoise.of(seed, torch.zeros(1, dtype=torch.int64, device=x.device), stream=_STREAM)
    step = length * L2().ascent(noise.normal(x))
    there, back = x + step, x - step
    turned = ((there < 0) | (there > 1)) & (back >= 0) & (back <= 1)
    return torch.where(turned, -step, step)[0]


def check_image(image: Tensor) -> None:
    """Checks that an image is one, (C, H, W), floating point, finite, with pixels in [0, 1].

    Raises:
        TypeError: it is not a tensor of floating point.
        ValueError: it has another shape or range.
    """
    if isinstance(image, torch.Tensor) and image.ndim != 3:
        raise ValueError(f"image must be one image, (C, H, W), got shape {tuple(image.shape)}")
    check_images(image[None] if isinstance(image, torch.Tensor) else image)
