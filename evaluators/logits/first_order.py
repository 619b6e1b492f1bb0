"""First-order prediction of the error curve from gradients at clean images, and the epsilon up to which it holds.

The predicted curve is `error_curve(margins(...).radii["linf"], epsilons)`. No attack is run. The prediction holds where the
network is linear within the ball and no pixel is clipped to [0, 1]. At larger epsilons the predicted and the measured curve
diverge.

Source: Cubuk et al., "Intriguing Properties of Adversarial Examples", arXiv:1711.02846, for the first-order argument.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from evaluators.attacks.gradient_oracle import GradientOracle
from evaluators.attacks.losses import Loss, cross_entropy
from evaluators.curves.error_curves import Floats, check_radii
from evaluators.engine.input_checks import check_epsilons, check_images
from evaluators.engine.prepared import prepare
from evaluators.logits.margin import margins
from evaluators.statistics.paired_tests import compare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from evaluators.norms import Norm


def first_order_error(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    epsilon: float,
    classes: int | None = 3,
    batch_size: int | None = None,
) -> float:
    """Returns the adversarial error at epsilon that the first-order radii predict, between 0 and 1.

    It is a cheap metric for a search: it costs one backward pass per image and wrong class, for any epsilon. It does not
    detect gradient masking. A network with zero gradients gets only its clean error.

    Args:
        network: Maps images (N, ...) with pixels in [0, 1] to logits (N, K); unchanged.
        x: Clean images with pixels in [0, 1], (N, ...).
        y: True labels, (N,) int64.
        norm: Shape of the ball.
        epsilon: Radius of the ball, in pixel units: 8/255, not 8.
        classes: Number of nearest wrong classes per image; None for all.
        batch_size: Images in one pass; None to choose it from the memory that one image needs.

    Raises:
        TypeError: x or y has the wrong type.
        ValueError: x, y, epsilon or classes is out of range, or the network's output is not (N, K) logits.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from evaluators import Linf, first_order_error
        >>> network = nn.Identity()  # The two pixels are the logits of two classes.
        >>> x, y = torch.tensor([[0.7, 0.5], [0.9, 0.1], [0.4, 0.5]]), torch.tensor([0, 0, 0])
        >>> round(first_order_error(network, x, y, Linf(), epsilon=0.2), 3)
        0.667
    """
    check_images(x)
    check_epsilons([epsilon], norm.largest(x[0].numel()))
    return float((margins(network, x, y, [norm], batch_size, classes=classes).radii[norm.name] <= epsilon).mean())


def gradient_norms(
    network: nn.Module, x: Tensor, y: Tensor, norm: Norm, loss: Loss = cross_entropy, batch_size: int | None = None
) -> Floats:
    """Returns the dual norm of the input gradient of the loss at each image, in units of loss per pixel unit, (N,).

    The gradient of cross-entropy vanishes where the logits are far apart. Attacks then fail although the network is not
    robust. `Margins.gradient_norms` grows with the logits instead. A comparison of the two shows this form of gradient
    masking.

    Args:
        network: Maps images (N, ...) with pixels in [0, 1] to logits (N, K); unchanged.
        x: Clean images with pixels in [0, 1], (N, ...).
        y: True labels, (N,) int64.
        norm: Norm of the perturbation; the gradient is measured in its dual norm.
        loss: Loss per image.
        batch_size: Images in one pass; None to choose it from the memory that one image needs.

    Raises:
        TypeError: x or y has the wrong type.
        ValueError: x or y is out of range, or the network's output is not (N, K) logits.
    """
    with prepare(network, x, y, batch_size) as prepared:

        def work(index: Tensor) -> Tensor:
            images = prepared.x[index]
            target = GradientOracle(
                prepared.network, images, prepared.y[index], norm, images.new_zeros(len(index)), keep="nothing"
            )
            return norm.dual(target.gradient(images, loss).double())

        norms_by_batch = [norms for _, norms in prepared.batches.over(torch.arange(len(x), device=x.device), work)]
    return torch.cat(norms_by_batch).cpu().numpy()


def first_order_breakdown(
    first_order: Floats, measured: Floats, epsilons: Sequence[float], *, level: float = 0.01
) -> float | None:
    """Returns the smallest epsilon at which the measured error differs from the predicted error; None if it never does.

    The two errors are compared on the same images at each epsilon, with the exact McNemar test at level / E for E epsilons.
    So for curves that agree, the probability of a false result is at most `level` over the whole grid. The measured error
    can be above or below the prediction. If it is below, the attack is too weak, or the network is more robust than its
    linear approximation. The curves may meet again at larger epsilons, where both saturate.

    Args:
        first_order: First-order radii, in pixel units, (N,).
        measured: Radii of the same images under an attack of the same norm, in pixel units, (N,).
        epsilons: Grid on which the radii were measured, in pixel units, strictly increasing, (E,).
        level: Significance level over the whole grid, between 0 and 1.

    Raises:
        ValueError: the radii are not vectors of equal length, a radius is negative or NaN, the epsilons are not strictly
            increasing, or level is not between 0 and 1.
    """
    grid = [float(epsilon) for epsilon in epsilons]
    check_epsilons(grid, math.inf)
    if not 0 < level < 1:
        raise ValueError(f"level must be a probability between 0 and 1, got {level:g}")
    for radii in (first_order, measured):
        check_radii(radii)
    parted = (epsilon for epsilon in grid if compare(first_order, measured, epsilon).p_value < level / len(grid))
    return next(parted, None)
