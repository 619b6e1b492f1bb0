"""Shares of adversarial images that transfer between networks, and the asymmetry of transfer.

Source: Papernot, McDaniel and Goodfellow, arXiv:1605.07277, for the share of the images crafted on the source that the
target misclassifies. Additions to the paper: the share among the images that fool the source; and the test of asymmetry.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, final

import numpy as np

from evaluators.curves.error_curves import Floats, binomial_interval
from evaluators.statistics.multiple_testing import holm
from evaluators.statistics.paired_tests import compare
from evaluators.transferability.matrix import Integers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evaluators.transferability.matrix import TransferMatrix


@final
@dataclass(frozen=True)
class Shares:
    """Shares of images with intervals, in arrays of one shape.

    Attributes:
        counts: Number of images that fool the target, (...).
        of: Denominator of the share, (...): number of all images, or of those that fool the source.
        share: `counts` over `of`, (...); NaN if `of` is 0.
        interval: Clopper-Pearson interval of the share, (..., 2); NaN if `of` is 0.
    """

    counts: Integers
    of: Integers
    share: Floats
    interval: Floats


@final
@dataclass(frozen=True)
class Asymmetry:
    """Difference between the two directions of transfer of a pair of networks, on the same images at one epsilon.

    Attributes:
        first: Name of the first network.
        second: Name of the second network.
        epsilon: Size of the perturbation, in pixel units.
        difference: Share of images that transfer from the first to the second network, minus the share in the other
            direction, in [-1, 1].
        interval: Tango's score interval of the difference.
        p_value: Two-sided p-value of the exact McNemar test.
        corrected: P-value with Holm's correction for all pairs and epsilons of the matrix.
    """

    first: str
    second: str
    epsilon: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    corrected: float


def transfer_rates(matrix: TransferMatrix, *, conditional: bool = False, confidence: float = 0.95) -> Shares:
    """Returns the share of the images crafted on each source that fool each target, in arrays of shape (E, S, T).

    Args:
        matrix: Result of `transfer_matrix`.
        conditional: Take the share among the images that fool the source, instead of among all images. The conditional share
            measures how well successful images transfer; its diagonal is 1. The other share measures how well the attack
            works on the target.
        confidence: Confidence level of the intervals, between 0 and 1.

    Raises:
        ValueError: confidence is not between 0 and 1.
    """
    if not conditional:
        counts = matrix.fooled.sum(-1)
        return shares_of(counts, np.full(counts.shape[:2], matrix.n), confidence)
    own = fools_source(matrix)
    return shares_of((matrix.fooled & own[:, :, None]).sum(-1), own.sum(-1), confidence)


def asymmetry(matrix: TransferMatrix, confidence: float = 0.95) -> list[Asymmetry]:
    """Tests whether transfer between each pair of networks is symmetric, at each epsilon, with the exact McNemar test.

    Each image is crafted on both networks of a pair and tested on the other network. If transfer is symmetric, the
    expected number of images that transfer only in the first direction equals that of the second direction.

    Args:
        matrix: Result of `transfer_matrix`, with S networks at E epsilons.
        confidence: Confidence level of the intervals, between 0 and 1.

    Returns:
        E * S * (S - 1) / 2 results: all pairs at the first epsilon, then all pairs at the next.

    Raises:
        ValueError: confidence is not between 0 and 1.
    """
    pairs = list(combinations(range(len(matrix.names)), 2))
    cells = [(e, a, b) for e in range(len(matrix.epsilons)) for a, b in pairs]
    # `compare` expects radii. Radius 0 stands for an image that transfers, infinity for one that does not. The error at
    # epsilon 0 is then the transfer rate.
    radius = np.where(matrix.fooled, 0.0, np.inf)
    comparisons = [compare(radius[e, a, b], radius[e, b, a], 0.0, confidence) for e, a, b in cells]
    corrected = holm([one.p_value for one in comparisons])
    return [
        Asymmetry(
            matrix.names[a], matrix.names[b], matrix.epsilons[e], one.difference, one.interval, one.p_value, float(p_value)
        )
        for (e, a, b), one, p_value in zip(cells, comparisons, corrected, strict=True)
    ]


def fools_source(matrix: TransferMatrix) -> NDArray[np.bool_]:
    """Returns whether each image fools the source on which it was crafted, (E, S, N)."""
    return np.stack([matrix.fooled[:, s, s] for s in range(len(matrix.names))], axis=1)


def shares_of(counts: Integers, of: Integers, confidence: float) -> Shares:
    """Returns counts (...) or (..., T) as shares of the numbers `of` (...), with intervals."""
    of = np.broadcast_to(of.reshape(of.shape + (1,) * (counts.ndim - of.ndim)), counts.shape)
    share, interval = np.full(counts.shape, np.nan), np.full((*counts.shape, 2), np.nan)
    for n in np.unique(of[of > 0]):
        at = of == n
        share[at] = counts[at] / n
        interval[at] = binomial_interval(counts[at].astype(np.float64), int(n), confidence)
    return Shares(counts, of, share, interval)
