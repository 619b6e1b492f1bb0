"""Lines through the decision boundaries: from an image along a direction, with every crossing located.

Source of the idea: Shu, Xi and Kamhoua, as for `response_surface`. The definitions are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from evaluators.curves.error_curves import Floats
from evaluators.surface.responses import responses

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


@final
@dataclass(frozen=True, kw_only=True)
class Segment:
    """The part of a line on which a network is evaluated, at equally spaced positions.

    Attributes:
        start: First position, in L2 distance from the image.
        stop: Last position; twice the direction's length if None.
        points: Number of positions.
    """

    start: float = 0.0
    stop: float | None = None
    points: int = 201

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and (self.stop is None or math.isfinite(self.stop))):
            raise ValueError(f"start and stop must be finite, got {self.start} and {self.stop}")
        if self.stop is not None:
            check_order(self.start, self.stop)
        if self.points < 2:
            raise ValueError(f"points must be at least 2, got {self.points}")


def check_order(start: float, stop: float) -> None:
    """Checks that the last position is beyond the first.

    Raises:
        ValueError: it is not.
    """
    if not start < stop:
        raise ValueError(f"stop must be beyond start, {start:g}, got {stop:g}")


@final
@dataclass(frozen=True)
class Crossing:
    """A place where the network's class changes along a line.

    Attributes:
        position: L2 distance from the image, in pixel units.
        before: The class on the nearer side.
        after: The class on the farther side.
    """

    position: float
    before: int
    after: int


@final
@dataclass(frozen=True)
class BoundaryLine:
    """A network's answers along a line. Arrays are (P,).

    Attributes:
        positions: L2 distances from the image, in pixel units.
        label: The network's class, int64.
        margin: Logit of the true label minus the largest other: negative where the point is misclassified.
        confidence: Largest softmax.
        inside: Whether all pixels of the point are in [0, 1], bool: elsewhere it is no image.
        crossings: Every change of the class, in order.
        length: L2 length of the direction: the position of the image that it leads to.
    """

    positions: Floats
    label: NDArray[np.int64]
    margin: Floats
    confidence: Floats
    inside: NDArray[np.bool_]
    crossings: tuple[Crossing, ...]
    length: float


def boundary_line(
    network: nn.Module,
    image: Tensor,
    label: int,
    direction: Tensor,
    *,
    segment: Segment = Segment(),
    tolerance: float = 1e-5,
    batch_size: int | None = None,
) -> BoundaryLine:
    """Returns what a network answers from an image along a direction, with every crossing of a decision boundary.

    The class is asked at equally spaced positions; where it changes from one to the next, the crossing is bisected, and of
    several between the two as many are found as lead from the one class to the other. Two crossings between neighbouring
    positions that lead back to the same class are missed: the more points, the fewer.

    Args:
        network: Maps images (N, C, H, W) with pixels in [0, 1] to logits (N, K); left as it was.
        image: Clean image, (C, H, W).
        label: The true label, to which margins refer.
        direction: Such as an adversarial perturbation, (C, H, W).
        segment: The part of the line to look at, and in how many points.
        tolerance: How exactly crossings are located, in L2 distance.
        batch_size: Points in one pass; found from the memory that one image needs if None.

    Raises:
        TypeError: network or image has the wrong type.
        ValueError: image, label or tolerance is out of range, direction is zero or has another shape, its double is not
            beyond the segment's start, or the network's output is not (N, K) finite logits.
    """
    length = float(direction.detach().cpu().double().norm())
    if not 0 < length < math.inf:
        raise ValueError(f"direction must be finite and not zero, got one of length {length:g}: it leads nowhere")
    stop = 2 * length if segment.stop is None else segment.stop
    check_order(segment.start, stop)
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0, got {tolerance:g}")
    positions = np.linspace(segment.start, stop, segment.points)
    unit = (direction.detach().cpu().double() / length)[None]
    with responses(network, image, label, unit, batch_size) as at:
        line_responses = at(positions[:, None])

        def class_at(position: float) -> int:
            return int(at(np.array([[position]])).label[0])

        crossings: list[Crossing] = []
        for i in np.flatnonzero(np.diff(line_responses.label)):
            (low, high), (before, after) = positions[i : i + 2].tolist(), line_responses.label[i : i + 2].tolist()
            crossings += _between(class_at, low, high, before, after, tolerance)
    return BoundaryLine(
        positions,
        line_responses.label,
        line_responses.margin,
        line_responses.confidence,
        line_responses.inside,
        tuple(crossings),
        length,
    )


def _between(
    class_at: Callable[[float], int], low: float, high: float, before: int, after: int, tolerance: float
) -> list[Crossing]:
    """Returns crossings between two positions of different classes that lead from the one class to the other."""
    crossings = []
    while before != after:
        near, far, beyond = low, high, after
        # The second condition ends it where the middle can no longer be told from the ends.
        while far - near > tolerance and near < (middle := (near + far) / 2) < far:
            here = class_at(middle)
            if here == before:
                near = middle
            else:
                far, beyond = middle, here
        crossings.append(Crossing((near + far) / 2, before, beyond))
        low, before = far, beyond
    return crossings
