"""The distribution of logit differences, and the error curve that it predicts.

Let h be the logits of an image in descending order, and D_j = h_1 - h_(j+1). To first order, a perturbation of size e
lowers D_j by at most e * g_j, where g_j is the dual norm of the gradient of D_j. Suppose that g_1 is the same for all images
and that the nearest wrong class is always reached first. Then the share of images flipped within e is the share of images
with D_1 below e * g_1. Let rho be the density of D_1 at zero. If rho is finite and not zero, this share is e * g_1 * rho for
small e: a power law with exponent 1, for any network and images.

The full definitions of the paper were not available, so the following are Hardcell's. The rank of a wrong class is its place
by logit, 1 for the nearest. The mean field gives every image the mean gradient norm of each rank, whereas `Margins.radii`
uses the gradient norms of the image. Independent logits combine the logits of different images, one image per class. Two
distributions have the same shape if they agree after division by their means.

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
    """The density of logit differences near zero, relative to a uniform distribution from 0 to their mean.

    Attributes:
        density: Density near zero times the mean, without unit. It is about 1 for an exponential distribution and 0 if there
            is a gap at zero. It has no upper bound if the density diverges at zero.
        interval: Clopper-Pearson interval of the density, exact for a fixed mean.
        count: Number of differences near zero.
        n: Number of differences.
    """

    density: float
    interval: tuple[float, float]
    count: int
    n: int


def logits_of(network: nn.Module, x: Tensor, batch_size: int | None = None) -> Floats:
    """Returns the logits of images, (N, K) float64.

    Args:
        network: Maps images with pixels in [0, 1] to logits (N, K); unchanged.
        x: Images with pixels in [0, 1], (N, ...).
        batch_size: Images in one pass; 256 if None.

    Raises:
        TypeError: network or x has the wrong type.
        ValueError: x is out of range, or the network's output is not (N, K) logits.
    """
    check_module(network)
    check_images(x)
    with inference(network, x, len(x)) as prepared:
        return predict(prepared, x, None if batch_size is None else Batches(batch_size)).double().cpu().numpy()


def logit_differences(logits: Floats) -> Floats:
    """Returns the largest logit minus each of the other logits, (N, K - 1), ascending along each row.

    Args:
        logits: Logits of N images and K classes, (N, K).

    Raises:
        ValueError: logits is not an (N, K) array of finite numbers with N >= 1 and K >= 2.
    """
    checked = _checked(logits)
    ordered = -np.sort(-checked, axis=1)
    return np.asarray(ordered[:, :1] - ordered[:, 1:])


def independent_logits(logits: Floats, *, seed: int = 0) -> Floats:
    """Returns logits in which each column (class) is permuted over the images on its own, (N, K).

    The distribution of each single logit is unchanged, but the classes become independent. Properties of the differences
    that remain are due to the distributions of the single logits.

    Args:
        logits: Logits of N images and K classes, (N, K).
        seed: Seed of the permutations.

    Raises:
        ValueError: logits is not an (N, K) array of finite numbers with N >= 1 and K >= 2.
    """
    return np.asarray(np.random.default_rng(seed).permuted(_checked(logits), axis=0))


def near_zero(differences: Floats, *, within: float = 0.1, confidence: float = 0.95) -> NearZero:
    """Returns the density of logit differences near zero, multiplied by their mean.

    Args:
        differences: Non-negative differences to one rank of wrong classes, for example the nearest, (N,).
        within: Largest difference that counts as near zero, as a share of the mean. A smaller value gives less bias and a
            wider interval.
        confidence: Confidence level of the interval, between 0 and 1.

    Raises:
        ValueError: a difference is negative or not finite, all are 0, `within` is not above 0, or confidence is not between
            0 and 1.
    """
    scaled = _scaled(differences)
    if not 0 < within < math.inf:
        raise ValueError(f"within must be a finite share of the mean above 0, got {within:g}")
    count = int((scaled <= within).sum())
    low, high = binomial_interval(np.array(float(count)), len(scaled), confidence) / within
    return NearZero(count / len(scaled) / within, (float(low), float(high)), count, len(scaled))


def shape_distance(first: Floats, second: Floats) -> float:
    """Returns the distance between the shapes of two distributions of logit differences, between 0 and 1.

    It is the Kolmogorov-Smirnov distance after each sample is divided by its mean. The distance of two samples from the same
    distribution depends on the distribution, so the usual critical values do not apply. Resampling gives valid ones.

    Args:
        first: Non-negative differences, (N,).
        second: Non-negative differences, (M,).

    Raises:
        ValueError: a difference is negative or not finite, or all differences of a sample are 0.
    """
    one, other = np.sort(_scaled(first)), np.sort(_scaled(second))
    # Not scipy.stats.ks_2samp: it also computes a p-value, which may fail for a single image.
    places = np.concatenate([one, other])
    below = (np.searchsorted(sample, places, side="right") / len(sample) for sample in (one, other))
    return float(abs(np.subtract(*below)).max())


def mean_field_radii(margins: Margins, norm: str) -> Floats:
    """Returns the mean-field radius of each image, in pixel units, (N,).

    The radius is the smallest ratio D_j / mean(g_j) over the J nearest wrong classes, where the mean is over the correctly
    classified images. It is 0 if the image is misclassified, and infinite if all means are 0. The error curve of these radii
    depends only on the distribution of logit differences and one gradient norm per rank.

    Args:
        margins: Logit differences and gradient norms of N images.
        norm: Name of a norm of `margins.gradient_norms`.

    Raises:
        ValueError: the gradient norms were not measured in that norm.
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
