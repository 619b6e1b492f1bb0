"""Directions for response surfaces: to an adversarial image (of any wrong class or of a target class), or random."""

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

# Number of the `ImageNoise` stream for random directions. The attacks here use stream 0, so their numbers differ.
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
    """Returns the adversarial perturbation (C, H, W) that an attack finds, or None if the attack fails.

    The perturbation leads to the last point of the attack. If that point is not adversarial, the attack runs again and stops
    at its first misclassified point. With a target class, a point is adversarial only if the network predicts that class.

    Args:
        network: Maps images (N, C, H, W) with pixels in [0, 1] to logits (N, K). Its state is restored afterwards.
        image: Clean image, (C, H, W), pixels in [0, 1].
        label: True label of the image.
        attack: Any attack.
        epsilon: Radius of the ball, in pixel units, in the attack's norm.
        towards: Target class; None for any wrong class. With a target class, the attack must have a targeted form.
        seed: Seed of the attack's random numbers.

    Raises:
        TypeError: image is not a floating-point tensor, network is not an nn.Module, or attack is not an attack.
        ValueError: image, label, towards or epsilon is out of range, the clean image is misclassified, or the attack has
            no targeted form.
    """
    check_attack(attack)
    check_image(image)
    x, y = image.detach()[None], torch.tensor([label], device=image.device)
    with prepare(network, x, y, attempts=1) as prepared:
        clean, classes = int(prepared.logits.argmax(1)), prepared.logits.shape[1]
    if clean != label:
        raise ValueError(
            f"the clean image must be classified correctly, got class {clean} for label {label}; choose another image"
        )
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
    """Returns the attack with its loss replaced by the loss's targeted form for the class `towards`.

    Raises:
        ValueError: the attack has no setting `loss`, its loss has no targeted form, it chooses the target class itself, or
            it is a minimum-norm attack.
    """
    loss = getattr(attack, "loss", None)
    if loss in TARGETED and dataclasses.is_dataclass(attack) and not isinstance(attack, MinimumNorm | StepLL | IterativeLL):
        return cast("Attack", dataclasses.replace(cast("Any", attack), loss=_Aimed(targeted(loss), towards)))
    rule = (
        "attack must have the loss cross_entropy, margin or dlr, and must not be a minimum-norm or least-likely-class "
        "attack, to target a class"
    )
    raise ValueError(f"{rule}, got {type(attack).__name__}; use an attack such as pgd")


@final
@dataclasses.dataclass(frozen=True)
class _Aimed:
    """A targeted loss with a fixed target class."""

    loss: Loss
    towards: int

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.loss(logits, y, torch.full_like(y, self.towards))


def random_direction(image: Tensor, length: float, *, seed: int = 0) -> Tensor:
    """Returns a perturbation (C, H, W) of a given L2 length in a random direction, with signs that suit the pixel range.

    The direction is drawn uniformly. Then the change of each pixel that would leave the pixel range is reversed, if the
    opposite change stays in the range. Many pixels of real images are 0 or 1, so almost all random directions would
    otherwise leave the range.

    Args:
        image: Clean image, (C, H, W), pixels in [0, 1].
        length: L2 length of the perturbation, in pixel units.
        seed: Seed of the direction.

    Raises:
        TypeError: image is not a floating-point tensor.
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
    """Checks that an image is a finite floating-point tensor (C, H, W) with pixels in [0, 1].

    Raises:
        TypeError: image is not a floating-point tensor.
        ValueError: image does not have the shape (C, H, W), is not finite or is out of range.
    """
    if isinstance(image, torch.Tensor) and image.ndim != 3:
        raise ValueError(f"image must be one image, (C, H, W), got shape {tuple(image.shape)}")
    check_images(image[None] if isinstance(image, torch.Tensor) else image)
