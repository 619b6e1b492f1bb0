"""The outcome of a check, and the rule for a significant difference between two attacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from evaluators.curves.error_curves import Floats

# A difference of errors is a finding if it is larger than TOLERANCE and significant at LEVEL.
TOLERANCE = 0.03
LEVEL = 0.01
# Tolerance and expected share of images that only a second attack fools. A second attack always fools a few more images:
# Square after PGD-10 fools up to 3 % more on small networks that were trained on clean images.
MORE_TOLERANCE = 0.05
MORE_EXPECTED = 0.02


@final
@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check.

    Attributes:
        name: The property that is checked: `deterministic` fails if the network is not deterministic.
        passed: Whether the property holds.
        evidence: Numbers and texts behind the outcome, by name. All numbers are finite.
    """

    name: str
    passed: bool
    evidence: dict[str, float | str]


@final
@dataclass(frozen=True)
class Excess:
    """A share of images, and a one-sided test of whether it is larger than expected.

    Attributes:
        share: Share of the images (`binomial_excess`) or difference between two errors (`excess`).
        p_value: One-sided p-value of the test.
        tolerance: Largest share that is not a finding.
    """

    share: float
    p_value: float
    tolerance: float

    def is_finding(self, tests: int = 1) -> bool:
        """Returns whether the excess is above the tolerance and significant, with Bonferroni's correction for the tests."""
        return self.share > self.tolerance and self.p_value < LEVEL / tests


def excess(weak: NDArray[np.bool_], strong: NDArray[np.bool_]) -> Excess:
    """Returns how far the error of a weak attack exceeds that of a strong attack, with a one-sided exact McNemar test.

    Args:
        weak: Whether the weak attack fools each image, (N,).
        strong: Whether the strong attack fools each of the same images, (N,).
    """
    from scipy.stats import binom  # Slow to import.

    only_weak, only_strong = int((weak & ~strong).sum()), int((strong & ~weak).sum())
    # Probability of at least `only_weak` heads when a fair coin is thrown for each image that only one attack fools.
    p_value = float(binom.sf(only_weak - 1, only_weak + only_strong, 0.5))
    return Excess((only_weak - only_strong) / len(weak), p_value, TOLERANCE)


def binomial_excess(count: int, n: int, expected: float = MORE_EXPECTED, tolerance: float = MORE_TOLERANCE) -> Excess:
    """Returns the share count/n with an exact binomial test against the share expected of a correct evaluation."""
    from scipy.stats import binom  # Slow to import.

    return Excess(count / n if n else 0.0, float(binom.sf(count - 1, n, expected)), tolerance)


def largest(excesses: Sequence[Excess], epsilons: Sequence[float]) -> tuple[bool, dict[str, float | str]]:
    """Returns whether no excess is a finding, and the evidence of the largest finding or, if none, of the largest excess.

    Args:
        excesses: One excess per epsilon.
        epsilons: The epsilons, in pixel units.
    """
    findings = [share_excess.is_finding(len(excesses)) for share_excess in excesses]
    worst = max(range(len(excesses)), key=lambda i: (findings[i], excesses[i].share))
    return not any(findings), {
        "largest_excess": max(excesses[worst].share, 0.0),
        "epsilon": float(epsilons[worst]),
        "p_value": excesses[worst].p_value,
    }


def most_informative_epsilon(radii: Floats, epsilons: Sequence[float]) -> float:
    """Returns the epsilon at which the error of radii (N,) is closest to halfway between the clean error and 1.

    There the error can both rise and fall, so both a stronger and a weaker attack change it. Of equally good epsilons, the
    largest is returned. If no image is fooled, this is the largest epsilon of all.
    """
    half = (1 + np.mean(radii <= 0)) / 2
    distances = [abs(np.mean(radii <= epsilon) - half) for epsilon in epsilons]
    return float(max(e for e, distance in zip(epsilons, distances, strict=True) if distance <= min(distances) + 1e-12))
