"""What the networks of a report have to do with each other: do adversarial images carry over, and where do they disagree?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import matplotlib as mpl

from evaluators import NORMS, PGD, disagreement, transfer_matrix, transfer_reach
from evaluators.regions.sampling import affordable_samples
from evaluators.transfer_matrix import LEAST
from nas.comparison import universal_sentence
from nas.errors import first_line
from nas.report.compare_figures import reach_figure, transfer_figure
from nas.report.opened import second_of
from nas.report.style import NORM_NAMES, STYLE, to_svg

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nas.report.opened import Opened

# Images that are crafted on each network, and seconds that these may take.
IMAGES, SECONDS = 200, 5.0
# Clean images around which points are drawn, and points of each ball.
CENTRES, POINTS = 50, 40


@final
@dataclass(frozen=True)
class Together:
    """What is told of several networks at once.

    Attributes:
        pictures: As SVG text.
        sentences: What they say, and what else was measured; or why nothing was.
    """

    pictures: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()


def report_together(opened: Mapping[str, Opened], epsilon: float, norm: str) -> Together:
    """Returns how adversarial images carry over between networks, and where these disagree, at one epsilon.

    What would take longer than seconds is left out, and told. Nothing is told of fewer than two networks.

    Args:
        opened: The networks, by name, of the same images.
        epsilon: In pixel units.
        norm: Name of the norm.
    """
    if len(opened) < 2:
        return Together()
    try:
        pictures, carried = _transfer(opened, epsilon, norm)
    except Exception as error:  # Too few images that all are right on; or whatever a network of someone else's raises.
        pictures, carried = [], [f"How adversarial images carry over was not measured: {first_line(error)}."]
    try:
        parted = _disagreement(opened, epsilon, norm)
    except Exception as error:
        parted = f"Where the networks disagree was not measured: {first_line(error)}."
    return Together(tuple(pictures), (*carried, parted))


def _transfer(opened: Mapping[str, Opened], epsilon: float, norm: str) -> tuple[list[str], list[str]]:
    """Returns pictures and sentences.

    Raises:
        ValueError: there are too few images that all networks classify rightly.
        Exception: whatever a network raises.
    """
    first, attack = next(iter(opened.values())), PGD(norm=NORMS[norm]())
    # Each image is crafted on every network, by forward and backward passes, and then tried on all of them.
    passes = 3 * attack.steps + len(opened)
    affordable = int(SECONDS * second_of(first.test) / (passes * sum(one.macs for one in opened.values())))
    count = min(IMAGES, affordable, len(first.test.x))
    if count < LEAST:
        return [], ["How adversarial images carry over was not measured, for it would take long: `hardcell compare` does."]
    networks = {name: one.network for name, one in opened.items()}
    matrix = transfer_matrix(networks, first.test.x[:count], first.test.y[:count], attack, [epsilon])
    reach = transfer_reach(matrix)
    with mpl.rc_context(STYLE):
        pictures = [to_svg(draw(matrix, "pgd", norm)) for draw in (transfer_figure, reach_figure)]
    return pictures, [f"Crafted by PGD, {universal_sentence(reach)}."]


def _disagreement(opened: Mapping[str, Opened], epsilon: float, norm: str) -> str:
    """Returns a sentence.

    Raises:
        Exception: whatever a network raises.
    """
    first, ball = next(iter(opened.values())), NORMS[norm]()
    centres = first.test.x[:CENTRES]
    each = SECONDS * second_of(first.test) / sum(one.macs for one in opened.values()) / (2 * len(centres))
    points = affordable_samples(ball, centres[0].numel(), 2 * len(centres), min(POINTS, int(each)))
    if each < 1:
        return "Where the networks disagree was not measured, for it would take long: `hardcell compare` does."
    found = disagreement([one.network for one in opened.values()], centres, ball, [0.0, epsilon], samples=points)

    at, within = (
        f"{100 * share:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
        for share, (low, high) in zip(found.mean_share, found.mean_share_interval, strict=True)
    )
    distance = f"{NORM_NAMES.get(norm, norm)} distance {epsilon:g}"
    return (
        f"The networks do not all give one class to {at} of {len(centres)} clean images, and to {within} of the points "
        f"within {distance} of these ({points} random points each, 95 % intervals); the mean entropy of their votes is "
        f"{found.mean_entropy[0]:.2f} and {found.mean_entropy[1]:.2f} nats."
    )
