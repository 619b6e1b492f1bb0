"""Analysis of variance of exponents with several exponents of each network: a split-plot design.

Factors that vary between networks are tested between networks, with the mean of the exponents of each network. Factors that
vary within a network are tested within networks. The networks are the subjects of this design.

Sources: Fisher, "Statistical Methods for Research Workers", 1925, and Hays, "Statistics for Psychologists", 1963, for the
analysis of variance and omega squared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evaluators.curves.error_curves import Floats

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A sum of squares below this share of the total is rounding error.
_ROUNDING = 1e-12


@final
@dataclass(frozen=True)
class Effect:
    """The main effect of one factor, adjusted for all other factors.

    Attributes:
        means: Geometric mean of the exponents at each level, not adjusted for other factors.
        counts: Number of observations at each level.
        share: Omega squared, the share of the variance that only this factor explains, at least 0; NaN without degrees of
            freedom. The variance is that between subjects or, for a factor that varies within subjects, the total variance.
        f_value: Mean square of the factor over the mean square of the residual. It is NaN if the factor or the residual has
            no degrees of freedom, or if both mean squares are 0.
        freedom: Degrees of freedom of the factor and of the residual.
        p_value: P-value of the F test that the factor has no effect; NaN if f_value is.
    """

    means: dict[str, float]
    counts: dict[str, int]
    share: float
    f_value: float
    freedom: tuple[int, int]
    p_value: float


@final
@dataclass(frozen=True)
class SplitPlot:
    """The split-plot analysis of log exponents, between and within subjects.

    Attributes:
        subjects: Names of the subjects.
        means: Mean log exponent of each subject, (S,), adjusted for the factors that vary within subjects.
        effects: Effect of each factor, by name of the factor.
        residual: Standard deviation between subjects that no factor explains.
    """

    subjects: list[str]
    means: Floats
    effects: dict[str, Effect]
    residual: float


def split_plot(logs: Floats, subjects: Sequence[str], factors: Mapping[str, Sequence[str]]) -> SplitPlot:
    """Returns the split-plot analysis of log exponents.

    Args:
        logs: Log exponents, (N,).
        subjects: Subject of each exponent, (N,).
        factors: Level of each exponent, (N,), by name of the factor.
    """
    names = list(dict.fromkeys(subjects))
    several = {
        name for name, levels in factors.items() if len({*zip(subjects, levels, strict=True)}) > len(names) < len(subjects)
    }
    within = {name: levels for name, levels in factors.items() if name in several}
    first = [subjects.index(name) for name in names]
    across = {name: [levels[n] for n in first] for name, levels in factors.items() if name not in several}
    means = logs[first]
    effects = {}
    if len(names) < len(subjects):
        means = _means(logs, names, subjects, within)
        if within:
            estimates, _ = _effects(logs, {"": subjects, **within})
            effects = {name: estimates[name] for name in within}
    estimates, residual = _effects(means, across)
    # Means and counts of levels are those of the observations, also for factors tested between subjects.
    across_effects = {name: replace(effect, **_level_statistics(logs, factors[name])) for name, effect in estimates.items()}
    return SplitPlot(names, means, effects | across_effects, residual)


def _means(logs: Floats, names: Sequence[str], subjects: Sequence[str], within: Mapping[str, Sequence[str]]) -> Floats:
    """Returns the mean log exponent of each subject, (S,), at the average of the levels that vary within subjects.

    If the levels are confounded with the subjects, it returns unadjusted means.
    """
    own = np.array([[float(subject == name) for name in names] for subject in subjects])
    codes = [_coded(levels) for levels in within.values()]
    centred = [code - code.mean(0) for code in codes]
    design = np.hstack([own, *centred])
    fitted, _, rank, _ = np.linalg.lstsq(design, logs, rcond=None)
    return np.asarray(fitted[: len(names)]) if rank == design.shape[1] else own.T @ logs / own.sum(0)


def _effects(logs: Floats, factors: Mapping[str, Sequence[str]]) -> tuple[dict[str, Effect], float]:
    """Returns the effect of each factor, and the residual standard deviation."""
    from scipy.stats import f  # Slow to import.

    codes = {name: _coded(levels) for name, levels in factors.items()}
    total = float(((logs - logs.mean()) ** 2).sum())
    full_sum, full_rank = _residual(logs, [*codes.values()])
    full_sum = full_sum if full_sum > _ROUNDING * total else 0.0
    free = len(logs) - full_rank
    square = full_sum / free if free > 0 else math.nan
    effects = {}
    for name, levels in factors.items():
        without_sum, without_rank = _residual(logs, [code for other, code in codes.items() if other != name])
        degrees, explained = full_rank - without_rank, without_sum - full_sum
        explained = explained if explained > _ROUNDING * total else 0.0
        known = degrees > 0 and free > 0
        f_value = explained / degrees / square if known and square > 0 else math.inf if known and explained > 0 else math.nan
        # Hays's omega squared subtracts the share expected by chance.
        share = (explained - degrees * square) / (total + square) if known and total + square > 0 else math.nan
        effects[name] = Effect(
            **_level_statistics(logs, levels),
            share=max(0.0, share) if not math.isnan(share) else share,
            f_value=f_value,
            freedom=(degrees, free),
            p_value=float(f.sf(f_value, degrees, free)) if known and not math.isnan(f_value) else math.nan,
        )
    return effects, math.sqrt(square) if free > 0 else math.nan


def _level_statistics(logs: Floats, levels: Sequence[str]) -> dict[str, Any]:
    """Returns the geometric mean and the number of observations at each level."""
    at = {level: logs[[other == level for other in levels]] for level in dict.fromkeys(levels)}
    return {
        "means": {level: math.exp(values.mean()) for level, values in at.items()},
        "counts": {level: len(values) for level, values in at.items()},
    }


def _coded(levels: Sequence[str]) -> Floats:
    """Returns dummy variables for all levels except the first, (N, L - 1)."""
    kinds = list(dict.fromkeys(levels))
    return np.array([[float(level == kind) for kind in kinds[1:]] for level in levels]).reshape(len(levels), len(kinds) - 1)


def _residual(logs: Floats, codes: Sequence[Floats]) -> tuple[float, int]:
    """Returns the residual sum of squares of a fit of a mean and the columns, and the rank of the design matrix."""
    design = np.hstack([np.ones((len(logs), 1)), *codes])
    fitted, _, rank, _ = np.linalg.lstsq(design, logs, rcond=None)
    return float(((logs - design @ fitted) ** 2).sum()), int(rank)
