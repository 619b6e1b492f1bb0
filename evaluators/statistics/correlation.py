"""Rank correlations between two metrics over many networks, with intervals.

Rank correlations do not assume a linear relation or a common scale. Intervals are percentile bootstrap intervals over the
networks.

Sources: Spearman, "The proof and measurement of association between two things", American Journal of Psychology 15, 1904;
Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1979.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from evaluators.curves.error_curves import Floats, check_confidence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# With fewer networks the percentile interval is far too narrow.
ENOUGH = 8
# If fewer values than this differ from the most common value, many resamples are constant and have no correlation.
APART = 5
_RESAMPLES = 2000


@final
@dataclass(frozen=True)
class RankCorrelation:
    """A rank correlation, or the difference between two absolute rank correlations.

    Attributes:
        n: Number of networks.
        value: Correlation or difference, between -1 and 1; None if one of the metrics does not vary.
        interval: Percentile interval over the networks; None with fewer than `ENOUGH` networks or if the ranks agree
            completely or are exactly reversed. It is also None if fewer than `APART` networks differ from the most common
            value of a metric.
    """

    n: int
    value: float | None
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        """Returns the value and the interval as text, such as '+0.84 (+0.66 to +0.92)'."""
        if self.value is None:
            return "none, because one metric is constant"
        if self.interval is None:
            return f"{self.value:+.2f} (n = {self.n}, no interval)"
        return f"{self.value:+.2f} ({self.interval[0]:+.2f} to {self.interval[1]:+.2f})"


def rank_correlation(x: Sequence[float], y: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> RankCorrelation:
    """Returns Spearman's rank correlation of two metrics, with an interval. Ties get their mean rank.

    Args:
        x: Metric of each network, (N,).
        y: Another metric of the same networks, (N,).
        confidence: Confidence level of the interval, between 0 and 1.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: x and y are not vectors of equal length of finite numbers, or confidence is not between 0 and 1.

    Example:
        >>> from evaluators import rank_correlation
        >>> rank_correlation([0.1, 0.2, 0.3, 0.4], [1, 2, 4, 3]).value
        0.8
    """
    return _with_interval(_spearman, _checked(x, y), confidence, seed)


def stronger_correlation(
    x: Sequence[float], other: Sequence[float], y: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> RankCorrelation:
    """Returns the absolute rank correlation of x with y, minus that of another metric with y, with an interval.

    Both correlations use the same bootstrap samples of networks. The value is positive if x has the stronger correlation.

    Args:
        x: Metric of each network, (N,).
        other: Metric to compare with x, of the same networks, (N,).
        y: Metric that the two are correlated with, (N,).
        confidence: Confidence level of the interval, between 0 and 1.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: x, other and y are not vectors of equal length of finite numbers, or confidence is not between 0 and 1.
    """

    def difference(samples: Floats) -> Floats:
        return np.asarray(np.abs(_spearman(samples[[0, 2]])) - np.abs(_spearman(samples[[1, 2]])))

    return _with_interval(difference, _checked(x, other, y), confidence, seed)


def _checked(*vectors: Sequence[float]) -> Floats:
    arrays = [np.asarray(vector, dtype=np.float64) for vector in vectors]
    shapes = [vector.shape for vector in arrays]
    if any(len(shape) != 1 or shape != shapes[0] or not shape[0] for shape in shapes):
        raise ValueError(f"metrics must be vectors of equal length, one number per network, got shapes {shapes}")
    if not all(np.isfinite(vector).all() for vector in arrays):
        raise ValueError("metrics must be finite; leave out networks with a metric that is not finite")
    return np.stack(arrays)


def _with_interval(statistic: Callable[[Floats], Floats], values: Floats, confidence: float, seed: int) -> RankCorrelation:
    """Returns a statistic of values (V, N) with a bootstrap interval over the N networks.

    Args:
        statistic: Maps S samples (V, S, N) to their statistics (S,).
        values: V metrics of N networks, (V, N).
        confidence: Confidence level of the interval, between 0 and 1.
        seed: Seed of the bootstrap.
    """
    check_confidence(confidence)
    count = values.shape[1]
    correlation = float(statistic(values[:, None])[0])
    if np.isnan(correlation):
        return RankCorrelation(count, None, None)
    uncommon = min(count - int(np.unique(row, return_counts=True)[1].max()) for row in values)
    if count < ENOUGH or uncommon < APART or abs(correlation) > 1 - 1e-9:
        return RankCorrelation(count, correlation, None)
    resampled = statistic(values[:, np.random.default_rng(seed).integers(count, size=(_RESAMPLES, count))])
    low, high = np.quantile(resampled[~np.isnan(resampled)], [(1 - confidence) / 2, (1 + confidence) / 2])
    return RankCorrelation(count, correlation, (float(low), float(high)))


def _spearman(samples: Floats) -> Floats:
    """Returns the rank correlations (S,) of S samples of pairs (2, S, N); NaN if one of the two metrics does not vary."""
    from scipy.stats import rankdata  # Slow to import.

    ranks = rankdata(samples, axis=-1)
    ranks -= ranks.mean(-1, keepdims=True)
    both = np.sqrt((ranks**2).sum(-1).prod(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(both > 0, ranks.prod(0).sum(-1) / both, np.nan).clip(-1, 1))
