"""Rank correlations with intervals, as the scripts beside this one tell them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESAMPLES = 2000
# Of fewer pairs the percentile interval is far too narrow.
ENOUGH = 8


def rank_correlation(x: Sequence[float], y: Sequence[float], seed: int = 0) -> dict:
    """Returns Spearman's rank correlation of values (N,) and others (N,) with a 95 % percentile interval over pairs.

    Where one of them does not vary there is none; of fewer than ENOUGH pairs, or where the ranks agree wholly, there is no
    interval. Samples drawn again in which one does not vary are left out.
    """
    return _with_interval(_spearman, np.array([x, y], dtype=np.float64), seed)


def difference(x: Sequence[float], other: Sequence[float], y: Sequence[float], seed: int = 0) -> dict:
    """Returns by how much x goes with y more than another value does, all (N,): the difference of absolute correlations."""

    def apart(samples: np.ndarray) -> np.ndarray:
        return np.abs(_spearman(samples[[0, 2]])) - np.abs(_spearman(samples[[1, 2]]))

    return _with_interval(apart, np.array([x, other, y], dtype=np.float64), seed)


def _with_interval(statistic: Callable[[np.ndarray], np.ndarray], values: np.ndarray, seed: int) -> dict:
    """Returns a statistic of values (V, S, N), (S,), with an interval over the N, from samples drawn again."""
    count = values.shape[1]
    found = float(statistic(values[:, None])[0])
    if np.isnan(found):
        return {"n": count, "value": None, "interval": None}
    if count < ENOUGH or abs(found) > 1 - 1e-9:
        return {"n": count, "value": found, "interval": None}
    again = statistic(values[:, np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))])
    ends = np.quantile(again[~np.isnan(again)], [0.025, 0.975])
    return {"n": count, "value": found, "interval": [float(end) for end in ends]}


def _spearman(samples: np.ndarray) -> np.ndarray:
    """Returns the correlation (S,) of ranks of pairs (2, S, N); NaN where one of the two does not vary."""
    ranks = rankdata(samples, axis=-1)
    ranks -= ranks.mean(-1, keepdims=True)
    both = np.sqrt((ranks**2).sum(-1).prod(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(both > 0, ranks.prod(0).sum(-1) / both, np.nan).clip(-1, 1)


def told_with_interval(found: dict) -> str:
    """Returns a correlation in words."""
    if found["value"] is None:
        return "none, as one does not vary"
    if found["interval"] is None:
        return f"{found['value']:+.2f} (of {found['n']}, no interval)"
    return f"{found['value']:+.2f} ({found['interval'][0]:+.2f} to {found['interval'][1]:+.2f})"
