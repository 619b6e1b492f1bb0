"""Sentences with statistics of a report: exponents, logit differences, and rank correlations of adversarial error."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from evaluators import PowerLaw, rank_correlation
from evaluators.statistics.heterogeneity import Observation, heterogeneity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evaluators import NoPowerLaw
    from nas.study.trial import Trial

# Metrics whose rank correlation with adversarial error is reported, and their names in the sentence.
_PREDICTORS = {"clean_error": "clean error", "parameters": "parameters", "macs": "multiply-accumulates"}


def exponents_sentence(laws: Mapping[str, PowerLaw | NoPowerLaw]) -> str | None:
    """Returns sentences on the spread of power-law exponents over networks.

    Returns None if fewer than two exponents have a positive, finite interval of more than zero width.

    Args:
        laws: Power law of each network, by name. Laws whose fit is rejected are left out.
    """
    fitted = [law for law in laws.values() if isinstance(law, PowerLaw) and law.fit == "accepted"]
    # With very few radii, all bootstrap exponents may be equal; the interval then has zero width and no meaning.
    determined = [law for law in fitted if 0 < law.exponent_interval[0] < law.exponent_interval[1] < math.inf]
    if len(determined) < 2:
        return None
    spread = heterogeneity([Observation(law.exponent, law.exponent_interval, {}) for law in determined])
    low, high = spread.range
    verdict = "differ significantly" if spread.heterogeneity_p < 0.05 else "do not differ significantly"
    without = len(laws) - len(fitted)
    rest = f" For {without} of the {len(laws)} networks, no power law fits the curve of the worst case." if without else ""
    return (
        f"Under the worst case over the attacks, the power laws of {len(determined)} networks have exponents between "
        f"{low:.2f} and {high:.2f}. The exponents {verdict} (Cochran's Q, p = {spread.heterogeneity_p:.2g}).{rest}"
    )


def nearest_sentence(margins: Mapping[str, Any]) -> str | None:
    """Returns sentences on the differences between the two largest logits; None if the profile lacks them.

    Args:
        margins: Entry `margins` of a profile.
    """
    gaps = margins.get("nearest")
    if gaps is None:
        return None
    near = gaps["near_zero"]
    low, high = near["interval"]
    return (
        "The gap of an image is the difference between its two largest logits, divided by the mean difference. The density "
        f"of the gaps near zero is {near['density']:.2f} (95 % interval {low:.2f} to {high:.2f}). For comparison, "
        "an exponential distribution of mean 1 has density 1 at zero. For a second comparison, the logits of each class "
        "are shuffled between the images, so that the logits of an image are independent. "
        "The Kolmogorov-Smirnov distance between the gaps "
        f"before and after the shuffling is {gaps['distance_to_independent']:.2f}; 0 means the same distribution."
    )


def correlations_sentences(trials: Sequence[Trial]) -> list[str]:
    """Returns sentences with the rank correlations of adversarial error: over all trained candidates, and over random ones.

    A sampler's proposals are a biased sample of the space, so random candidates have their own sentence.
    """
    trained = [t for t in trials if t.state == "complete" and t.duplicate_of is None and "adversarial_error" in t.metrics]
    drawn = [trial for trial in trained if trial.random]
    groups = {"measured": trained} | ({"random": drawn} if len(drawn) < len(trained) else {})
    return [text for name, group in groups.items() if (text := _correlations(name, group))]


def _correlations(name: str, trials: Sequence[Trial]) -> str | None:
    if len(trials) < 3:
        return None
    known = {key: word for key, word in _PREDICTORS.items() if all(key in trial.metrics for trial in trials)}
    if not known:
        return None
    errors = [trial.metrics["adversarial_error"] for trial in trials]
    correlations = [
        f"with {word} {rank_correlation([trial.metrics[key] for trial in trials], errors)}" for key, word in known.items()
    ]
    return (
        f"Over {len(trials)} {name} candidates, adversarial error has these rank correlations (95 % intervals): "
        f"{', '.join(correlations)}."
    )
