"""Certified L2 radii by randomised smoothing: a bound that no attack can break, for another network than the one given.

What is certified is the smoothed network: the class that the given one returns most often under Gaussian noise. The noise
leaves the pixel range on purpose, for clipping would belong to the network. A network that was not trained under noise is
seldom certified far.

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
from scipy.stats import norm

from evaluators.curves.error_curves import Floats, binomial_interval
from evaluators.engine.input_checks import check_logits
from evaluators.engine.noise import ImageNoise
from evaluators.engine.prepared import PreparedNetwork, prepare

if TYPE_CHECKING:
    from torch import Tensor, nn

# Draws whose indices are held at once, so that a million draws of each of ten thousand images fit into memory.
_HELD = 1 << 20


@final
@dataclass(frozen=True)
class Certificates:
    """What is certified of N images.

    `error_curve(radii, epsilons)` is the certified error curve: but for the images whose radius is too large, an upper bound
    on the adversarial error of the smoothed network under any L2 attack.

    Attributes:
        predictions: The smoothed network's class of each image, (N,) int64; -1 where it abstains.
        radii: Radius of the open L2 ball in which that class is right and cannot change, (N,), in pixel units: 0 where the
            network abstains or is wrong. Each is too large with a chance of at most alpha.
        lower: Lower bound on the probability of the class that came first in the first n0 draws, (N,).
    """

    predictions: NDArray[np.int64]
    radii: Floats
    lower: Floats


@final
@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """How a network is smoothed, and from how many draws its radii are certified.

    No radius exceeds sigma * Phi^-1(alpha ** (1 / n)): 2.46 sigma by default, 3.8 sigma with the paper's n of 100,000.

    Attributes:
        sigma: Standard deviation of the noise, in pixel units.
        n0: Draws from which the class is chosen.
        n: Draws from which the probability of that class is bounded.
        alpha: Chance, for each image, that its radius is too large.
    """

    sigma: float
    n0: int = 100
    n: int = 1000
    alpha: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma must be positive, in pixel units: 0.25 rather than 64, got {self.sigma:g}")
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha must be between 0 and 0.5, the chance that a radius is too large, got {self.alpha:g}")
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
) -> Certificates:
    """Returns the certified L2 radii of images x (N, ...) with labels y (N,).

    Costs n0 + n forward passes an image.

    Args:
        network: Maps images to logits (N, K), also where noise has taken pixels out of [0, 1]. It is left as it was.
        x: Clean images.
        y: True labels, int64.
        smoothing: The noise and the number of draws.
        seed: Seed of the noise. Results do not depend on the batch size.
        batch_size: Noisy images in one pass; found from the memory that one image needs if None.

    Raises:
        TypeError: x, y or smoothing has the wrong type.
        ValueError: x or y is out of range, or the network's output is not (N, K) logits.
    """
    check_smoothing(smoothing)
    sigma, n = smoothing.sigma, smoothing.n
    with prepare(network, x, y, batch_size) as prepared:
        chosen = _counts(prepared, sigma, smoothing.n0, seed, stream=0).argmax(1)
        hits = _counts(prepared, sigma, n, seed, stream=1)[torch.arange(len(x)), chosen].numpy()
    # Two-sided at twice alpha: its lower end is the one-sided bound at alpha.
    lower = binomial_interval(hits.astype(np.float64), n, confidence=1 - 2 * smoothing.alpha)[:, 0]
    predictions = np.where(lower > 0.5, chosen.numpy(), -1)
    right = predictions == y.cpu().numpy()
    return Certificates(predictions, radii=np.where(right, sigma * norm.ppf(lower), 0.0), lower=lower)


def check_smoothing(smoothing: Smoothing) -> None:
    """Checks that smoothing is given as what it is.

    Raises:
        TypeError: it is no `Smoothing`.
    """
    if not isinstance(smoothing, Smoothing):
        raise TypeError(f"smoothing must be such as Smoothing(sigma=0.25), got {smoothing!r}")


def _counts(prepared: PreparedNetwork, sigma: float, draws: int, seed: int, *, stream: int) -> Tensor:
    """Returns how often each class came out over the draws of noise, (N, K) int64, on the CPU."""
    x = prepared.x
    counts = torch.zeros(prepared.logits.shape, dtype=torch.int64, device=x.device)

    def classes(pairs: Tensor) -> Tensor:
        image, draw = pairs // draws, pairs % draws
        # Each draw of an image is an image of its own to the noise: several of them then fit into one batch.
        noise = ImageNoise.of(seed, (image << 32) + draw, stream)
        with torch.no_grad():
            logits: Tensor = prepared.network(x[image] + sigma * noise.normal(x[image]))
        check_logits(logits, len(pairs))
        return logits.argmax(1)

    total = len(x) * draws
    for start in range(0, total, _HELD):
        held = torch.arange(start, min(start + _HELD, total), device=x.device)
        for pairs, predictions in prepared.batches.over(held, classes):
            counts.index_put_((pairs // draws, predictions), torch.ones_like(predictions), accumulate=True)
    return counts.cpu()
