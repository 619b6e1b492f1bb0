"""Chooses the window of a curve that a power law describes best, for many tables of flips at once.

A table counts flips in the cells of a grid, (0, e_1], (e_1, e_2], ..., (e_{E-1}, e_E]. A window is (0, e_w]. Under the law,
a share (epsilon / e_w) ** exponent of the images flipped in the window has a radius of at most epsilon.

The window is chosen as by Clauset, Shalizi and Newman, "Power-law distributions in empirical data", SIAM Review 51, 2009,
and Virkar and Clauset, "Power-law distributions in binned empirical data", Annals of Applied Statistics 8, 2014, here for
the lower tail instead of the upper tail. The law is fitted by maximum likelihood in every window. The chosen window has the
smallest Kolmogorov-Smirnov distance between the law and the data, at the points of the grid.

A window must hold a minimum number of flips, in at least 4 cells. The minimum is a fifth of the flips of the table, but not
below 20 and not above 40. Smaller windows would sometimes be chosen by chance. They would make the interval of the exponent
wider by up to two thirds without better coverage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from evaluators.curves.error_curves import Floats

SMALLEST_COUNT = 20
SMALLEST_CELLS = 4
LARGEST_EXPONENT = 1e3
_ROWS = 256  # Number of tables in one array. Arrays that fit into the cache of the processor are about twice as fast.


@final
@dataclass(frozen=True)
class Windows:
    """The chosen windows of R tables. Arrays are (R,).

    Attributes:
        last: Index of the grid point at the top of the window; -1 if no window holds enough flips in enough cells.
        exponent: Maximum-likelihood exponent in the window; NaN if there is no window.
        n: Number of flips in the window; all flips of the table if there is no window.
        distance: Kolmogorov-Smirnov distance between law and data; infinite if there is no window.
    """

    last: NDArray[np.intp]
    exponent: Floats
    n: Floats
    distance: Floats


def choose_windows(counts: Floats, log_grid: Floats) -> Windows:
    """Returns the window with the smallest Kolmogorov-Smirnov distance of each table.

    Args:
        counts: Flips of each table in each cell of the grid, (R, E).
        log_grid: Natural logarithms of the grid, (E,).
    """
    parts = [_choose(counts[start : start + _ROWS], log_grid) for start in range(0, len(counts), _ROWS)]
    return Windows(
        last=np.concatenate([part.last for part in parts]),
        exponent=np.concatenate([part.exponent for part in parts]),
        n=np.concatenate([part.n for part in parts]),
        distance=np.concatenate([part.distance for part in parts]),
    )


def log_shares(exponent: float, log_grid: Floats) -> Floats:
    """Returns the log-probability of each cell under the law, (E,), given a flip at or below the last point of the grid."""
    shares = np.diff(np.exp(exponent * (log_grid - log_grid[-1])), prepend=0.0)
    return np.asarray(np.log(np.maximum(shares, 1e-300)))


def _choose(counts: Floats, log_grid: Floats) -> Windows:
    n = np.cumsum(counts, axis=1)
    enough = np.clip(n[:, -1:] / 5, SMALLEST_COUNT, 2 * SMALLEST_COUNT)
    allowed = (n >= enough) & (np.cumsum(counts > 0, axis=1) >= SMALLEST_CELLS)
    exponents = _exponents(counts, log_grid, allowed)
    # (R, W, E): table, window, grid point. Grid points above the top of a window do not count for its distance.
    below = np.minimum(log_grid - log_grid[:, None], 0.0)
    law = np.exp(exponents[:, :, None] * below)
    data = n[:, None, :] / np.maximum(n, 1.0)[:, :, None]
    distances = np.where(np.tri(len(log_grid), dtype=bool), np.abs(law - data), 0.0).max(axis=2)
    distances = np.where(allowed, distances, np.inf)
    # Of equally good windows, take the largest.
    last = len(log_grid) - 1 - distances[:, ::-1].argmin(axis=1)
    last = np.where(allowed.any(axis=1), last, -1)
    rows = np.arange(len(counts))
    return Windows(
        last=last,
        exponent=np.where(last >= 0, exponents[rows, last], np.nan),
        n=n[rows, last],
        distance=distances[rows, last],
    )


def _exponents(counts: Floats, log_grid: Floats, allowed: NDArray[np.bool_]) -> Floats:
    """Returns the maximum-likelihood exponent in every window, (R, W); 1 in windows that are not allowed.

    Let d_j = ln(e_j / e_{j-1}). The derivative of the log-likelihood in window w is A - B. A is the sum over cells j = 2..w
    of count_j * d_j / (exp(exponent * d_j) - 1). B is the sum over cells j <= w of count_j * ln(e_w / e_j). A - B
    decreases in the exponent, so its root is unique. On a geometric grid the root has a closed form. On other grids this
    form is the starting point of Newton's method.
    """
    steps = np.diff(log_grid)
    mean_step = (log_grid[-1] - log_grid[0]) / max(len(steps), 1)
    inner = counts[:, 1:]
    # Logarithms relative to the first grid point: the rounding of the sums then does not depend on the units of epsilon.
    height = log_grid - log_grid[0]
    wanted = np.cumsum(counts, axis=1) * height - np.cumsum(counts * height, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        start = np.log1p((np.cumsum(counts, axis=1) - counts[:, :1]) * mean_step / wanted) / mean_step
    exponents = np.where(allowed, np.clip(start, 1 / LARGEST_EXPONENT, LARGEST_EXPONENT), 1.0)
    cells = np.tri(len(log_grid), len(steps), -1)  # (W, E - 1): which cells after the first lie in each window.
    for _ in range(50):
        terms = steps / np.expm1(np.minimum(exponents[:, :, None] * steps, 500.0))
        slope = np.einsum("rj,rwj,wj->rw", inner, terms, cells) - wanted
        curvature = np.einsum("rj,rwj,wj->rw", inner, terms * (terms + steps), cells)
        # Newton's step on the logarithm of the exponent. The bound on the curvature guards against a flat likelihood.
        step = np.where(allowed, slope / np.maximum(curvature * exponents, 1e-300), 0.0)
        exponents = np.clip(exponents * np.exp(np.clip(step, -1.0, 1.0)), 1 / LARGEST_EXPONENT, LARGEST_EXPONENT)
        if np.abs(step).max() < 1e-9:
            break
    return exponents
