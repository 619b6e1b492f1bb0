"""Paired tests of the robustness of two networks on the same images, at one epsilon and over all epsilons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from evaluators.curves.error_curves import ROUNDING, check_confidence, check_radii

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evaluators.curves.error_curves import Floats


@final
@dataclass(frozen=True)
class Comparison:
    """Comparison of two networks on the same images at one epsilon.

    Attributes:
        difference: Adversarial error of the first network minus that of the second, in [-1, 1]. It is negative if the first
            network is more robust.
        interval: Tango's score interval of the difference.
        p_value: Two-sided p-value of the exact McNemar test.
        n: Number of images.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float
    n: int

    def verdict(self, level: float = 0.05) -> str:
        """Returns 'more robust' or 'less robust' for the first network, or 'not distinguishable' if p_value >= level."""
        return _verdict(-self.difference, self.p_value, level)


@final
@dataclass(frozen=True)
class RadiiComparison:
    """Comparison of two networks on the same images over all epsilons.

    Attributes:
        effect: Share of images with a larger radius under the first network, minus the share with a larger radius under the
            second, in [-1, 1]. It is positive if the first network is more robust.
        interval: Tango's score interval of the effect.
        p_value: Two-sided p-value of the exact sign test.
        median_ratio: Median radius of the first network over that of the second; None unless both are finite and above 0.
        ties: Number of images with equal radii.
        n: Number of images.
    """

    effect: float
    interval: tuple[float, float]
    p_value: float
    median_ratio: float | None
    ties: int
    n: int

    def verdict(self, level: float = 0.05) -> str:
        """Returns 'more robust' or 'less robust' for the first network, or 'not distinguishable' if p_value >= level."""
        return _verdict(self.effect, self.p_value, level)


def compare(first: Floats, second: Floats, epsilon: float, confidence: float = 0.95) -> Comparison:
    """Compares the adversarial errors of two networks at epsilon on the same images.

    The p-value is exact and the interval is approximate. If p is near 0.05, the two may disagree about significance.

    Args:
        first: Radii of the first network, in pixel units, (N,).
        second: Radii of the second network on the same images, in pixel units, (N,).
        epsilon: Size of the perturbation, in pixel units.
        confidence: Confidence level of the interval, between 0 and 1.

    Raises:
        ValueError: the numbers of images differ or are 0, a radius or epsilon is negative or NaN, or confidence is not
            between 0 and 1.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12, 1947.

    Example:
        >>> import numpy as np
        >>> from evaluators import compare
        >>> first, second = np.full(200, 0.3), np.repeat([0.1, 0.3], [20, 180])
        >>> result = compare(first, second, epsilon=0.1)
        >>> result.difference, result.verdict()
        (-0.1, 'more robust')
    """
    first, second = _paired(first, second)
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0, got {epsilon:g}")
    wrong_first, wrong_second = first <= epsilon * ROUNDING, second <= epsilon * ROUNDING
    only_first = int((wrong_first & ~wrong_second).sum())
    only_second = int((wrong_second & ~wrong_first).sum())
    return Comparison(
        difference=(only_first - only_second) / len(first),
        interval=paired_interval(only_first, only_second, len(first), confidence),
        p_value=_sign_test(only_first, only_second),
        n=len(first),
    )


