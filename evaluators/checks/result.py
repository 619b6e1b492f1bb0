"""What a check returns, and when a difference between two attacks counts as a finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.stats import binom

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from evaluators.curves.error_curves import Floats

# A difference of errors is a finding where it is larger than the first and, were there none, as rare as the second.
TOLERANCE = 0.03
LEVEL = 0.01
# The same for what an attack fools besides all that others fooled, which is never nothing: a second attack always finds
# some. On small clean networks it was up to 3 % of the images for Square after PGD-10.
MORE_TOLERANCE = 0.05
MORE_EXPECTED = 0.02


@final
@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check.

    Attributes:
        name: What was looked for, as it should be: `deterministic` fails where the network is not.
        passed: Whether nothing was found.
        evidence: The numbers on which the answer rests, by name; all finite.
    """

    name: str
    passed: bool
    evidence: dict[str, float | str]


@final
@dataclass(frozen=True)
class Excess:
    """By how much an attack finds more than it should.

    Attributes:
        share: Of the images.
        p_value: One-sided: how often chance alone would give as much.
        tolerance: The share from which on it matters.
    """

    share: float
    p_value: float
    tolerance: float

    def is_finding(self, tests: int = 1) -> bool:
        """Returns whether the excess matters and, as one of several tests, is beyond chance (Bonferroni's correction)."""
        return self.share > self.tolerance and self.p_value < LEVEL / tests


def excess(weak: NDArray[np.bool_], strong: NDArray[np.bool_]) -> Excess:
    """Returns by how much the error of a weak attack exceeds a strong one's, from what each fooled of the same images, (N,).

    The exact McNemar test, as in `compare`, but one-sided.
    """
    only_weak, only_strong = int((weak & ~strong).sum()), int((strong & ~weak).sum())
    # How often a fair coin, thrown for each image on which they differ, falls to the weak one's side as often or oftener.
    p_value = float(binom.sf(only_weak - 1, only_weak + only_strong, 0.5))
    return Excess((only_weak - only_strong) / len(weak), p_value, TOLERANCE)


def binomial_excess(count: int, n: int, expected: float = MORE_EXPECTED, tolerance: float = MORE_TOLERANCE) -> Excess:
    """Returns the share count/n, tested against the share that is expected where nothing is wrong (exact binomial test)."""
    return Excess(count / n if n else 0.0, float(binom.sf(count - 1, n, expected)), tolerance)


def largest(excesses: Sequence[Excess], epsilons: Sequence[float]) -> tuple[bool, dict[str, float | str]]:
    """Returns whether none of the excesses, one an epsilon, is a finding, and the largest of them as evidence."""
    findings = [share_excess.is_finding(len(excesses)) for share_excess in excesses]
    worst = max(range(len(excesses)), key=lambda i: (findings[i], excesses[i].share))
    return not any(findings), {
        "largest_excess": max(excesses[worst].share, 0.0),
        "epsilon": float(epsilons[worst]),
        "p_value": excesses[worst].p_value,
    }


def most_informative_epsilon(radii: Floats, epsilons: Sequence[float]) -> float:
    """Returns the epsilon at which an attack with these radii (N,) fools nearest to half of the right images.

    There both a stronger attack and a weaker one would show. The largest such epsilon: where nothing is fooled, the last.
    """
    half = (1 + np.mean(radii <= 0)) / 2
    distances = [abs(np.mean(radii <= epsilon) - half) for epsilon in epsilons]
    return float(max(e for e, distance in zip(epsilons, distances, strict=True) if distance <= min(distances) + 1e-12))
