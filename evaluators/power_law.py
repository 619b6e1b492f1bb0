"""The power law of the flip rate, F(epsilon) = prefactor * epsilon ** exponent, by maximum likelihood.

Cubuk et al. (arXiv:1711.02846) find that adversarial error grows as a power of the perturbation's size. What follows a
power law is the flip rate, for it starts at 0. It is fitted in a window (0, top]: below the top, the share of flipped
images with radius at most epsilon is (epsilon / top) ** exponent. Radii on a grid are interval-censored: all that is known
is the cell between two grid points in which a radius lies. For exact radii the estimate is Hill's (Hill, "A simple general
approach to inference about the tail of a distribution", Annals of Statistics 3, 1975), here for the lower tail.

The window's rule: its top is the largest grid point below which the law is not rejected (chi-squared goodness of fit over
the cells, p >= 0.1) with at least 20 flips in at least 4 cells. This follows the spirit of Clauset, Shalizi and Newman,
"Power-law distributions in empirical data", SIAM Review 51, 2009, who let the fit itself say where a law begins.

The interval is that of the exponent given the window. On a curve that bends smoothly inside the grid, the largest window
that is not rejected reaches into the bend: the exponent is then that of the window, below that of the curve at zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import chi2

from evaluators.curve import Floats, binomial_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALLEST_COUNT = 20
SMALLEST_CELLS = 4
ACCEPTED_P = 0.1
_EXPONENTS = (1e-3, 1e3)


@final
@dataclass(frozen=True)
class PowerLaw:
    """A fitted law F(epsilon) = prefactor * epsilon ** exponent.

    Attributes:
        exponent: The maximum-likelihood exponent.
        exponent_interval: Its likelihood-ratio interval (on exact radii, the exact chi-squared interval).
        prefactor: The law's flip rate at epsilon 1, which may exceed 1: a law holds only in its window.
        window: The smallest epsilon measured and the top of the window, in pixel units.
        n: Number of flips in the window.
        p_value: Goodness of fit of the law in the window; the window's rule keeps it at 0.1 or more.
        saturated: At the largest epsilon measured the flip rate is significantly below the law: the curve has bent.
    """

    exponent: float
    exponent_interval: tuple[float, float]
    prefactor: float
    window: tuple[float, float]
    n: int
    p_value: float
    saturated: bool

    def __call__(self, epsilons: Floats) -> Floats:
        """Returns the law's flip rate at epsilons."""
        return np.asarray(self.prefactor * np.asarray(epsilons) ** self.exponent)


@final
@dataclass(frozen=True)
class NoPowerLaw:
    """The answer where no law can be fitted.

    Attributes:
        reason: Why not, with the numbers.
    """

    reason: str


def fit_power_law(
    radii: Floats, epsilons: Sequence[float] | None = None, *, confidence: float = 0.95
) -> PowerLaw | NoPowerLaw:
    """Returns the power law of the flip rate, or the reason why there is none.

    Args:
        radii: One radius an image, (N,); 0 (misclassified when clean) is left out, infinity is never flipped.
        epsilons: The grid on which the radii were measured, (E,); None if they are exact.
        confidence: Of the exponent's interval.
    """
    radii = np.asarray(radii, dtype=np.float64)
    right = radii[radii > 0]
    flips = np.sort(right[np.isfinite(right)])
    if len(flips) < SMALLEST_COUNT:
        return NoPowerLaw(f"{len(flips)} of {len(right)} images were flipped; a fit needs at least {SMALLEST_COUNT}")
    exact = epsilons is None
    grid = np.unique(np.quantile(flips, np.linspace(0.05, 1, 20))) if epsilons is None else np.asarray(epsilons)
    grid = grid[grid > 0]
    # Counts of the cells (0, grid[0]], (grid[0], grid[1]], ...; the tolerance is for radii stored in less precision.
    edges = np.concatenate([[0.0], grid * (1 + 1e-6)])
    counts = np.histogram(flips, bins=edges)[0].astype(np.float64)
    best_p: float | None = None
    for last in range(len(grid), SMALLEST_CELLS - 1, -1):
        cells, top = counts[:last], float(grid[last - 1])
        n = int(cells.sum())
        if n < SMALLEST_COUNT or np.count_nonzero(cells) < SMALLEST_CELLS:
            break
        scaled = grid[:last] / top
        inside = flips[flips <= edges[last]] / top
        if exact:
            exponent = n / max(-np.log(inside).sum(), 1e-300)
            # Ten cells of equal share under the law: cells at quantiles of the data would fit it by construction.
            tenths = np.arange(1, 11) / 10
            uniform = np.histogram(inside**exponent, bins=np.concatenate([[0.0], tenths * (1 + 1e-6)]))[0]
            p_value = _goodness_of_fit(uniform.astype(np.float64), tenths, 1.0)
        else:
            exponent = _censored_exponent(cells, scaled)
            p_value = _goodness_of_fit(cells, scaled, exponent)
        best_p = max(best_p or 0.0, p_value)
        if p_value < ACCEPTED_P:
            continue
        interval = (
            _exact_interval(exponent, n, confidence) if exact else _censored_interval(cells, scaled, exponent, confidence)
        )
        log_prefactor = np.log(n / len(right)) - exponent * np.log(top)
        if not (exponent < _EXPONENTS[1] * 0.99 and abs(log_prefactor) < 700):
            return NoPowerLaw(
                f"the radii rise too steeply for a power law (exponent {exponent:.3g}): all are about {top:.3g}"
            )
        prefactor = np.exp(log_prefactor)
        largest = float(grid[-1])
        bound = float(binomial_interval(np.array([float(counts.sum())]), len(right), confidence)[0, 1])
        return PowerLaw(
            exponent=float(exponent),
            exponent_interval=interval,
            prefactor=float(prefactor),
            window=(float(flips[0]) if exact else float(grid[0]), top),
            n=n,
            p_value=float(p_value),
            saturated=bool(prefactor * largest**exponent > bound),
        )
    if best_p is None:
        return NoPowerLaw(
            f"{len(flips)} flips fall in {np.count_nonzero(counts)} cells of the grid; "
            f"a fit needs {SMALLEST_COUNT} flips in {SMALLEST_CELLS} cells: measure at smaller epsilons"
        )
    return NoPowerLaw(
        f"no window of {SMALLEST_COUNT} flips in {SMALLEST_CELLS} cells fits a power law (best p = {best_p:.2g}, "
        f"{ACCEPTED_P} needed): measure at smaller epsilons"
    )


