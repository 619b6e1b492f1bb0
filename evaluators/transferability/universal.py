"""Which adversarial images transfer to all other networks, to some, and to none: is any of them universal?

The claim that transfer is not universal: Shu, Xi and Kamhoua, "Understanding Adversarial Examples Through Deep Neural
Network's Response Surface and Uncertainty Regions", arXiv:2107.00003. The yardstick is ours: what the same rates of transfer
would give by chance, if being fooled were independent between targets. What exceeds it says that targets are fooled by the
same images; that these carry over as such, or that their clean images are easy for all to be fooled on, it does not tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from evaluators.transferability.matrix import Integers, fools_source, shares_of, transfer_rates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evaluators.transferability.matrix import TransferMatrix


@final
@dataclass(frozen=True)
class TransferGroup:
    """Some of the images that fool a source.

    Attributes:
        images: Their indices among the images given, (M,).
        share: Of the images that fool the source; NaN if none does.
        interval: Clopper-Pearson interval of the share; NaN likewise.
        chance: The share expected if one target's being fooled by an image said nothing of another's: if each target were
            fooled by as many of the source's images as it is, but by any of them. NaN likewise.
    """

    images: Integers
    share: float
    interval: tuple[float, float]
    chance: float


@final
@dataclass(frozen=True)
class UniversalTransfer:
    """How far the adversarial images of one source carry at one epsilon, of those that fool the source itself.

    Attributes:
        source: Name of the source.
        epsilon: In pixel units.
        fooled: Number of images that fool the source.
        to_all: Those that fool all other networks, too. With one other network, chance is what was found.
        to_some: Those that fool some of the others and not all; none of them with one other network.
        to_none: Those that fool none of the others.
    """

    source: str
    epsilon: float
    fooled: int
    to_all: TransferGroup
    to_some: TransferGroup
    to_none: TransferGroup


def universal_transfer(matrix: TransferMatrix, confidence: float = 0.95) -> list[UniversalTransfer]:
    """Returns, for each epsilon and each source, which of the images that fool it transfer to all others, some or none.

    Raises:
        ValueError: confidence is not between 0 and 1.
    """
    rates = transfer_rates(matrix, conditional=True).share
    own = fools_source(matrix)
    reaches = []
    for e, epsilon in enumerate(matrix.epsilons):
        for s, source in enumerate(matrix.names):
            others = [t for t in range(len(matrix.names)) if t != s]
            hit = own[e, s]
            victims = matrix.fooled[e, s, others].sum(0)
            to_all, to_none = hit & (victims == len(others)), hit & (victims == 0)
            # Were each target's fooled images any of the source's, these would be the shares in the mean.
            all_, none = float(np.prod(rates[e, s, others])), float(np.prod(1 - rates[e, s, others]))
            chances = (all_, max(0.0, 1 - all_ - none) if hit.any() else np.nan, none)
            groups = (to_all, hit & ~to_all & ~to_none, to_none)
            all_some_none = [_group(matrix, g, hit, c, confidence) for g, c in zip(groups, chances, strict=True)]
            reaches.append(UniversalTransfer(source, epsilon, int(hit.sum()), *all_some_none))
    return reaches


def _group(
    matrix: TransferMatrix, members: NDArray[np.bool_], hit: NDArray[np.bool_], chance: float, confidence: float
) -> TransferGroup:
    shares = shares_of(members.sum(keepdims=True), hit.sum(keepdims=True), confidence)
    low, high = shares.interval[0]
    return TransferGroup(matrix.index[members], float(shares.share[0]), (float(low), float(high)), chance)
