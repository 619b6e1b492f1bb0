"""Rank correlations with intervals: how far one number of a network goes with another, over many networks.

Ranks ask for no straight line, and not for one scale. The interval is a percentile bootstrap's over the networks.

Sources: Spearman, "The proof and measurement of association between two things", American Journal of Psychology 15, 1904;
Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1979.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.stats import rankdata

from evaluators.curves.error_curves import Floats, check_confidence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Of fewer pairs the percentile interval is far too narrow.
ENOUGH = 8
# Where fewer values than this differ from the commonest one, samples drawn again lack them often, and say nothing.
APART = 5
_RESAMPLES = 2000


@final
@dataclass(frozen=True)
class RankCorrelation:
    """A rank correlation, or by how much one is stronger than another.

    Attributes:
        n: Number of networks.
        value: Between -1 and 1; None where there is none, as one of the two numbers does not vary.
        interval: Percentile interval over the networks; None of fewer than `ENOUGH`, where the ranks agree wholly, or where
            one of the numbers is the same for all networks but fewer than `APART`.
    """

    n: int
    value: float | None
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        """Returns it as it is told, such as '+0.84 (+0.66 to +0.92)'."""
        if self.value is None:
            return "none, as one does not vary"
        if self.interval is None:
            return f"{self.value:+.2f} (of {self.n}, no interval)"
        return f"{self.value:+.2f} ({self.interval[0]:+.2f} to {self.interval[1]:+.2f})"


def rank_correlation(x: Sequence[float], y: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> RankCorrelation:
    """Returns Spearman's rank correlation of numbers (N,) with others (N,), ties sharing their mean rank.

    Args:
        x: One number of each network.
        y: Another, in the same order.
        confidence: Of the interval.
        seed: Of the samples drawn again.

    Raises:
        ValueError: x and y are not two vectors of one length of finite numbers, or confidence is not between 0 and 1.
    """
    return _with_interval(_spearman, _checked(x, y), confidence, seed)


def stronger_correlation(
    x: Sequence[float], other: Sequence[float], y: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> RankCorrelation:
    """Returns how much more x (N,) goes with y (N,) than another number (N,) does: the difference of absolute correlations.

    Args:
        x: One number of each network.
        other: Another one, to compare with.
        y: What the two go with.
        confidence: Of the interval, which is of the same networks drawn again for both.
        seed: Of the samples drawn again.

    Raises:
        ValueError: as for `rank_correlation`.
    """

    def apart(samples: Floats) -> Floats:
        return np.asarray(np.abs(_spearman(samples[[0, 2]])) - np.abs(_spearman(samples[[1, 2]])))

    return _with_interval(apart, _checked(x, other, y), confidence, seed)


def _checked(*vectors: Sequence[float]) -> Floats:
    arrays = [np.asarray(vector, dtype=np.float64) for vector in vectors]
    shapes = [vector.shape for vector in arrays]
    if any(len(shape) != 1 or shape != shapes[0] or not shape[0] for shape in shapes):
        raise ValueError(f"ranks are correlated over vectors of one length, one number a network; got shapes {shapes}")
    if not all(np.isfinite(vector).all() for vector in arrays):
        raise ValueError("ranks are correlated of finite numbers; leave out the networks of which one is not")
    return np.stack(arrays)


def _with_interval(statistic: Callable[[Floats], Floats], values: Floats, confidence: float, seed: int) -> RankCorrelation:
    """Returns a statistic of values (V, S, N), (S,), of one sample (V, N) with an interval over the N."""
    check_confidence(confidence)
    count = values.shape[1]
    correlation = float(statistic(values[:, None])[0])
    if np.isnan(correlation):
        return RankCorrelation(count, None, None)
    apart = min(count - int(np.unique(row, return_counts=True)[1].max()) for row in values)
    if count < ENOUGH or apart < APART or abs(correlation) > 1 - 1e-9:
        return RankCorrelation(count, correlation, None)
    again = statistic(values[:, np.random.default_rng(seed).integers(count, size=(_RESAMPLES, count))])
    low, high = np.quantile(again[~np.isnan(again)], [(1 - confidence) / 2, (1 + confidence) / 2])
    return RankCorrelation(count, correlation, (float(low), float(high)))


def _spearman(samples: Floats) -> Floats:
    """Returns the correlation (S,) of ranks of pairs (2, S, N); NaN where one of the two does not vary."""
    ranks = rankdata(samples, axis=-1)
    ranks -= ranks.mean(-1, keepdims=True)
    both = np.sqrt((ranks**2).sum(-1).prod(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(both > 0, ranks.prod(0).sum(-1) / both, np.nan).clip(-1, 1))
