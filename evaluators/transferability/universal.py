"""Adversarial images that transfer to all other networks, to some of them, or to none.

Source: Shu, Xi and Kamhoua, "Understanding Adversarial Examples Through Deep Neural Network's Response Surface and
Uncertainty Regions", arXiv:2107.00003, for the claim that transfer is not universal.

`TransferGroup.chance` is not from the paper. It is the share expected if the targets were fooled independently of each
other, at the same transfer rates. If more images than expected transfer to all targets, the same images tend to fool each
of them. This does not show the reason: the adversarial images may be universal, or their clean images may lie near the
boundary of every network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from evaluators.transferability.matrix import Integers
from evaluators.transferability.rates import fools_source, shares_of, transfer_rates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evaluators.transferability.matrix import TransferMatrix


@final
@dataclass(frozen=True)
class TransferGroup:
    """A group of the adversarial images that fool their source. Shares are NaN if no image fools the source.

    Attributes:
        images: Indices of the images of the group in the input, (M,).
        share: Size of the group, as a share of the images that fool the source.
        interval: Clopper-Pearson interval of the share, (low, high).
        chance: Expected share if the targets were fooled independently of each other, each at its measured rate.
    """

    images: Integers
    share: float
    interval: tuple[float, float]
    chance: float


@final
@dataclass(frozen=True)
class UniversalTransfer:
    """Transfer of the adversarial images that fool one source, at one epsilon.

    Attributes:
        source: Name of the source network.
        epsilon: Size of the perturbation, in pixel units.
        fooled: Number of images that fool the source.
        to_all: Images that fool all other networks. With one other network, `chance` equals `share`.
        to_some: Images that fool some of the other networks, but not all. The group is empty with one other network.
        to_none: Images that fool none of the other networks.
    """

    source: str
    epsilon: float
    fooled: int
    to_all: TransferGroup
    to_some: TransferGroup
    to_none: TransferGroup


def universal_transfer(matrix: TransferMatrix, confidence: float = 0.95) -> list[UniversalTransfer]:
    """Returns which adversarial images transfer to all, some or none of the other networks, for each epsilon and source.

    Args:
        matrix: Transfer matrix of S networks at E epsilons.
        confidence: Confidence level of the intervals, between 0 and 1.

    Returns:
        E * S results: all sources at the first epsilon, then all sources at the next.

    Raises:
        ValueError: confidence is not between 0 and 1.
    """
    rates = transfer_rates(matrix, conditional=True).share
    own = fools_source(matrix)
    results = []
    for e, epsilon in enumerate(matrix.epsilons):
        for s, source in enumerate(matrix.names):
            others = [t for t in range(len(matrix.names)) if t != s]
            hit = own[e, s]
            victims = matrix.fooled[e, s, others].sum(0)
            to_all, to_none = hit & (victims == len(others)), hit & (victims == 0)
            # Expected shares if the targets are fooled independently.
            all_, none = float(np.prod(rates[e, s, others])), float(np.prod(1 - rates[e, s, others]))
            chances = (all_, max(0.0, 1 - all_ - none) if hit.any() else np.nan, none)
            groups = (to_all, hit & ~to_all & ~to_none, to_none)
            all_some_none = [_group(matrix, g, hit, c, confidence) for g, c in zip(groups, chances, strict=True)]
            results.append(UniversalTransfer(source, epsilon, int(hit.sum()), *all_some_none))
    return results


def _group(
    matrix: TransferMatrix, members: NDArray[np.bool_], hit: NDArray[np.bool_], chance: float, confidence: float
) -> TransferGroup:
    shares = shares_of(members.sum(keepdims=True), hit.sum(keepdims=True), confidence)
    low, high = shares.interval[0]
    return TransferGroup(matrix.index[members], float(shares.share[0]), (float(low), float(high)), chance)
