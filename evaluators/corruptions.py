"""Error under common corruptions of images: noise, blur, brightness, contrast and JPEG, at five severities each.

The severities are those of CIFAR-10-C, for images of about 32 x 32 pixels. On much larger images the blur is weak. There
are two deviations from CIFAR-10-C: only JPEG rounds pixels to 256 levels, and only five of its nineteen corruptions are
used.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR
2019, arXiv:1903.12261; the severities from the authors' script make_cifar_c.py (github.com/hendrycks/robustness).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, final

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from evaluators.engine.input_checks import check_images, check_logits
from evaluators.engine.noise import ImageNoise
from evaluators.engine.prepared import prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


def _gaussian_noise(x: Tensor, deviation: float, noise: ImageNoise) -> Tensor:
    return x + deviation * noise.normal(x)


def _gaussian_blur(x: Tensor, sigma: float, noise: ImageNoise) -> Tensor:
    reach = int(4 * sigma + 0.5)
    bell = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-reach, reach + 1)]
    x = F.pad(x, (reach, reach, reach, reach), mode="replicate")
    for axis in (2, 3):
        size = x.shape[axis] - 2 * reach
        # A sum of shifted images, because on some GPUs convolutions round their inputs to ten bits (TF32).
        shifted = (weight / sum(bell) * x.narrow(axis, i, size) for i, weight in enumerate(bell))
        x = sum(shifted, start=x.new_zeros(()))
    return x


def _brightness(x: Tensor, rise: float, noise: ImageNoise) -> Tensor:
    # The V of HSV (the largest channel) rises. One factor for all channels keeps hue and saturation.
    value = x.amax(1, keepdim=True)
    raised = (value + rise).clamp(max=1)
    return torch.where(value > 0, x / torch.where(value > 0, value, 1) * raised, raised)


def _contrast(x: Tensor, factor: float, noise: ImageNoise) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return mean + factor * (x - mean)


def _jpeg(x: Tensor, quality: float, noise: ImageNoise) -> Tensor:
    # Pillow, a dependency of torchvision, encodes the images: torchvision's own JPEG encoder is about to be removed.
    levels = (x.float() * 255).round().to(torch.uint8).cpu().permute(0, 2, 3, 1).numpy()
    coded = np.empty_like(levels)
    for number, image in enumerate(levels):
        file = BytesIO()
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(file, "JPEG", quality=int(quality))
        coded[number] = np.asarray(Image.open(file)).reshape(image.shape)
    return torch.from_numpy(coded).permute(0, 3, 1, 2).to(x) / 255


# Each corruption's function of images (N, C, H, W), and its parameter at severities 1 to 5: standard deviation of the
# noise, standard deviation of the blur in pixels, rise of the V of HSV, factor of the contrast, JPEG quality in percent.
CORRUPTIONS: dict[str, tuple[Callable[[Tensor, float, ImageNoise], Tensor], tuple[float, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.1)),
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "jpeg": (_jpeg, (80, 65, 58, 50, 40)),
}


@final
@dataclass(frozen=True)
class CorruptionErrors:
    """Errors of one network under each corruption, each in [0, 1].

    Attributes:
        n: Number of images.
        clean: Error on the clean images.
        errors: Errors at severities 1 to 5, by the name of the corruption.
        mean: Mean over all corruptions and severities.
    """

    n: int
    clean: float
    errors: dict[str, list[float]]
    mean: float


def corrupt(x: Tensor, name: str, severity: int, *, seed: int = 0) -> Tensor:
    """Returns the corrupted images, (N, C, H, W), with the dtype of x and pixels in [0, 1].

    Args:
        x: Clean images of one or three channels, (N, C, H, W), pixels in [0, 1].
        name: One of `CORRUPTIONS`.
        severity: Severity from 1 to 5.
        seed: Seed of the noise. All severities use the same random numbers.

    Raises:
        TypeError: x is not a floating-point tensor.
        ValueError: x is out of range or is not (N, C, H, W) with one or three channels, or name or severity is unknown.
    """
    check_pictures(x)
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption must be one of {', '.join(CORRUPTIONS)}, got {name!r}")
    if not isinstance(severity, int) or not 1 <= severity <= 5:
        raise ValueError(f"severity must be a whole number from 1 to 5, got {severity!r}")
    return _corrupt(x, name, severity, ImageNoise.of(seed, torch.arange(len(x), device=x.device)))


def corruption_errors(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> CorruptionErrors:
    """Returns the error of a network under every corruption at every severity.

    Args:
        network: Maps images (N, C, H, W) with pixels in [0, 1] to logits (N, K). Its state is restored afterwards.
        x: Clean images of one or three channels, (N, C, H, W), pixels in [0, 1].
        y: True labels, (N,) int64.
        seed: Seed of the noise. Results do not depend on the batch size.
        batch_size: Images in one pass; estimated from the memory that one image needs if None.
        progress: Function called with the completed fraction, between 0 and 1.

    Raises:
        TypeError: network, x or y has the wrong type.
        ValueError: x, y or batch_size is out of range, x is not (N, C, H, W) with one or three channels, or the network's
            output is not (N, K) logits.
    """
    check_pictures(x)
    with prepare(network, x, y, batch_size) as prepared:
        images, done = torch.arange(len(x), device=x.device), 0

        def error(name: str, severity: int) -> float:
            nonlocal done

            def wrong(index: Tensor) -> int:
                with torch.no_grad():
                    logits = prepared.network(_corrupt(x[index], name, severity, ImageNoise.of(seed, index)))
                check_logits(logits, len(index))
                return int((logits.argmax(1) != y[index]).sum())

            errors = sum(count for _, count in prepared.batches.over(images, wrong)) / len(x)
            done += 1
            if progress is not None:
                progress(done / (5 * len(CORRUPTIONS)))
            return errors

        clean = 1 - float(prepared.right().double().mean())
        errors = {name: [error(name, severity) for severity in range(1, 6)] for name in CORRUPTIONS}
    mean = sum(sum(by_severity) for by_severity in errors.values()) / (5 * len(errors))
    return CorruptionErrors(n=len(x), clean=clean, errors=errors, mean=mean)


def _corrupt(x: Tensor, name: str, severity: int, noise: ImageNoise) -> Tensor:
    function, parameters = CORRUPTIONS[name]
    return function(x, parameters[severity - 1], noise).clamp(0, 1)


def check_pictures(x: Tensor) -> None:
    """Checks that x holds images (N, C, H, W) of one or three channels, with pixels in [0, 1].

    Raises:
        TypeError: x is not a floating-point tensor.
        ValueError: x is out of range or is not (N, C, H, W) with one or three channels.
    """
    check_images(x)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"x must have the shape (N, C, H, W) with one or three channels C, got shape {tuple(x.shape)}")
