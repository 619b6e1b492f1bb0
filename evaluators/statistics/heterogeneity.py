"""How universal an exponent is: how far it varies between networks beyond what its own uncertainty explains, and with what.

Exponents come from `fit_power_law`, each with an interval; each belongs to a combination of factors (architecture, data,
training, attack). Two questions: are all of them one number (Cochran's Q, and the spread between networks that is left once
their uncertainty is taken away), and which factor goes with how much of their variance (an analysis of variance of main
effects)? That a factor is not significant shows no universality; that the spread is small does.

Several exponents of one network (under several attacks, say) are no independent observations: what sets networks apart is
judged by networks, each with the mean of its exponents; what varies within networks, by how it varies there (a split-plot
design).

All is reckoned with logarithms: the uncertainty of an exponent grows with it, so that by plain differences the smallest
would outweigh all others in the mean, and the largest in the analysis of variance. Spreads are of natural logarithms: 0.1 is
a tenth of the exponent, 0.7 a factor of two.

Sources: Cubuk et al., "Intriguing Properties of Adversarial Examples", arXiv:1711.02846, for the claim; DerSimonian and
Laird, "Meta-analysis in clinical trials", Controlled Clinical Trials 7, 1986, for the spread; Hartung and Knapp, "A refined
method for the meta-analysis of controlled clinical trials with binary outcome", Statistics in Medicine 20, 2001, for the
interval of the mean, which holds what it says for few networks, too, as Roever, Knapp and Friede widen it (BMC Medical
Research Methodology 15, 2015); Fisher, "Statistical Methods for Research Workers",
1925, and Hays, "Statistics for Psychologists", 1963, for the analysis and for omega squared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
from scipy.special import ndtri
from scipy.stats import chi2, f, t

from evaluators.curves.error_curves import Floats

if TYPE_CHECKING:
    from collections.abc import Sequence

# A smaller share of the sum of squares is due to rounding.
_ROUNDING = 1e-12


@final
@dataclass(frozen=True)
class Observation:
    """One fitted exponent.

    Attributes:
        exponent: The exponent, above 0.
        interval: Its 95 % interval, above 0.
        factors: What it was measured on: the level of each factor by name.
        subject: The network, if several observations are of one; none shares it if None.
    """

    exponent: float
    interval: tuple[float, float]
    factors: Mapping[str, str]
    subject: str | None = None

    @property
    def standard_error(self) -> float:
        """Of the logarithm: a quarter of its interval's width or so, as if it were normal."""
        return math.log(self.interval[1] / self.interval[0]) / (2 * float(ndtri(0.975)))


@final
@dataclass(frozen=True)
class Effect:
    """What goes with one factor, all others held the same.

    Attributes:
        means: Geometric mean of the exponents at each level, of the observations as they are.
        counts: Number of observations at each level.
        share: Share of the variance that goes with this factor alone (omega squared, not below 0): of that between subjects
            or, for a factor that varies within them, of all.
        f_value: Mean square of the factor over that of the residual; NaN where nothing is left to judge by.
        freedom: Degrees of freedom of the factor and of the residual.
        p_value: How often a factor without effect would have as large a value.
    """

    means: dict[str, float]
    counts: dict[str, int]
    share: float
    f_value: float
    freedom: tuple[int, int]
    p_value: float


@final
@dataclass(frozen=True)
class Heterogeneity:
    """How far exponents vary.

    Attributes:
        n: Number of exponents.
        subjects: Number of networks that they are of.
        mean: Their geometric mean, weighted by what is known of each (random effects).
        mean_interval: Its 95 % interval, for networks like these; NaN of one network.
        range: The smallest and the largest.
        deviation: Standard deviation of their logarithms.
        between: The same between networks, each by its mean, once its own uncertainty is taken away; NaN of one network.
        heterogeneity_p: Of Cochran's Q: how often exponents that are all equal would differ as much; NaN of one network.
        effects: What goes with each factor.
        residual: Standard deviation between networks that no factor explains; NaN where nothing is left to judge by.
    """

    n: int
    subjects: int
    mean: float
    mean_interval: tuple[float, float]
    range: tuple[float, float]
    deviation: float
    between: float
    heterogeneity_p: float
    effects: dict[str, Effect]
    residual: float


