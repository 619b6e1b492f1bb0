"""Is one network more robust than another? A paired test on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.stats import binomtest

if TYPE_CHECKING:
    from evaluators.curve import Floats


@final
@dataclass(frozen=True)
class Comparison:
    """Two networks on the same images at one epsilon.

    Attributes:
        difference: Adversarial error of the first minus that of the second: negative where the first is more robust.
        p_value: Of the exact McNemar test, two-sided: how often equal networks would differ as much.
        n: Number of images.
    """

    difference: float
    p_value: float
    n: int

    def verdict(self, level: float = 0.05) -> str:
        """Returns 'more robust', 'less robust' or 'not distinguishable' for the first network."""
        if self.p_value >= level or self.difference == 0:
            return "not distinguishable"
        return "more robust" if self.difference < 0 else "less robust"


def compare(first: Floats, second: Floats, epsilon: float) -> Comparison:
    """Returns the comparison of two networks' adversarial errors at epsilon, from their radii (N,) on the same images.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12, 1947.

    Raises:
        ValueError: the two have different numbers of images.
    """
    if len(first) != len(second):
        raise ValueError(f"radii must belong to the same images, got {len(first)} and {len(second)}")
    wrong_first, wrong_second = np.asarray(first) <= epsilon, np.asarray(second) <= epsilon
    only_first = int((wrong_first & ~wrong_second).sum())
    only_second = int((wrong_second & ~wrong_first).sum())
    discordant = only_first + only_second
    p_value = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return Comparison(difference=(only_first - only_second) / len(first), p_value=p_value, n=len(first))
