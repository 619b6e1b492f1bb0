"""The local exponent of the flip rate at small epsilon, d ln(flip rate) / d ln(epsilon), from the smallest radii.

`power_law` chooses the window that a law describes best, which may reach far up the curve. Here the window is fixed in
advance: it holds the k smallest flips. Within it, the flip rate is taken as a power of epsilon, and the exponent is
estimated by maximum likelihood. For exact radii this is Hill's estimate. For radii on a grid, only the cell between two
epsilons is known of each flip, and the window ends at the first epsilon with at least k flips in at least 2 cells.

**Number of flips.** With m flips, k = m ** (2/3), but at least 20. For a curve 1 - exp(-(e / scale) ** exponent), the
exponent in a window with flip rate F at its top is biased by a factor 1 - F / 4. Its relative standard error is 1 / sqrt(k).
As F is at most k / m, the bias is at most a quarter of the standard error if k = m ** (2/3). For a curve e / (1 + e), the
bias is a factor 1 - F / 2, so at most half of the standard error. A larger power of m lets the bias outgrow the standard
error; a smaller one wastes flips. With m below 90, k is 20, and the bias is larger.

**Interval.** The interval holds the exponents that a likelihood-ratio test does not reject. With `--local`,
`tests/benchmarks/coverage.py` measures the mean estimate as a share of the exponent at epsilon 0, and the share of the 95 %
intervals that hold this exponent, in 400 to 1000 draws of each kind:

| curve of the flip rate | images | mean estimate | coverage |
| --- | --- | --- | --- |
| a power law up to some epsilon | 50 to 200 | 1.04 to 1.11 | 94 to 95 % |
| a power law up to some epsilon | 1,000 to 10,000 | 1.00 to 1.02 | 94 to 96 % |
| 1 - exp(-e), 1 - exp(-e^2) | 50 | 0.90 to 0.92 | 91 to 93 % |
| 1 - exp(-e), 1 - exp(-e^2) | 200 to 10,000 | 0.97 to 0.99 | 91 to 97 % |
| e / (1 + e) | 200 to 10,000 | 0.91 to 0.98 | 90 to 94 % |

On the last row, the interval of `fit_power_law` covers the exponent at 0 in 78 to 84 % of the draws of 200 images. The local
exponent does not show whether the curve is a power law: a log-normal curve has a local exponent as well, without a limit.
Sources: Hill, "A simple general approach to inference about the tail of a distribution", Annals of Statistics 3, 1975, here
for the lower tail; Hall, "On some simple estimates of an exponent of regular variation", Journal of the Royal Statistical
Society B 44, 1982, for the order of k.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evaluators.curves.error_curves import Floats, check_confidence, check_radii
from evaluators.curves.power_law_window import LARGEST_EXPONENT, SMALLEST_COUNT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Smallest number of cells of the grid with flips in the window.
CELLS = 2


@final
@dataclass(frozen=True)
class LocalExponent:
    """The exponent of the flip rate over the smallest radii.

    Attributes:
        exponent: Maximum-likelihood estimate of d ln(flip rate) / d ln(epsilon) in the window, above 0.
        interval: Likelihood-ratio interval of the exponent.
        window: Smallest epsilon of the grid, and the top of the window, in pixel units. With exact radii, the smallest
            radius above 0 and the top.
        n: Number of flips in the window.
        flip_rate: Flip rate at the top of the window. The exponent at epsilon 0 may be higher than the estimate by about
            this share of it, and the estimate is good if this share is small.
    """

    exponent: float
    interval: tuple[float, float]
    window: tuple[float, float]
    n: int
    flip_rate: float


@final
@dataclass(frozen=True)
class NoLocalExponent:
    """The result if there are too few flips, or cells of the grid, for a local exponent.

    Attributes:
        reason: Reason why there is no exponent, with its numbers.
    """

    reason: str


def local_record(local: LocalExponent | NoLocalExponent) -> dict[str, Any]:
    """Returns a local exponent, or the reason why there is none, as plain data."""
    return asdict(local)


def local_exponent(
    radii: Floats, epsilons: Sequence[float] | None = None, *, confidence: float = 0.95
) -> LocalExponent | NoLocalExponent:
    """Returns the exponent of the flip rate over the smallest radii, or the reason why there is none.

    Args:
        radii: One radius per image, in pixel units, (N,). Radii of 0 (misclassified when clean) are left out; an infinite
            radius is an image that is never flipped.
        epsilons: Grid on which the radii were measured, in pixel units, (E,); None if the radii are exact.
        confidence: Confidence level of the interval, between 0 and 1.

    Raises:
        ValueError: radii is not a vector, a radius is negative or NaN, or confidence is not between 0 and 1.

    Example:
        >>> import numpy as np
        >>> from evaluators.curves.local_exponent import local_exponent
        >>> radii = np.linspace(0, 1, 1001)[1:] ** 0.5  # Flip rate epsilon ** 2.
        >>> local = local_exponent(radii)
        >>> f"{local.exponent:.1f}, from {local.n} flips"
        '2.0, from 100 flips'
    """
    check_confidence(confidence)
    radii = check_radii(radii, empty=True)
    right = radii[radii > 0]
    flips = np.sort(right[np.isfinite(right)])
    if len(flips) < SMALLEST_COUNT:
        return NoLocalExponent(
            f"{len(flips)} of {len(right)} images were flipped; a local exponent needs at least {SMALLEST_COUNT}"
        )
    wanted = max(SMALLEST_COUNT, math.ceil(len(flips) ** (2 / 3) - 1e-9))
    if epsilons is None:
        top, n, lowest = float(flips[wanted - 1]), wanted, float(flips[0])
        likelihood = _likelihood_of_radii(flips[: wanted - 1], top)
    else:
        grid = np.unique(np.asarray(epsilons, dtype=np.float64))
        grid = grid[grid > 0]
        # The tolerance allows for radii stored with less precision than their grid.
        counts = np.bincount(np.searchsorted(grid * (1 + 1e-6), flips), minlength=len(grid) + 1)[:-1].astype(np.float64)
        enough = (np.cumsum(counts) >= wanted) & (np.cumsum(counts > 0) >= CELLS)
        if not enough.any():
            return NoLocalExponent(
                f"{int(counts.sum())} flips fall in {np.count_nonzero(counts)} cells of the grid; a local exponent needs "
                f"{wanted} flips in {CELLS} cells: measure at smaller epsilons"
            )
        last = int(enough.argmax())
        top, n, lowest = float(grid[last]), int(counts[: last + 1].sum()), float(grid[0])
        likelihood = _likelihood_of_counts(counts[: last + 1], np.log(grid[: last + 1]))
    exponent, interval = _maximum(likelihood, confidence)
    if exponent > LARGEST_EXPONENT * 0.99:
        return NoLocalExponent(f"the flip rate rises too steeply: the {n} smallest radii are about {top:.3g}")
    return LocalExponent(exponent, interval, (lowest, top), n, n / len(right))


def _likelihood_of_radii(below: Floats, top: float) -> Callable[[float], float]:
    """Returns the log-likelihood of ln(exponent), given exact radii (k - 1,) below the k-th smallest radius, `top`."""
    total = float(np.log(top / below).sum())
    return lambda log_exponent: len(below) * log_exponent - math.exp(log_exponent) * total


def _likelihood_of_counts(counts: Floats, log_grid: Floats) -> Callable[[float], float]:
    """Returns the log-likelihood of ln(exponent), given flips in the W cells of a grid that ends at the top, (W,) each."""
    low, high = np.append(-np.inf, log_grid[:-1]) - log_grid[-1], log_grid - log_grid[-1]
    full = counts > 0
    low, high, flips = low[full], high[full], counts[full]

    def likelihood(log_exponent: float) -> float:
        exponent = math.exp(log_exponent)
        # ln(exp(a high) - exp(a low)), without the rounding of a difference of small numbers.
        return float(flips @ (exponent * high + np.log(-np.expm1(np.maximum(exponent * (low - high), -700.0)))))

    return likelihood


def _maximum(likelihood: Callable[[float], float], confidence: float) -> tuple[float, tuple[float, float]]:
    """Returns the exponent of the largest likelihood, and its likelihood-ratio interval."""
    from scipy.optimize import brentq, minimize_scalar  # Slow to import.
    from scipy.stats import chi2

    ends = -math.log(LARGEST_EXPONENT), math.log(LARGEST_EXPONENT)
    best = float(minimize_scalar(lambda z: -likelihood(z), bounds=ends, method="bounded", options={"xatol": 1e-9}).x)
    drop = likelihood(best) - float(chi2.ppf(confidence, 1)) / 2
    low, high = (
        end if likelihood(end) > drop else float(brentq(lambda z: likelihood(z) - drop, *sorted((end, best))))
        for end in ends
    )
    return math.exp(best), (math.exp(low), math.exp(high))