def _log_likelihood(log_exponent: float, cells: Floats, scaled: Floats) -> float:
    """Returns the log-likelihood of cell counts under (epsilon / top) ** exponent, scaled = epsilon / top."""
    return float(cells @ np.log(np.maximum(_cell_shares(np.exp(log_exponent), scaled), 1e-300)))


def _cell_shares(exponent: float, scaled: Floats) -> Floats:
    return np.diff(np.concatenate([[0.0], scaled**exponent]))


def _censored_exponent(cells: Floats, scaled: Floats) -> float:
    found = minimize_scalar(
        lambda b: -_log_likelihood(b, cells, scaled),
        bounds=np.log(_EXPONENTS),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(np.exp(found.x))


def _censored_interval(cells: Floats, scaled: Floats, exponent: float, confidence: float) -> tuple[float, float]:
    """Returns the likelihood-ratio interval: where twice the log-likelihood's fall stays below the chi-squared quantile."""
    best = np.log(exponent)
    level = _log_likelihood(best, cells, scaled) - chi2.ppf(confidence, 1) / 2

    def excess(log_exponent: float) -> float:
        return _log_likelihood(log_exponent, cells, scaled) - float(level)

    ends = []
    for end in np.log(_EXPONENTS):
        ends.append(float(np.exp(brentq(excess, end, best) if excess(end) < 0 else end)))
    return ends[0], ends[1]


def _exact_interval(exponent: float, n: int, confidence: float) -> tuple[float, float]:
    """Returns the interval from 2 n B / B_hat ~ chi-squared with 2 n degrees of freedom.

    Holds where the top is fixed; here it is an order statistic, which costs one degree of n and is ignored.
    """
    tail = (1 - confidence) / 2
    low, high = chi2.ppf([tail, 1 - tail], 2 * n) / (2 * n)
    return float(exponent * low), float(exponent * high)


def _goodness_of_fit(cells: Floats, scaled: Floats, exponent: float) -> float:
    """Returns the p-value of Pearson's chi-squared over cells merged until each expects at least 5 flips."""
    expected = _cell_shares(exponent, scaled) * cells.sum()
    observed_bins, expected_bins = [0.0], [0.0]
    for count, share in zip(cells, expected, strict=True):
        if expected_bins[-1] >= 5:
            observed_bins.append(0.0)
            expected_bins.append(0.0)
        observed_bins[-1] += count
        expected_bins[-1] += share
    if len(expected_bins) > 1 and expected_bins[-1] < 5:
        observed_bins[-2] += observed_bins.pop()
        expected_bins[-2] += expected_bins.pop()
    if len(expected_bins) < 3:
        return 0.0  # With one exponent fitted, two bins leave nothing to test.
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed_bins, expected_bins, strict=True))
    return float(chi2.sf(statistic, len(expected_bins) - 2))
