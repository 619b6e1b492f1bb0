"""Transferability of adversarial images between the networks of a report, and disagreement of their predictions."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from itertools import chain
from typing import TYPE_CHECKING, final

import matplotlib as mpl

from evaluators import NORMS, PGD, transfer_matrix
from evaluators.regions import Sampling, disagreement
from evaluators.regions.sampling import affordable_samples
from evaluators.transferability.matrix import LEAST
from evaluators.transferability.rates import asymmetry
from evaluators.transferability.universal import universal_transfer
from nas.analysis.compare.figures import disagreement_figure, reach_figure, transfer_figure
from nas.analysis.compare.result import universal_sentence
from nas.errors import first_line
from nas.formatting import format_epsilon
from nas.plots.style import NORM_NAMES, STYLE, to_svg
from nas.reports.networks import macs_per_second

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nas.reports.networks import LoadedBundle

# Epsilons that are measured, in multiples of the search's epsilon.
MULTIPLES = (0.5, 1.0, 2.0)
# Largest number of images that are crafted on each network, and time limit of each measurement in seconds.
IMAGES, SECONDS = 200, 5.0
# Largest number of clean images around which points are drawn, and of points in each ball.
CENTRES, POINTS = 50, 40
TOO_LONG = "was not measured, because it would take too long; `hardcell compare` measures it."


@final
@dataclass(frozen=True)
class NetworkPairs:
    """Measurements that involve several networks.

    Attributes:
        pictures: SVG text of the pictures.
        sentences: Results in words, or the reasons why nothing was measured.
    """

    pictures: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()


def report_network_pairs(opened: Mapping[str, LoadedBundle], epsilon: float, norm: str) -> NetworkPairs:
    """Returns transferability between networks, and their disagreement, at several epsilons.

    A measurement that would exceed the time limit is skipped, and a sentence says so. The result is empty for fewer than
    two networks.

    Args:
        opened: Networks by name, all for the same images.
        epsilon: Epsilon of the search, in pixel units; half and twice this epsilon are measured as well.
        norm: Name of the norm, linf or l2.
    """
    if len(opened) < 2:
        return NetworkPairs()
    largest = NORMS[norm]().largest(next(iter(opened.values())).test.x[0].numel())
    epsilons = sorted({min(multiple * epsilon, largest) for multiple in MULTIPLES})
    parts = []
    for what, measure in (("Transfer of adversarial images", _transfer), ("Disagreement of the networks", _disagreement)):
        try:
            parts.append(measure(opened, epsilons, norm))
        except _TooLongError:
            parts.append(NetworkPairs(sentences=(f"{what} {TOO_LONG}",)))
        except Exception as error:  # Too few images that all networks classify correctly, or any error of a custom network.
            parts.append(NetworkPairs(sentences=(f"{what} was not measured: {first_line(error)}.",)))
    return NetworkPairs(*(tuple(chain.from_iterable(group)) for group in zip(*map(astuple, parts), strict=True)))


class _TooLongError(Exception):
    """A measurement would exceed its time limit."""


def _transfer(opened: Mapping[str, LoadedBundle], epsilons: Sequence[float], norm: str) -> NetworkPairs:
    """Returns pictures of transfer, and sentences on the number of fooled networks and the asymmetry of transfer.

    Raises:
        _TooLongError: the measurement would exceed the time limit.
        ValueError: too few images are classified correctly by all networks.
        Exception: a network raises it.
    """
    first, attack = next(iter(opened.values())), PGD(norm=NORMS[norm]())
    # Each image is attacked on every network, and then tested on all networks. A step of the attack needs a forward and a
    # backward pass, which cost about three forward passes.
    passes = len(epsilons) * (3 * attack.steps + len(opened))
    affordable = int(SECONDS * macs_per_second(first.test) / (passes * sum(one.macs for one in opened.values())))
    count = min(IMAGES, affordable, len(first.test.x))
    if affordable < LEAST:
        raise _TooLongError
    networks = {name: one.network for name, one in opened.items()}
    matrix = transfer_matrix(networks, first.test.x[:count], first.test.y[:count], attack, epsilons)
    reach, pairs = universal_transfer(matrix), asymmetry(matrix)
    carried = [
        f"PGD ({NORM_NAMES.get(norm, norm)}) on the first {count} test images, "
        f"{universal_sentence([one for one in reach if one.epsilon == epsilon])}."
        for epsilon in matrix.epsilons
    ]
    uneven = sum(one.corrected < 0.05 for one in pairs)
    with mpl.rc_context(STYLE):
        pictures = tuple(to_svg(draw(matrix, "pgd", norm)) for draw in (transfer_figure, reach_figure))
    return NetworkPairs(
        pictures,
        (
            *carried,
            f"Transfer is significantly asymmetric in {uneven} of {len(pairs)} tests, one for each pair of networks at each "
            "epsilon (exact McNemar tests, corrected by Holm).",
        ),
    )


def _disagreement(opened: Mapping[str, LoadedBundle], epsilons: Sequence[float], norm: str) -> NetworkPairs:
    """Returns a picture and a sentence on the share of points to which the networks assign different classes.

    The points are random, in balls around clean images.

    Raises:
        _TooLongError: the measurement would exceed the time limit.
        Exception: a network raises it.
    """
    first, ball, sizes = next(iter(opened.values())), NORMS[norm](), [0.0, *epsilons]
    centres = first.test.x[:CENTRES]
    balls = len(centres) * len(sizes)
    affordable = int(SECONDS * macs_per_second(first.test) / sum(one.macs for one in opened.values()) / balls)
    if affordable < 1:
        raise _TooLongError
    points = affordable_samples(ball, centres[0].numel(), balls, min(POINTS, affordable))
    result = disagreement([one.network for one in opened.values()], centres, ball, sizes, sampling=Sampling(samples=points))
    where = [f"within {format_epsilon(size)}" if size else "at the clean images themselves" for size in sizes]
    shares = ", ".join(
        f"{100 * share:.0f} % ({100 * low:.0f} to {100 * high:.0f}) {place}"
        for place, share, (low, high) in zip(where, result.mean_share, result.mean_share_interval, strict=True)
    )
    with mpl.rc_context(STYLE):
        picture = to_svg(disagreement_figure(result, norm))
    summary = (
        f"Random points were drawn in balls around each of {len(centres)} clean images. The networks disagree "
        f"about the class at this share of the points (95 % intervals): {shares}."
    )
    return NetworkPairs((picture,), (summary,))
