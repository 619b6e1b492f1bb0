"""What gradients at the clean images predict of the error curve, and up to which epsilon the prediction holds.

The predicted curve is `error_curve(margins(...).radii["linf"], epsilons)`: no attack is run. It holds where the network is
linear as far as the attack goes and the pixel range does not bind; elsewhere the two curves part.

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
    """Returns the adversarial error at epsilon that the first-order radii predict: a cheap metric for a search.

    Costs one backward pass an image and rival kept, whatever the epsilon. It is blind to gradient masking: a network
    without gradients looks perfectly robust to it.

    Args:
        network: Maps images (N, ...) with pixels in [0, 1] to logits (N, K); left as it was.
        x: Clean images.
        y: True labels, (N,) int64.
        norm: Shape of the ball.
        epsilon: Radius of the ball in pixel units: 8/255, not 8.
        classes: How many rivals to keep of each image at most, the nearest ones; None for all.
        batch_size: Images in one pass; found from the memory that one image needs if None.

    Raises:
        TypeError: x or y has the wrong type.
        ValueError: x, y, epsilon or classes is out of range, or the network's output is not (N, K) logits.
    """
    check_images(x)
    check_epsilons([epsilon], norm.largest(x[0].numel()))
    return float((margins(network, x, y, [norm], batch_size, classes=classes).radii[norm.name] <= epsilon).mean())


def gradient_norms(
    network: nn.Module, x: Tensor, y: Tensor, norm: Norm, loss: Loss = cross_entropy, batch_size: int | None = None
) -> Floats:
    """Returns the dual norm of the loss's input gradient at each image, (N,): how fast it rises per unit of epsilon.

    Of cross-entropy it vanishes where the logits are far apart, which starves attacks of gradients without any
    robustness: beside `Margins.gradient_norms`, which only grows with the logits, it shows that.

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
    """Returns the epsilon at which the measured error curve parts from the predicted one; None if they never part.

    The rule: the smallest epsilon of the grid at which the two errors differ, on the same images, by the exact McNemar
    test with a p-value below level / E, for E epsilons. Curves that agree are so called parted with a chance of at most
    `level` over the whole grid. That they meet again later, once both have saturated, changes nothing. They may part
    either way: below the prediction the attack is too weak or the network bends in the defender's favour.

    Args:
        first_order: First-order radii, (N,).
        measured: Radii under an attack of the same norm, on the same images, (N,).
        epsilons: The grid on which the radii were measured, (E,), strictly increasing.
        level: Of the test.

    Raises:
        ValueError: the radii are not two vectors of one length, none negative or NaN; the epsilons are not strictly
            increasing; or the level is not between 0 and 1.
    """
    grid = [float(epsilon) for epsilon in epsilons]
    check_epsilons(grid, math.inf)
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, the chance of a false parting, got {level:g}")
    for radii in (first_order, measured):
        check_radii(radii)
    parted = (epsilon for epsilon in grid if compare(first_order, measured, epsilon).p_value < level / len(grid))
    return next(parted, None)
