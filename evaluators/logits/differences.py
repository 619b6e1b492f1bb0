"""The distribution of logit differences, and the error curve that it predicts.

Of an image's logits h, sorted downwards, D_j = h_1 - h_(j+1) is how far the j-th rival lies behind the prediction. A small
perturbation of size e lowers D_j by at most e * g_j, g_j the dual norm of its gradient. Where g does not depend on D, the
share of images that are flipped within e is the share of D_1 below e * g: as long as the density of D_1 at zero, rho, is
finite and not zero, that is e * g * rho for small e, a power law with exponent 1, whatever the network and its images are.

The paper's own definitions could not be read, so these are ours: the mean field gives every image the mean steepness of its
rank, where `Margins.radii` gives each image its own; independent logits are those of the same classes, each of another
image; and two distributions have the same shape where they agree once each is divided by its mean.

Source: Cubuk et al., "Intriguing Properties of Adversarial Examples", arXiv:1711.02846.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from evaluators.curves.error_curves import Floats, binomial_interval
from evaluators.engine.batches import Batches
from evaluators.engine.fast_inference import inference
from evaluators.engine.input_checks import check_images, check_module
from evaluators.engine.prepared import predict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.logits.margin import Margins


@final
@dataclass(frozen=True)
class NearZero:
    """How many differences are next to zero, relative to an even spread from 0 to their mean.

    Attributes:
        density: The density near zero, times the mean: a number without unit. 1 for an exponential distribution, 0 where a
            gap is left at zero, and without bound where the density diverges there.
        interval: Its Clopper-Pearson interval, exact if the mean is taken as given.
        count: Number of differences that are near zero.
        n: Number of differences.
    """

    density: float
    interval: tuple[float, float]
    count: int
    n: int


def logits_of(network: nn.Module, x: Tensor, batch_size: int | None = None) -> Floats:
    """Returns the logits (N, K) of images x (N, ...), in float64.

    Args:
        network: Maps images with pixels in [0, 1] to logits; left as it was.
        x: Images.
        batch_size: Images in one pass through the network; found by itself if None.

    Raises:
        TypeError: network or x has the wrong type.
        ValueError: x is out of range, or the network's output is not (N, K) logits.
    """
    check_module(network)
    check_images(x)
    with inference(network, x, len(x)) as prepared:
        return predict(prepared, x, None if batch_size is None else Batches(batch_size)).double().cpu().numpy()


def logit_differences(logits: Floats) -> Floats:
    """Returns the largest logit minus each of the others, (N, K - 1), ascending along each row, from logits (N, K).

    Raises:
        ValueError: the logits are not (N, K) finite numbers of at least one image and two classes.
    """
    checked = _checked(logits)
    ordered = -np.sort(-checked, axis=1)
    return np.asarray(ordered[:, :1] - ordered[:, 1:])


def independent_logits(logits: Floats, *, seed: int = 0) -> Floats:
    """Returns logits (N, K) of which each class has those of `logits` in an order of its own: none knows of the others.

    What their differences have in common with those of the network is due to the distributions of the single logits.

    Raises:
        ValueError: the logits are not (N, K) finite numbers of at least one image and two classes.
    """
    return np.asarray(np.random.default_rng(seed).permuted(_checked(logits), axis=0))


def near_zero(differences: Floats, *, within: float = 0.1, confidence: float = 0.95) -> NearZero:
    """Returns the density of differences (N,) near zero, in units of one over their mean.

    Args:
        differences: To the nearest rival, or to another, none negative.
        within: How near, as a share of their mean. Smaller is less biased, and less certain.
        confidence: Of the interval, which is exact for the share of differences that near, taking their mean as given.

    Raises:
        ValueError: a difference is negative or not finite, there is none above 0, or `within` is not above 0.
    """
    scaled = _scaled(differences)
    if not 0 < within < math.inf:
        raise ValueError(f"within must be above 0, a share of the mean, got {within:g}")
    count = int((scaled <= within).sum())
    low, high = binomial_interval(np.array(float(count)), len(scaled), confidence) / within
    return NearZero(count / len(scaled) / within, (float(low), float(high)), count, len(scaled))


def shape_distance(first: Floats, second: Floats) -> float:
    """Returns how far apart the shapes of two distributions of differences, (N,) and (M,), are: from 0 to 1.

    The Kolmogorov-Smirnov distance between them once each is divided by its mean. What two samples from one distribution
    would give depends on it, as each is divided by a mean of its own: draw samples again to know.

    Raises:
        ValueError: a difference is negative or not finite, or there is none above 0.
    """
    one, other = np.sort(_scaled(first)), np.sort(_scaled(second))
    # The steps of both distributions; without the p-value that a library's test reckons, too, which fails for one image.
    places = np.concatenate([one, other])
    below = (np.searchsorted(sample, places, side="right") / len(sample) for sample in (one, other))
    return float(abs(np.subtract(*below)).max())


def mean_field_radii(margins: Margins, norm: str) -> Floats:
    """Returns each image's radius if all images had the mean steepness of those that are right, rank by rank, (N,).

    The smallest over the rivals of D_j / mean(g_j); 0 where misclassified, infinite where nothing is steep. Their error
    curve follows from the distribution of logit differences and one number a rank.

    Args:
        margins: Logit differences and their steepness.
        norm: Name of a norm in which the steepness was measured.

    Raises:
        ValueError: the steepness was not measured in that norm.
    """
    if norm not in margins.gradient_norms:
        raise ValueError(f"norm must be one that was measured ({', '.join(margins.gradient_norms)}), got {norm!r}")
    if not margins.right.any():
        return np.zeros(len(margins.right))
    mean = margins.gradient_norms[norm][margins.right].mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        radii = np.where(mean > 0, margins.differences / mean, math.inf).min(1)
    return np.where(margins.right, radii, 0.0)


def _checked(logits: Floats) -> Floats:
    array = np.asarray(logits, dtype=np.float64)
    if array.ndim != 2 or len(array) < 1 or array.shape[1] < 2:
        raise ValueError(f"logits must be (N, K) numbers of at least two classes, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"logits must be finite, got {array[~np.isfinite(array)][0]:g}")
    return array


def _scaled(differences: Floats) -> Floats:
    array = np.asarray(differences, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all() or (array < 0).any() or not (array > 0).any():
        got = f"shape {array.shape}" if array.ndim != 1 else f"{array.min():g} to {array.max():g}" if len(array) else "none"
        raise ValueError(f"differences must be a vector of finite numbers, none negative and not all 0, got {got}")
    return np.asarray(array / array.mean())
