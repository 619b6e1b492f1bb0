"""Certified L2 radii by randomized smoothing.

The certificates hold for the smoothed network, not for the network itself. The smoothed network returns the class that
the network predicts most often under Gaussian noise. The certificate requires that the full noise reaches the network, so
noisy pixels are not clipped to [0, 1]. Networks that are not trained with noise usually get small certified radii.

Source: Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019,
arXiv:1902.02918.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray

from evaluators.curves.error_curves import Floats, binomial_interval
from evaluators.engine.input_checks import check_logits
from evaluators.engine.noise import ImageNoise
from evaluators.engine.prepared import PreparedNetwork, prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

# Largest number of draws whose indices are in memory at once. The indices of all draws may not fit: a million draws for each
# of 10,000 images must be possible.
_HELD = 1 << 20


@final
@dataclass(frozen=True)
class Certificates:
    """Certificates of N images.

    `error_curve(radii, epsilons)` is the certified error curve. If no radius is too large, it is an upper bound on the
    adversarial error of the smoothed network under any L2 attack.

    Attributes:
        predictions: Class of the smoothed network, (N,) int64; -1 where it abstains.
        radii: Radius of the open L2 ball in which the class is correct and cannot change, (N,), in pixel units. It is 0
            where the smoothed network abstains or is wrong. Each radius is too large with probability at most alpha.
        lower: Lower bound on the probability, under noise, of the class that is most frequent in the n0 draws of
            `Smoothing`, (N,). Each bound is too large with probability at most alpha.
    """

    predictions: NDArray[np.int64]
    radii: Floats
    lower: Floats


@final
@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """Settings of randomized smoothing.

    The largest possible radius is sigma * Phi^-1(alpha ** (1 / n)). It is 2.46 sigma by default, and 3.8 sigma with the
    paper's n of 100,000.

    Attributes:
        sigma: Standard deviation of the noise, in pixel units, above 0.
        n0: Number of draws that select the class, at least 1.
        n: Number of draws that bound the probability of the class.
        alpha: Probability, per image, that the radius is too large, in (0, 0.5).

    Raises:
        ValueError: a setting is out of range, or n is so small that every image abstains.
    """

    sigma: float
    n0: int = 100
    n: int = 1000
    alpha: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma must be positive and finite, in pixel units (0.25 rather than 64), got {self.sigma:g}")
        if not 0 < self.alpha < 0.5:
            raise ValueError(
                f"alpha, the probability that a radius is too large, must be between 0 and 0.5, got {self.alpha:g}"
            )
        needed = math.floor(-math.log2(self.alpha)) + 1
        for name, draws, least in (("n0", self.n0, 1), ("n", self.n, needed)):
            if not isinstance(draws, int) or draws < least:
                why = f", or every image abstains at alpha {self.alpha:g}" if name == "n" else ""
                raise ValueError(f"{name} must be a whole number of at least {least}{why}, got {draws!r}")


def certify(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    smoothing: Smoothing,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Certificates:
    """Returns the certified L2 radii of images x with labels y, at n0 + n forward passes per image.

    Args:
        network: Maps images (N, ...) to logits (N, K). It must accept noisy pixels outside [0, 1]. Its state is restored
            afterwards.
        x: Clean images, (N, ...), pixels in [0, 1].
        y: True labels, (N,) int64.
        smoothing: Noise and number of draws.
        seed: Seed of the noise. Results do not depend on the batch size.
        batch_size: Noisy images in one pass; estimated from the memory that one image needs if None.
        progress: Function called with the completed fraction, between 0 and 1.

    Raises:
        TypeError: network, x, y or smoothing has the wrong type.
        ValueError: x, y or batch_size is out of range, or the network's output is not (N, K) logits.

    Source: Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019,
    arXiv:1902.02918.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from evaluators import Smoothing, certify
        >>> network = nn.Identity()  # The two pixels are the logits of two classes.
        >>> x, y = torch.tensor([[0.7, 0.5], [0.9, 0.1], [0.4, 0.5]]), torch.tensor([0, 0, 0])
        >>> certificates = certify(network, x, y, Smoothing(sigma=0.25))
        >>> certificates.radii.round(1)
        array([0.1, 0.5, 0. ])
    """
    from scipy.stats import norm  # Slow to import.

    check_smoothing(smoothing)
    sigma, n = smoothing.sigma, smoothing.n
    with prepare(network, x, y, batch_size) as prepared:
        draws, report = smoothing.n0 + n, progress or (lambda share: None)
        chosen = _counts(prepared, sigma, smoothing.n0, seed, lambda done: report(done / draws), stream=0).argmax(1)
        counts = _counts(prepared, sigma, n, seed, lambda done: report((smoothing.n0 + done) / draws), stream=1)
        hits = counts[torch.arange(len(x)), chosen].numpy()
    # The lower end of the two-sided interval at 2 alpha is the one-sided bound at alpha.
    lower = binomial_interval(hits.astype(np.float64), n, confidence=1 - 2 * smoothing.alpha)[:, 0]
    predictions = np.where(lower > 0.5, chosen.numpy(), -1)
    right = predictions == y.cpu().numpy()
    return Certificates(predictions, radii=np.where(right, sigma * norm.ppf(lower), 0.0), lower=lower)


def check_smoothing(smoothing: Smoothing) -> None:
    """Checks the type of `smoothing`.

    Raises:
        TypeError: smoothing is not a `Smoothing`.
    """
    if not isinstance(smoothing, Smoothing):
        raise TypeError(f"smoothing must be a Smoothing, such as Smoothing(sigma=0.25), got {smoothing!r}")


def _counts(
    prepared: PreparedNetwork, sigma: float, draws: int, seed: int, report: Callable[[float], None], *, stream: int
) -> Tensor:
    """Returns how often the network predicts each class over the draws of noise, (N, K) int64, on the CPU.

    `report` is called with the completed draws of each image, on average.
    """
    x = prepared.x
    counts = torch.zeros(prepared.logits.shape, dtype=torch.int64, device=x.device)

    def classes(pairs: Tensor) -> Tensor:
        image, draw = pairs // draws, pairs % draws
        # Each draw gets a separate noise index, so that one batch can hold several draws of an image.
        noise = ImageNoise.of(seed, (image << 32) + draw, stream)
        with torch.no_grad():
            logits: Tensor = prepared.network(x[image] + sigma * noise.normal(x[image]))
        check_logits(logits, len(pairs))
        return logits.argmax(1)

    total, done = len(x) * draws, 0
    for start in range(0, total, _HELD):
        held = torch.arange(start, min(start + _HELD, total), device=x.device)
        for pairs, predictions in prepared.batches.over(held, classes):
            counts.index_put_((pairs // draws, predictions), torch.ones_like(predictions), accumulate=True)
            done += len(pairs)
            report(done / len(x))
    return counts.cpu()