def heterogeneity(observations: Sequence[Observation]) -> Heterogeneity:
    """Returns how far exponents vary, and with what.

    Effects are of type II: each factor's, given all the others, without interactions; levels may be unbalanced. A factor of
    which one subject has several levels is judged within subjects, all others between them. That the exponents of one
    subject share their errors (they are of the same images) is allowed for as if these were the same.

    Raises:
        ValueError: there are fewer than two observations, they have different factors, or an exponent or its interval
            is not finite and above 0.
    """
    if len(observations) < 2:
        raise ValueError(f"observations must be at least 2, got {len(observations)}")
    names = [*observations[0].factors]
    for observation in observations:
        low, high = observation.interval
        if not (0 < observation.exponent < math.inf and 0 < low < high < math.inf):
            raise ValueError(
                f"exponents must be finite and above 0, and so their intervals, which must be wider than 0; got "
                f"{observation.exponent:g}, {low:g} to {high:g}"
            )
        if {*observation.factors} != {*names}:
            raise ValueError(f"factors must be the same of all observations, got {names} and {[*observation.factors]}")
    exponents = np.array([observation.exponent for observation in observations])
    variances = np.array([observation.standard_error**2 for observation in observations])
    subjects = [str(n) if o.subject is None else f"of {o.subject}" for n, o in enumerate(observations)]
    levels = {name: [observation.factors[name] for observation in observations] for name in names}
    split = _split(np.log(exponents), subjects, levels)
    own = np.array([variances[[subject == other for other in subjects]].mean() for subject in split.subjects])
    q, between = _heterogeneity(split.means, own)
    weights = 1 / (own + (between if len(own) > 1 else 0.0))
    mean = float((weights * split.means).sum() / weights.sum())
    reach = _reach(split.means, mean, weights)
    return Heterogeneity(
        n=len(exponents),
        subjects=len(split.subjects),
        mean=math.exp(mean),
        mean_interval=(math.exp(mean - reach), math.exp(mean + reach)),
        range=(float(exponents.min()), float(exponents.max())),
        deviation=float(np.log(exponents).std(ddof=1)),
        between=math.sqrt(between),
        heterogeneity_p=float(chi2.sf(q, len(split.subjects) - 1)) if len(split.subjects) > 1 else math.nan,
        effects={name: split.effects[name] for name in names},
        residual=split.residual,
    )


def _reach(means: Floats, mean: float, weights: Floats) -> float:
    """Returns how far the interval of a weighted mean (Hartung and Knapp's) reaches to either side; NaN of one subject.

    Means that lie nearer to each other than their own uncertainty has it do so by chance: never less than by that.
    """
    if len(means) < 2:
        return math.nan
    scale = max(1.0, float((weights * (means - mean) ** 2).sum()) / (len(means) - 1))
    return float(t.ppf(0.975, len(means) - 1)) * math.sqrt(scale / weights.sum())


@dataclass(frozen=True)
class _Split:
    """What is between subjects and what is within them.

    Attributes:
        subjects: Their names.
        means: Mean logarithm of each (S,), as if each had been measured at all levels of what varies within subjects.
        effects: What goes with each factor.
        residual: Standard deviation between subjects that no factor explains.
    """

    subjects: list[str]
    means: Floats
    effects: dict[str, Effect]
    residual: float


def _split(logs: Floats, subjects: Sequence[str], factors: Mapping[str, Sequence[str]]) -> _Split:
    """Returns the analysis of logarithms (N,) of so many subjects (N,)."""
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
    # Levels are told by the observations as they are, also where subjects are judged.
    across_effects = {name: replace(effect, **_level_statistics(logs, factors[name])) for name, effect in estimates.items()}
    return _Split(names, means, effects | across_effects, residual)


def _means(logs: Floats, names: Sequence[str], subjects: Sequence[str], within: Mapping[str, Sequence[str]]) -> Floats:
    """Returns the mean of each subject (S,), at the average of the levels that vary within subjects.

    Where no levels link the subjects, what these do cannot be told from what the subjects are: plain means then.
    """
    own = np.array([[float(subject == name) for name in names] for subject in subjects])
    codes = [_coded(levels) for levels in within.values()]
    centred = [code - code.mean(0) for code in codes]
    design = np.hstack([own, *centred])
    fitted, _, rank, _ = np.linalg.lstsq(design, logs, rcond=None)
    return np.asarray(fitted[: len(names)]) if rank == design.shape[1] else own.T @ logs / own.sum(0)


def _heterogeneity(logs: Floats, variances: Floats) -> tuple[float, float]:
    """Returns Cochran's Q, and the variance between networks by the moments of DerSimonian and Laird; NaN of one network."""
    if len(logs) < 2:
        return math.nan, math.nan
    weights = 1 / variances
    q = float((weights * (logs - (weights * logs).sum() / weights.sum()) ** 2).sum())
    scale = weights.sum() - (weights**2).sum() / weights.sum()
    return q, max(0.0, float((q - len(logs) + 1) / scale))


def _effects(logs: Floats, factors: Mapping[str, Sequence[str]]) -> tuple[dict[str, Effect], float]:
    """Returns the effect of each factor, and the standard deviation that none of them explains."""
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
        # Hays's: what chance alone would explain is taken away.
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
    """Returns a column (N,) of zeros and ones for each level but the first, (N, L - 1)."""
    kinds = list(dict.fromkeys(levels))
    return np.array([[float(level == kind) for kind in kinds[1:]] for level in levels]).reshape(len(levels), len(kinds) - 1)


def _residual(logs: Floats, codes: Sequence[Floats]) -> tuple[float, int]:
    """Returns the sum of squares that a mean and these columns leave, and how many of them are independent."""
    design = np.hstack([np.ones((len(logs), 1)), *codes])
    fitted, _, rank, _ = np.linalg.lstsq(design, logs, rcond=None)
    return float(((logs - design @ fitted) ** 2).sum()), int(rank)
