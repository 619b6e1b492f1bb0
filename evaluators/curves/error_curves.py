"""Error curves: adversarial error and flip rate as functions of epsilon, from radii, with exact intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Floats = NDArray[np.float64]
# An epsilon counts as reached by radii that rounding has put this little above it: 0.1 + 0.2 is 0.3.
ROUNDING = 1 + 1e-9


def in_grid(epsilon: float, grid: Iterable[float]) -> bool:
    """Returns whether an epsilon is one of a grid, but for rounding."""
    return any(math.isclose(epsilon, other, rel_tol=1e-9) for other in grid)


@final
@dataclass(frozen=True)
class ErrorCurve:
    """The error of one network under one attack. Arrays are (E,), one entry an epsilon; intervals are (E, 2).

    Attributes:
        epsilons: The grid, in pixel units.
        n: Number of images.
        right: Number of images that are classified rightly when clean.
        error: Share of the images that are misclassified within epsilon.
        error_interval: Clopper-Pearson interval of the error.
        flip_rate: The same share among the images that are right when clean; NaN if there are none.
        flip_interval: Clopper-Pearson interval of the flip rate.
    """

    epsilons: Floats
    n: int
    right: int
    error: Floats
    error_interval: Floats
    flip_rate: Floats
    flip_interval: Floats


def check_confidence(confidence: float) -> None:
    """Checks that a confidence is a share.

    Raises:
        ValueError: it is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1: 0.95 rather than 95, got {confidence:g}")


def binomial_interval(successes: Floats, n: int, confidence: float = 0.95) -> Floats:
    """Returns the exact (Clopper-Pearson) interval of shares successes/n, shaped (..., 2).

    Source: Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934.

    Raises:
        ValueError: confidence is not between 0 and 1.
    """
    check_confidence(confidence)
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore"):
        low = np.where(successes > 0, beta.ppf(tail, successes, n - successes + 1), 0.0)
        high = np.where(successes < n, beta.ppf(1 - tail, successes + 1, n - successes), 1.0)
    return np.stack([low, high], axis=-1)


def check_radii(radii: Floats, *, empty: bool = False) -> Floats:
    """Returns radii, one an image, as a vector of float64, (N,), after a look at them; `empty` lets there be none.

    Raises:
        ValueError: they are not a vector, there are none, or one is negative or NaN.
    """
    vector = np.asarray(radii, dtype=np.float64)
    if vector.ndim != 1 or not (empty or len(vector)) or np.isnan(vector).any() or (vector < 0).any():
        wanted = "numbers" if empty else "at least one number"
        raise ValueError(f"radii must be a vector of {wanted}, none of them negative or NaN")
    return vector


def error_curve(radii: Floats, epsilons: Sequence[float], confidence: float = 0.95) -> ErrorCurve:
    """Returns the error curve of radii (N,) on a grid of epsilons (E,).

    The error is the share of radii at most epsilon: it starts at the clean error and never falls.

    Raises:
        ValueError: there are no radii, or one of them or of the epsilons is negative or NaN.
    """
    radii = check_radii(radii)
    grid = np.asarray(epsilons, dtype=np.float64)
    if np.isnan(grid).any() or (grid < 0).any():
        raise ValueError(f"epsilons must be numbers of at least 0, got {list(epsilons)}")
    wrong = np.searchsorted(np.sort(radii), grid * ROUNDING, side="right").astype(np.float64)
    clean_wrong = int((radii == 0).sum())
    n, right = len(radii), len(radii) - clean_wrong
    flipped = wrong - clean_wrong
    return ErrorCurve(
        epsilons=grid,
        n=n,
        right=right,
        error=wrong / n,
        error_interval=binomial_interval(wrong, n, confidence),
        flip_rate=flipped / right if right else np.full(len(grid), np.nan),
        flip_interval=binomial_interval(flipped, right, confidence) if right else np.full((len(grid), 2), np.nan),
    )


def worst_case(radii: Sequence[Floats]) -> Floats:
    """Returns the pointwise worst case over attacks: each image's smallest radius, (N,)."""
    smallest: Floats = np.stack([np.asarray(r, dtype=np.float64) for r in radii]).min(axis=0)
    return smallest
