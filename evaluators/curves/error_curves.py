"""Error curves: adversarial error and flip rate as functions of epsilon, from radii, with exact intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Floats = NDArray[np.float64]
# A radius is within epsilon if it is at most epsilon times this factor: 0.1 + 0.2 must be within 0.3.
ROUNDING = 1 + 1e-9


def in_grid(epsilon: float, grid: Iterable[float]) -> bool:
    """Returns whether a grid holds an epsilon, up to rounding."""
    return any(math.isclose(epsilon, other, rel_tol=1e-9) for other in grid)


@final
@dataclass(frozen=True)
class ErrorCurve:
    """The error of one network under one attack, at E epsilons.

    Attributes:
        epsilons: Grid of epsilons, in pixel units, (E,).
        n: Number of images.
        right: Number of images that are correctly classified when clean.
        error: Share of all images that are misclassified within epsilon, (E,), between 0 and 1.
        error_interval: Clopper-Pearson interval of the error, (E, 2).
        flip_rate: Share of the correctly classified clean images that are misclassified within epsilon, (E,); NaN if no
            image is correctly classified.
        flip_interval: Clopper-Pearson interval of the flip rate, (E, 2); NaN if no image is correctly classified.
    """

    epsilons: Floats
    n: int
    right: int
    error: Floats
    error_interval: Floats
    flip_rate: Floats
    flip_interval: Floats


def check_confidence(confidence: float) -> None:
    """Checks that a confidence level is between 0 and 1.

    Raises:
        ValueError: confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence:g}; use 0.95 rather than 95")


def binomial_interval(successes: Floats, n: int, confidence: float = 0.95) -> Floats:
    """Returns the exact (Clopper-Pearson) interval of the shares successes/n, (..., 2).

    Args:
        successes: Counts between 0 and n, (...).
        n: Number of trials of each count.
        confidence: Confidence level, between 0 and 1.

    Raises:
        ValueError: confidence is not between 0 and 1.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934.
    """
    from scipy.stats import beta  # Slow to import.

    check_confidence(confidence)
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore"):
        low = np.where(successes > 0, beta.ppf(tail, successes, n - successes + 1), 0.0)
        high = np.where(successes < n, beta.ppf(1 - tail, successes + 1, n - successes), 1.0)
    return np.stack([low, high], axis=-1)


def check_radii(radii: Floats, *, empty: bool = False) -> Floats:
    """Checks radii and returns them as float64, (N,).

    Args:
        radii: One radius per image, (N,).
        empty: Accept N = 0.

    Raises:
        ValueError: radii is not a vector, is empty although `empty` is False, or holds a negative number or NaN.
    """
    vector = np.asarray(radii, dtype=np.float64)
    if vector.ndim != 1 or not (empty or len(vector)) or np.isnan(vector).any() or (vector < 0).any():
        wanted = "numbers" if empty else "at least one number"
        raise ValueError(f"radii must be a vector of {wanted}, none of them negative or NaN")
    return vector


def error_curve(radii: Floats, epsilons: Sequence[float], confidence: float = 0.95) -> ErrorCurve:
    """Returns the error curve of radii on a grid of epsilons.

    The error at epsilon is the share of radii of at most epsilon. At epsilon 0 it is the clean error. It never falls as
    epsilon grows.

    Args:
        radii: One radius per image, in pixel units, (N,): 0 if misclassified when clean, infinite if never fooled.
        epsilons: Grid of epsilons, in pixel units, (E,).
        confidence: Confidence level of the intervals, between 0 and 1.

    Raises:
        ValueError: radii is empty, a radius or an epsilon is negative or NaN, or confidence is not between 0 and 1.

    Example:
        >>> from evaluators import error_curve
        >>> curve = error_curve([0, 0.1, 0.2, float("inf")], epsilons=[0.1, 0.2])
        >>> curve.error
        array([0.5 , 0.75])
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
    """Returns the smallest radius of each image over several attacks, (N,).

    Args:
        radii: Radii of the same images under each attack, (N,) each.

    Raises:
        ValueError: radii is empty, or the attacks have different numbers of images.

    Example:
        >>> from evaluators import worst_case
        >>> worst_case([[0.1, 0.3], [0.2, 0.2]])
        array([0.1, 0.2])
    """
    smallest: Floats = np.stack([np.asarray(r, dtype=np.float64) for r in radii]).min(axis=0)
    return smallest
