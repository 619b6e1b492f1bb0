"""What the networks of a report have to do with each other: do adversarial images carry over, and where do they disagree?"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from itertools import chain
from typing import TYPE_CHECKING, final

import matplotlib as mpl

from evaluators import NORMS, PGD, transfer_matrix
from evaluators.regions import Sampling, disagreement
from evaluators.regions.sampling import affordable_samples
from evaluators.transferability.matrix import LEAST, asymmetry
from evaluators.transferability.universal import universal_transfer
from nas.analysis.compare.figures import disagreement_figure, reach_figure, transfer_figure
from nas.analysis.compare.result import universal_sentence
from nas.errors import first_line
from nas.formatting import format_epsilon
from nas.plots.style import NORM_NAMES, STYLE, to_svg
from nas.reports.networks import passes_per_second

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nas.reports.networks import LoadedBundle

# Of the search's epsilon.
MULTIPLES = (0.5, 1.0, 2.0)
# Images that are crafted on each network, and seconds that these may take.
IMAGES, SECONDS = 200, 5.0
# Clean images around which points are drawn, and points of each ball.
CENTRES, POINTS = 50, 40
TOO_LONG = "was not measured, for it would take long: `hardcell compare` does."


@final
@dataclass(frozen=True)
class NetworkPairs:
    """What is told of several networks at once.

    Attributes:
        pictures: As SVG text.
        sentences: What they say, and what else was measured; or why nothing was.
    """

    pictures: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()


def report_network_pairs(opened: Mapping[str, LoadedBundle], epsilon: float, norm: str) -> NetworkPairs:
    """Returns how adversarial images carry over between networks, and where these disagree, by epsilon.

    What would take longer than seconds is left out, and told. Nothing is told of fewer than two networks.

    Args:
        opened: The networks, by name, of the same images.
        epsilon: That of the search, in pixel units; half and twice as much is looked at, too.
        norm: Name of the norm.
    """
    if len(opened) < 2:
        return NetworkPairs()
    largest = NORMS[norm]().largest(next(iter(opened.values())).test.x[0].numel())
    epsilons = sorted({min(multiple * epsilon, largest) for multiple in MULTIPLES})
    parts = []
    for what, measure in (("How adversarial images carry over", _transfer), ("Where the networks disagree", _disagreement)):
        try:
            parts.append(measure(opened, epsilons, norm))
        except _TooLongError:
            parts.append(NetworkPairs(sentences=(f"{what} {TOO_LONG}",)))
        except Exception as error:  # Too few images that all are right on; or whatever a network of someone else's raises.
            parts.append(NetworkPairs(sentences=(f"{what} was not measured: {first_line(error)}.",)))
    return NetworkPairs(*(tuple(chain.from_iterable(group)) for group in zip(*map(astuple, parts), strict=True)))


class _TooLongError(Exception):
    """It would take longer than seconds."""


def _transfer(opened: Mapping[str, LoadedBundle], epsilons: Sequence[float], norm: str) -> NetworkPairs:
    """Returns the matrix, how far images carry, and how uneven that is.

    Raises:
        _TooLongError: it would take longer than seconds.
        ValueError: there are too few images that all networks classify rightly.
        Exception: whatever a network raises.
    """
    first, attack = next(iter(opened.values())), PGD(norm=NORMS[norm]())
    # Each image is crafted on every network, by forward and backward passes, and then tried on all of them.
    passes = len(epsilons) * (3 * attack.steps + len(opened))
    affordable = int(SECONDS * passes_per_second(first.test) / (passes * sum(one.macs for one in opened.values())))
    count = min(IMAGES, affordable, len(first.test.x))
    if affordable < LEAST:
        raise _TooLongError
    networks = {name: one.network for name, one in opened.items()}
    matrix = transfer_matrix(networks, first.test.x[:count], first.test.y[:count], attack, epsilons)
    reach, pairs = universal_transfer(matrix), asymmetry(matrix)
    carried = [universal_sentence([one for one in reach if one.epsilon == epsilon]) for epsilon in matrix.epsilons]
    uneven = sum(one.corrected < 0.05 for one in pairs)
    with mpl.rc_context(STYLE):
        pictures = tuple(to_svg(draw(matrix, "pgd", norm)) for draw in (transfer_figure, reach_figure))
    return NetworkPairs(
        pictures,
        (
            f"Adversarial images crafted by PGD, by epsilon ({NORM_NAMES.get(norm, norm)}): {'; '.join(carried)}.",
            f"Of {len(pairs)} pairs of networks and epsilons {uneven} carry over more one way than back (exact McNemar "
            "tests, corrected by Holm).",
        ),
    )


def _disagreement(opened: Mapping[str, LoadedBundle], epsilons: Sequence[float], norm: str) -> NetworkPairs:
    """Returns in which share of the balls around clean images the networks do not all give one class.

    Raises:
        _TooLongError: it would take longer than seconds.
        Exception: whatever a network raises.
    """
    first, ball, sizes = next(iter(opened.values())), NORMS[norm](), [0.0, *epsilons]
    centres = first.test.x[:CENTRES]
    balls = len(centres) * len(sizes)
    affordable = int(SECONDS * passes_per_second(first.test) / sum(one.macs for one in opened.values()) / balls)
    if affordable < 1:
        raise _TooLongError
    points = affordable_samples(ball, centres[0].numel(), balls, min(POINTS, affordable))
    result = disagreement([one.network for one in opened.values()], centres, ball, sizes, sampling=Sampling(samples=points))
    where = [f"within {format_epsilon(size)}" if size else "at the image itself" for size in sizes]
    shares = ", ".join(
        f"{100 * share:.0f} % ({100 * low:.0f} to {100 * high:.0f}) {place}"
        for place, share, (low, high) in zip(where, result.mean_share, result.mean_share_interval, strict=True)
    )
    with mpl.rc_context(STYLE):
        picture = to_svg(disagreement_figure(result, norm))
    summary = f"Around {len(centres)} clean images the networks do not all give one class to so many points: {shares}."
    return NetworkPairs((picture,), (summary,))
