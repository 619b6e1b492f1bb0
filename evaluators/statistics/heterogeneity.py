"""Heterogeneity of power-law exponents: their spread between networks, and the factors that explain it.

Exponents come from `fit_power_law`, each with an interval. Each exponent has one level of each factor (architecture, data,
training, attack). There are two analyses. The first tests whether all exponents are equal (Cochran's Q), and estimates the
spread between networks beyond the uncertainty of the exponents. The second is an analysis of variance of main effects. A
factor without a significant effect is no evidence of universality; a small spread is.

Several exponents of one network, for example under several attacks, are not independent. So the networks are the subjects of
a split-plot design.

The analysis is on log exponents, because the uncertainty of an exponent grows with the exponent. On the linear scale the
smallest exponents would dominate the mean, and the largest would dominate the analysis of variance. Spreads are standard
deviations of natural logarithms: 0.1 is about 10 % of the exponent, 0.7 a factor of two.

Sources: Cubuk et al., "Intriguing Properties of Adversarial Examples", arXiv:1711.02846, for the claim of universality;
DerSimonian and Laird, "Meta-analysis in clinical trials", Controlled Clinical Trials 7, 1986, for the spread; Hartung and
Knapp, "A refined method for the meta-analysis of controlled clinical trials with binary outcome", Statistics in Medicine 20,
2001, for the interval of the mean, with the modification of Roever, Knapp and Friede for few networks (BMC Medical Research
Methodology 15, 2015). The sources of the analysis of variance are in `split_plot`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.special import ndtri

from evaluators.statistics.split_plot import Effect, split_plot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evaluators.curves.error_curves import Floats


@final
@dataclass(frozen=True)
class Observation:
    """One fitted exponent.

    Attributes:
        exponent: Exponent, above 0.
        interval: 95 % interval of the exponent, above 0.
        factors: Level of each factor, by name of the factor.
        subject: Name of the network, if several observations are of the same network; None if there is only this one.
    """

    exponent: float
    interval: tuple[float, float]
    factors: Mapping[str, str]
    subject: str | None = None

    @property
    def standard_error(self) -> float:
        """Standard error of the log exponent: the width of its interval over 3.92, as for a normal distribution."""
        return math.log(self.interval[1] / self.interval[0]) / (2 * float(ndtri(0.975)))


@final
@dataclass(frozen=True)
class Heterogeneity:
    """The spread of exponents and the effects of factors. Values that need two networks are NaN for one network.

    Attributes:
        n: Number of exponents.
        subjects: Number of networks.
        mean: Geometric mean of the exponents over networks, weighted by their precision (random-effects model).
        mean_interval: 95 % interval of the mean, for the population of networks.
        range: Smallest and largest exponent.
        deviation: Standard deviation of the log exponents.
        between: Standard deviation of the mean log exponent between networks, without the uncertainty of each mean.
        heterogeneity_p: P-value of Cochran's Q test that the mean exponents of all networks are equal.
        effects: Effect of each factor, by name of the factor.
        residual: Standard deviation between networks that no factor explains; NaN without residual degrees of freedom.
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
    """Returns the spread of exponents between networks and the effect of each factor.

    Effects are of type II: each factor is adjusted for all other factors, without interactions. Levels may be unbalanced. A
    factor is tested within subjects if a subject has several of its levels, and between subjects otherwise. The exponents of
    one subject are measured on the same images; their errors are treated as fully correlated.

    Args:
        observations: At least two exponents, all with the same factors.

    Raises:
        ValueError: there are fewer than two observations, their factors differ, an exponent or a bound of its interval is
            not finite and above 0, or an interval has no width.
    """
    from scipy.stats import chi2  # Slow to import.

    if len(observations) < 2:
        raise ValueError(f"observations must be at least 2, got {len(observations)}")
    names = [*observations[0].factors]
    for observation in observations:
        low, high = observation.interval
        if not (0 < observation.exponent < math.inf and 0 < low < high < math.inf):
            raise ValueError(
                f"exponents and their intervals must be finite and above 0, and intervals wider than 0, got exponent "
                f"{observation.exponent:g}, interval {low:g} to {high:g}"
            )
        if {*observation.factors} != {*names}:
            raise ValueError(f"factors must be the same for all observations, got {names} and {[*observation.factors]}")
    exponents = np.array([observation.exponent for observation in observations])
    variances = np.array([observation.standard_error**2 for observation in observations])
    subjects = [str(n) if o.subject is None else f"of {o.subject}" for n, o in enumerate(observations)]
    levels = {name: [observation.factors[name] for observation in observations] for name in names}
    split = split_plot(np.log(exponents), subjects, levels)
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
    """Returns the half-width of the Hartung-Knapp interval of a weighted mean; NaN for one subject.

    The scale is at least 1, as Roever, Knapp and Friede propose: if means lie closer together than their uncertainty
    predicts, this is by chance.
    """
    from scipy.stats import t  # Slow to import.

    if len(means) < 2:
        return math.nan
    scale = max(1.0, float((weights * (means - mean) ** 2).sum()) / (len(means) - 1))
    return float(t.ppf(0.975, len(means) - 1)) * math.sqrt(scale / weights.sum())


def _heterogeneity(logs: Floats, variances: Floats) -> tuple[float, float]:
    """Returns Cochran's Q and the DerSimonian-Laird variance between networks; NaN for one network."""
    if len(logs) < 2:
        return math.nan, math.nan
    weights = 1 / variances
    q = float((weights * (logs - (weights * logs).sum() / weights.sum()) ** 2).sum())
    scale = weights.sum() - (weights**2).sum() / weights.sum()
    return q, max(0.0, float((q - len(logs) + 1) / scale))
