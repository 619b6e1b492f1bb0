"""The power law of the flip rate, F(epsilon) = prefactor * epsilon ** exponent, by maximum likelihood.

Cubuk et al. (arXiv:1711.02846) find that adversarial error grows as a power of the perturbation's size. What follows a
power law is the flip rate, for it starts at 0. It is fitted in a window (0, top]: below the top, the share of flipped
images with radius at most epsilon is (epsilon / top) ** exponent. Radii on a grid are interval-censored: all that is known
is the cell between two grid points in which a radius lies. Exact radii are counted on a grid of their own, so fine that the
estimate is that of Hill, "A simple general approach to inference about the tail of a distribution", Annals of Statistics 3,
1975, for the lower tail, but for a few hundredths of its standard error.

The top of the window is where the Kolmogorov-Smirnov distance between law and data is least (`power_law_window`). A law is
refused where chance would seldom make that distance as large (p < 0.1), by the semi-parametric bootstrap of Clauset, Shalizi
and Newman, "Power-law distributions in empirical data", SIAM Review 51, 2009: data are drawn from the law inside the window
and from the curve itself above it, and each draw chooses its own window.

The interval is that of percentiles over resamples of the images, in which the window is chosen anew each time: it holds the
chance of the choice, and is about twice as wide as one for a fixed window. How often the 95 % interval covers, in
300 draws of 200 to 10,000 images, on a grid of 12 points and exactly (`tests/benchmarks/coverage.py`):

- the exponent of a law that ends sharply (exponents 0.5 to 4, with nothing or with a kink at its end): 96 to 99 %;
- the exponent of the law nearest to the true curve in the window that was chosen, on any curve: 94 to 100 %;
- the exponent at zero of a curve that bends all the way: 91 to 98 % on 1 - exp(-e) and 1 - exp(-e^2), 90 to 96 % on
  e / (1 + e), but there only 78 to 84 % with 200 images. It is the exponent in the window that is estimated, and on such a
  curve it tends to be lower than that at zero: by 2 % with 10,000 images, by 10 to 20 % with 200.

A curve without a power law at zero (log-normal radii) still has an exponent in its window: about three quarters of the draws
of 200 to 1,000 images are fitted, a third of those of 10,000. So a fit alone does not show that there is a law at zero. Laws
that end sharply are refused in 5 to 8 % of the draws, curves that bend in 6 to 16 %.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import numpy as np

from evaluators.curves.alternatives import Alternative, compare_forms
from evaluators.curves.error_curves import Floats, check_radii
from evaluators.curves.power_law_window import LARGEST_EXPONENT, SMALLEST_CELLS, SMALLEST_COUNT, choose_windows, log_shares

if TYPE_CHECKING:
    from collections.abc import Sequence

ACCEPTED_P = 0.1
_OWN_CELLS = 24


@final
@dataclass(frozen=True)
class PowerLaw:
    """A fitted law F(epsilon) = prefactor * epsilon ** exponent.

    Attributes:
        exponent: The maximum-likelihood exponent in the window.
        exponent_interval: Its bootstrap interval, in which every resample of the images chooses its own window.
        prefactor: The law's flip rate at epsilon 1, which may exceed 1: a law holds only in its window.
        window: The smallest epsilon measured and the top of the window, in pixel units.
        n: Number of flips in the window.
        p_value: Goodness of fit of the law in the window, by the bootstrap; 0.1 or more, or there would be no law.
        saturated: At the largest epsilon measured the flip rate is significantly below the law: the curve has bent.
        alternatives: Other forms of the curve by name, `saturating` and `log_normal`, each compared with the law.
    """

    exponent: float
    exponent_interval: tuple[float, float]
    prefactor: float
    window: tuple[float, float]
    n: int
    p_value: float
    saturated: bool
    alternatives: dict[str, Alternative] = field(default_factory=dict)

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
    radii: Floats,
    epsilons: Sequence[float] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> PowerLaw | NoPowerLaw:
    """Returns the power law of the flip rate, or the reason why there is none.

    Args:
        radii: One radius an image, (N,); 0 (misclassified when clean) is left out, infinity is never flipped.
        epsilons: The grid on which the radii were measured, (E,); None if they are exact.
        confidence: Of the exponent's interval, and of the saturation.
        resamples: Number of resamples in each of the two bootstraps.
        seed: Seed of the resamples: equal radii have equal fits.

    Raises:
        ValueError: the radii are not a vector, or one is negative or NaN.
    """
    radii = check_radii(radii, empty=True)
    right = radii[radii > 0]
    flips = right[np.isfinite(right)]
    if len(flips) < SMALLEST_COUNT:
        return NoPowerLaw(f"{len(flips)} of {len(right)} images were flipped; a fit needs at least {SMALLEST_COUNT}")
    grid = _own_grid(flips) if epsilons is None else np.unique(np.asarray(epsilons, dtype=np.float64))
    grid = grid[grid > 0]
    counts, log_grid = _count(right, grid), np.log(grid)
    windows = choose_windows(counts[None, :-1], log_grid)
    last, exponent, n = int(windows.last[0]), float(windows.exponent[0]), float(windows.n[0])
    if last < 0:
        return NoPowerLaw(
            f"{len(flips)} flips fall in {np.count_nonzero(counts[:-1])} cells of the grid; "
            f"a fit needs {SMALLEST_COUNT} flips in {SMALLEST_CELLS} cells: measure at smaller epsilons"
        )
    top = float(grid[last])
    log_prefactor = np.log(n / len(right)) - exponent * log_grid[last]
    if not (exponent < LARGEST_EXPONENT * 0.99 and abs(log_prefactor) < 700):
        return NoPowerLaw(f"the radii rise too steeply for a power law (exponent {exponent:.3g}): all are about {top:.3g}")
    generator = np.random.default_rng(seed)
    law = log_shares(exponent, log_grid[: last + 1])
    p_value = _p_value(counts, log_grid, law, float(windows.distance[0]), resamples, generator)
    if p_value < ACCEPTED_P:
        return NoPowerLaw(
            f"a power law does not fit, not even in its best window, up to {top:.3g} (p = {p_value:.2g}, "
            f"{ACCEPTED_P} needed): measure at smaller epsilons"
        )
    interval, saturated = _bootstrap(counts, log_grid, exponent, confidence, resamples, generator)
    return PowerLaw(
        exponent=exponent,
        exponent_interval=interval,
        prefactor=float(np.exp(log_prefactor)),
        window=(float(flips.min()) if epsilons is None else float(grid[0]), top),
        n=int(n),
        p_value=p_value,
        saturated=saturated,
        alternatives=compare_forms(counts, log_grid, law),
    )


def _own_grid(flips: Floats) -> Floats:
    """Returns a geometric grid for exact radii, from that below which 20 lie, or a tenth if they are few, to the largest."""
    lowest = np.quantile(flips, min(SMALLEST_COUNT / len(flips), 0.1))
    return np.unique(np.append(np.geomspace(lowest, flips.max(), _OWN_CELLS)[:-1], flips.max()))


def _count(right: Floats, grid: Floats) -> Floats:
    """Returns the number of radii in (0, grid[0]], (grid[0], grid[1]], ..., and above the grid, (E + 1,)."""
    # The tolerance is for radii stored in less precision than their grid.
    cells = np.searchsorted(grid * (1 + 1e-6), right)
    return np.bincount(cells, minlength=len(grid) + 1).astype(np.float64)


def _p_value(
    counts: Floats, log_grid: Floats, law: Floats, distance: float, resamples: int, generator: np.random.Generator
) -> float:
    """Returns how often data that do follow the law inside its window are as far from a law fitted to them."""
    inside, shares = len(law), counts / counts.sum()
    shares[:inside] = shares[:inside].sum() * np.exp(law)
    drawn = generator.multinomial(int(counts.sum()), shares / shares.sum(), size=resamples)
    windows = choose_windows(drawn[:, :-1].astype(np.float64), log_grid)
    return float((windows.distance[windows.last >= 0] >= distance * (1 - 1e-9)).mean())


def _bootstrap(
    counts: Floats, log_grid: Floats, exponent: float, confidence: float, resamples: int, generator: np.random.Generator
) -> tuple[tuple[float, float], bool]:
    """Returns the exponent's percentile interval, and whether the curve ends below the law, both over resampled images."""
    drawn = generator.multinomial(int(counts.sum()), counts / counts.sum(), size=resamples)[:, :-1].astype(np.float64)
    windows = choose_windows(drawn, log_grid)
    usable = windows.last >= 0
    exponents, tail = windows.exponent[usable], (1 - confidence) / 2
    low, high = np.quantile(exponents, [tail, 1 - tail])
    # ln of the law's flips at the largest epsilon over those seen there: 0 where the window is the whole curve.
    to_the_end = log_grid[-1] - log_grid[windows.last[usable]]
    excess = np.log(windows.n[usable]) + exponents * to_the_end - np.log(drawn[usable].sum(axis=1))
    return (min(float(low), exponent), max(float(high), exponent)), bool(np.quantile(excess, 1 - confidence) > 1e-9)
