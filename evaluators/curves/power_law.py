"""The power law of the flip rate, F(epsilon) = prefactor * epsilon ** exponent, by maximum likelihood.

Cubuk et al. (arXiv:1711.02846) find that adversarial error grows as a power of the size of the perturbation. Here the law
is fitted to the flip rate: the share of correctly classified images that are flipped within epsilon. Unlike the error, it
is 0 at epsilon 0, as a power law is.

**Window.** The law is fitted in a window (0, top]. Among the images with radius at most top, the share with radius at most
epsilon is (epsilon / top) ** exponent. The top with the least Kolmogorov-Smirnov distance between law and data is chosen
(`power_law_window`).

**Estimate.** Radii on a grid are interval-censored: only the cell between two grid points is known. Exact radii are counted
on a fine grid made for this purpose. The result differs from Hill's estimate for exact radii by a few hundredths of its
standard error.

**Test.** A fit is rejected if p < 0.1 in the semi-parametric bootstrap of Clauset et al. Each draw takes radii from the law
inside the window and from the measured curve above the window. The window is chosen again for each draw. A rejected law is
returned as well: its exponent still shows how steeply the curve rises, but the curve is not a power law.

**Intervals.** The intervals of the exponent and of the prefactor are percentile intervals over the same resamples of the
images. The window is chosen again for each resample, so the intervals include the uncertainty of the window. The prefactor
is the flip rate of the law at epsilon 1, far above the window. So it moves with the exponent, and its interval is wide.

`tests/benchmarks/coverage.py` measures the coverage of the 95 % interval, in 300 draws of 200 to 10,000 images each:

| curve of the flip rate | exponent that is compared | coverage |
| --- | --- | --- |
| a power law up to some epsilon | that of the law | 96 to 99 % |
| any of the curves | that of the law nearest to the curve in the chosen window | 94 to 100 % |
| 1 - exp(-e), 1 - exp(-e^2) | the limit at epsilon 0 | 91 to 98 % |
| e / (1 + e) | the limit at epsilon 0 | 90 to 96 %; 78 to 84 % with 200 images |

The limit at epsilon 0 is that of d ln(flip rate) / d ln(epsilon). On the last two rows, the fitted exponent tends to be
lower than the limit: by 2 % with 10,000 images, by 10 to 20 % with 200 images. Curves of the first row are rejected in 5 to
8 % of the draws, those of the last two rows in 6 to 16 %.

A curve may have no finite limit, for example if radii are log-normal. A law is still fitted to log-normal radii in three
quarters of the draws of 200 to 1,000 images, and in a third of the draws of 10,000. So a fit alone does not show a law near
epsilon 0.

Source: Clauset, Shalizi and Newman, "Power-law distributions in empirical data", SIAM Review 51, 2009; Hill, "A simple
general approach to inference about the tail of a distribution", Annals of Statistics 3, 1975, here for the lower tail.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np

from evaluators.curves.alternatives import Alternative, compare_forms
from evaluators.curves.error_curves import Floats, check_confidence, check_radii
from evaluators.curves.power_law_window import LARGEST_EXPONENT, SMALLEST_CELLS, SMALLEST_COUNT, choose_windows, log_shares

if TYPE_CHECKING:
    from collections.abc import Sequence

# Smallest p-value at which a fit is accepted.
ACCEPTED_P = 0.1
_OWN_CELLS = 24
# Largest absolute logarithm of a prefactor: its exponential is a finite number above 0.
_LARGEST_LOG = 700.0


@final
@dataclass(frozen=True)
class PowerLaw:
    """A fitted power law of the flip rate, F(epsilon) = prefactor * epsilon ** exponent.

    Attributes:
        exponent: Maximum-likelihood exponent in the window, above 0.
        exponent_interval: Bootstrap interval of the exponent. The window is chosen again for each resample of the images.
        prefactor: Flip rate of the law at epsilon 1. It may exceed 1, because the law holds only in its window.
        window: Smallest measured epsilon above 0, and the top of the window, in pixel units. With exact radii, the smallest
            radius above 0 and the top.
        n: Number of flips in the window.
        p_value: Bootstrap p-value of the goodness of fit in the window. Below 0.1, the fit is rejected.
        saturated: Whether the flip rate at the largest measured epsilon is significantly below the law.
        alternatives: Fits of other forms of the curve, `saturating` and `log_normal`, each compared with the law.
        prefactor_interval: Bootstrap interval of the prefactor, from the same resamples as `exponent_interval`. None if the
            law was read from a profile of an older version.
    """

    exponent: float
    exponent_interval: tuple[float, float]
    prefactor: float
    window: tuple[float, float]
    n: int
    p_value: float
    saturated: bool
    alternatives: dict[str, Alternative] = field(default_factory=dict)
    prefactor_interval: tuple[float, float] | None = None

    @property
    def fit(self) -> Literal["accepted", "rejected"]:
        """Result of the test of the fit."""
        return "accepted" if self.p_value >= ACCEPTED_P else "rejected"

    def __call__(self, epsilons: Floats) -> Floats:
        """Returns the flip rate of the law at epsilons of any shape, in pixel units; it may exceed 1 beyond the window."""
        return np.asarray(self.prefactor * np.asarray(epsilons) ** self.exponent)


@final
@dataclass(frozen=True)
class NoPowerLaw:
    """The result if no power law can be fitted.

    Attributes:
        reason: Reason why no law is fitted, with its numbers.
        fit: too_few (flips, or cells of the grid that they fall in), or too_steep (all radii are about equal).
    """

    reason: str
    fit: Literal["too_few", "too_steep"] = "too_few"


def law_record(law: PowerLaw | NoPowerLaw) -> dict[str, Any]:
    """Returns a power law, or the reason why there is none, as plain data with the key `fit`."""
    return {"fit": law.fit, **asdict(law)}


def fit_power_law(
    radii: Floats,
    epsilons: Sequence[float] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> PowerLaw | NoPowerLaw:
    """Fits a power law to the flip rate, and returns the law or the reason why none can be fitted.

    A law that the test of the fit rejects is returned as well, with `fit` "rejected".

    Args:
        radii: One radius per image, in pixel units, (N,). Radii of 0 (misclassified when clean) are left out; an infinite
            radius is an image that is never flipped.
        epsilons: Grid on which the radii were measured, in pixel units, (E,); None if the radii are exact.
        confidence: Confidence level of the two intervals and of the test of saturation, between 0 and 1.
        resamples: Number of resamples in each of the two bootstraps.
        seed: Seed of the resamples. Equal radii with an equal seed give equal fits.

    Raises:
        ValueError: radii is not a vector, a radius is negative or NaN, or confidence is not between 0 and 1.

    Example:
        >>> import numpy as np
        >>> from evaluators import fit_power_law
        >>> radii = np.linspace(0, 1, 2001)[1:] ** 0.5  # Flip rate epsilon ** 2.
        >>> law = fit_power_law(radii, resamples=200)
        >>> f"{law.exponent:.1f}, {law.prefactor:.1f}"
        '2.0, 1.0'
    """
    check_confidence(confidence)
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
    if not (exponent < LARGEST_EXPONENT * 0.99 and abs(log_prefactor) < _LARGEST_LOG):
        reason = f"the flip rate rises too steeply (exponent {exponent:.3g}): all radii are about {top:.3g}"
        return NoPowerLaw(reason, "too_steep")
    generator = np.random.default_rng(seed)
    law = log_shares(exponent, log_grid[: last + 1])
    p_value = _p_value(counts, log_grid, law, float(windows.distance[0]), resamples, generator)
    exponents, log_prefactors, saturated = _bootstrap(counts, log_grid, confidence, resamples, generator)
    log_low, log_high = _interval(log_prefactors, float(log_prefactor), confidence)
    return PowerLaw(
        exponent=exponent,
        exponent_interval=_interval(exponents, exponent, confidence),
        prefactor=float(np.exp(log_prefactor)),
        window=(float(flips.min()) if epsilons is None else float(grid[0]), top),
        n=int(n),
        p_value=p_value,
        saturated=saturated,
        alternatives=compare_forms(counts, log_grid, law),
        prefactor_interval=(float(np.exp(log_low)), float(np.exp(log_high))),
    )


def _own_grid(flips: Floats) -> Floats:
    """Returns a geometric grid for exact radii, (E,).

    It starts at the radius below which 20 radii lie (10 % of the radii if they are fewer than 200). It ends at the largest
    radius.
    """
    lowest = np.quantile(flips, min(SMALLEST_COUNT / len(flips), 0.1))
    return np.unique(np.append(np.geomspace(lowest, flips.max(), _OWN_CELLS)[:-1], flips.max()))


def _count(right: Floats, grid: Floats) -> Floats:
    """Returns the number of radii in (0, grid[0]], (grid[0], grid[1]], ..., and above the grid, (E + 1,)."""
    # The tolerance allows for radii stored with less precision than their grid.
    cells = np.searchsorted(grid * (1 + 1e-6), right)
    return np.bincount(cells, minlength=len(grid) + 1).astype(np.float64)


def _p_value(
    counts: Floats, log_grid: Floats, law: Floats, distance: float, resamples: int, generator: np.random.Generator
) -> float:
    """Returns the bootstrap p-value: the share of simulated data sets whose distance to their own fit is >= `distance`."""
    inside, shares = len(law), counts / counts.sum()
    shares[:inside] = shares[:inside].sum() * np.exp(law)
    drawn = generator.multinomial(int(counts.sum()), shares / shares.sum(), size=resamples)
    windows = choose_windows(drawn[:, :-1].astype(np.float64), log_grid)
    return float((windows.distance[windows.last >= 0] >= distance * (1 - 1e-9)).mean())


def _bootstrap(
    counts: Floats, log_grid: Floats, confidence: float, resamples: int, generator: np.random.Generator
) -> tuple[Floats, Floats, bool]:
    """Fits the law to resamples of the images.

    Returns the exponents and the logarithms of the prefactors, (R,) each, for the R resamples that have a window, and
    whether the curve ends below the law.
    """
    n = int(counts.sum())
    drawn = generator.multinomial(n, counts / n, size=resamples)[:, :-1].astype(np.float64)
    windows = choose_windows(drawn, log_grid)
    usable = windows.last >= 0
    exponents, tops = windows.exponent[usable], log_grid[windows.last[usable]]
    log_prefactors = np.log(windows.n[usable] / n) - exponents * tops
    # ln of the ratio of predicted to measured flips at the largest epsilon; 0 if the window is the whole curve.
    excess = np.log(windows.n[usable]) + exponents * (log_grid[-1] - tops) - np.log(drawn[usable].sum(axis=1))
    return exponents, log_prefactors.clip(-_LARGEST_LOG, _LARGEST_LOG), bool(np.quantile(excess, 1 - confidence) > 1e-9)


def _interval(values: Floats, estimate: float, confidence: float) -> tuple[float, float]:
    """Returns the percentile interval of bootstrap values (R,), extended to the estimate if that lies outside."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return min(float(low), estimate), max(float(high), estimate)