def compare_radii(
    first: Floats, second: Floats, epsilons: Sequence[float] | None = None, confidence: float = 0.95
) -> RadiiComparison:
    """Compares the radii of two networks on the same images, over all epsilons, with the exact sign test.

    The sign test uses only which network has the larger radius on each image. So it is valid for radii on a grid, radii of 0
    (misclassified when clean) and infinite radii (never fooled up to the largest epsilon). It does not depend on the units
    or the scale of epsilon. Equal radii are ties and do not count. Rank tests (Wilcoxon's
    signed-rank test, or the Prentice-Wilcoxon test for censored pairs) have more power if few radii are censored. But the
    first depends on the scale (epsilon or its logarithm), and both depend on how equal radii are ranked.

    With a single epsilon and no misclassified clean images, the sign test is the McNemar test of `compare`.

    Args:
        first: Radii of the first network, in pixel units, (N,).
        second: Radii of the second network on the same images, in pixel units, (N,).
        epsilons: Epsilons at which both networks were measured, if their grids differ; None if all radii are exact or on the
            same grid. Each radius is rounded up to the next of these epsilons, and to infinity above the largest. Without
            this, the network with the coarser or shorter grid would look too robust.
        confidence: Confidence level of the interval of the effect, between 0 and 1.

    Raises:
        ValueError: the numbers of images differ or are 0, a radius or an epsilon is negative or NaN, no epsilon is above 0,
            or confidence is not between 0 and 1.

    Example:
        >>> import numpy as np
        >>> from evaluators import compare_radii
        >>> first, second = np.full(200, 0.3), np.repeat([0.1, 0.3], [20, 180])
        >>> result = compare_radii(first, second)
        >>> result.effect, result.verdict()
        (0.1, 'more robust')
    """
    first, second = _paired(first, second)
    if epsilons is not None:
        first, second = _round_up(first, epsilons), _round_up(second, epsilons)
    larger, smaller = int((first > second).sum()), int((first < second).sum())
    medians = float(np.median(first)), float(np.median(second))
    return RadiiComparison(
        effect=(larger - smaller) / len(first),
        interval=paired_interval(larger, smaller, len(first), confidence),
        p_value=_sign_test(larger, smaller),
        median_ratio=medians[0] / medians[1] if all(0 < median < math.inf for median in medians) else None,
        ties=len(first) - larger - smaller,
        n=len(first),
    )


def paired_interval(only_first: int, only_second: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns Tango's score interval of the difference between two paired shares, (only_first - only_second) / n.

    Args:
        only_first: Number of pairs of which only the first member is counted: images that only one network misclassifies.
        only_second: Number of pairs of which only the second member is counted.
        n: Number of pairs, at least 1.
        confidence: Confidence level, between 0 and 1.

    Raises:
        ValueError: confidence is not between 0 and 1.

    Source: Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
    Statistics in Medicine 17, 1998.
    """
    check_confidence(confidence)
    z = float(ndtri(0.5 + confidence / 2))

    def score(difference: float) -> float:
        """Returns by how many standard errors the observed difference is above `difference`."""
        # Maximum-likelihood probability that only the second member is counted, if the true difference is `difference`.
        b = (2 * n - only_first + only_second) * difference - only_first - only_second
        c = -only_second * difference * (1 - difference)
        second = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * max(2 * second + difference * (1 - difference), 1e-12)
        return (only_first - only_second - n * difference) / math.sqrt(variance)

    observed = (only_first - only_second) / n
    low = -1.0 if only_second == n else brentq(lambda difference: score(difference) - z, -1.0, observed)
    high = 1.0 if only_first == n else brentq(lambda difference: score(difference) + z, observed, 1.0)
    return float(low), float(high)


def _paired(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    if len(first) != len(second):
        raise ValueError(f"radii must belong to the same images, got {len(first)} and {len(second)} radii")
    return check_radii(first), check_radii(second)


def _round_up(radii: Floats, epsilons: Sequence[float]) -> Floats:
    grid = np.unique(np.asarray(epsilons, dtype=np.float64))
    if not (grid >= 0).all():
        raise ValueError(f"epsilons must be at least 0, got {grid[~(grid >= 0)][0]:g}")
    grid = grid[grid > 0]
    if len(grid) == 0:
        raise ValueError("epsilons must hold at least one value above 0")
    # The tolerance allows for radii stored with less precision than their grid.
    rounded: Floats = np.append(grid, np.inf)[np.searchsorted(grid * (1 + 1e-6), radii)]
    return np.where(radii > 0, rounded, 0.0)


def _sign_test(one: int, other: int) -> float:
    from scipy.stats import binomtest  # Slow to import.

    return float(binomtest(one, one + other).pvalue) if one + other else 1.0


def _verdict(advantage: float, p_value: float, level: float) -> str:
    if p_value >= level or advantage == 0:
        return "not distinguishable"
    return "more robust" if advantage > 0 else "less robust"
