"""Lines from an image along a direction, with the location of each crossing of a decision boundary.

The definitions are ours. Source of the idea: Shu, Xi and Kamhoua, "Understanding Adversarial Examples Through Deep Neural
Network's Response Surface and Uncertainty Regions", arXiv:2107.00003.
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
    """The evaluated part of a line, at equally spaced positions.

    Attributes:
        start: First position, as L2 distance from the image, in pixel units.
        stop: Last position, in the same units; twice the length of the direction if None.
        points: Number of positions, at least 2.

    Raises:
        ValueError: start or stop is not finite, stop is not beyond start, or points is below 2.
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
    """Checks that the last position of a line is beyond the first.

    Raises:
        ValueError: stop is not above start.
    """
    if not start < stop:
        raise ValueError(f"stop must be beyond start, {start:g}, got {stop:g}")


@final
@dataclass(frozen=True)
class Crossing:
    """A position on a line at which the network's class changes.

    Attributes:
        position: L2 distance from the image, in pixel units.
        before: Class just before the position.
        after: Class just after the position.
    """

    position: float
    before: int
    after: int


@final
@dataclass(frozen=True)
class BoundaryLine:
    """Class, margin and confidence of a network along a line. Arrays have the shape (P,).

    Attributes:
        positions: L2 distances from the image, in pixel units.
        label: Class predicted by the network, int64.
        margin: Logit of the true label minus the largest other logit. It is negative where the point is misclassified.
        confidence: Largest softmax probability.
        inside: Whether all pixels of the point are in [0, 1], bool. Other points are not valid images.
        crossings: Detected changes of the class, in order.
        length: L2 length of the direction. At this position, the line is at the image plus the direction.
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
    """Returns class, margin and confidence of a network along a line, with the crossings of decision boundaries.

    Position 0 of the line is the image, and the line follows the direction. Where the class differs between two neighbouring
    positions, bisection locates the crossings that lead from one class to the other. If the class changes and changes back
    between two neighbouring positions, both crossings are missed. More points make this rarer.

    Args:
        network: Maps images (N, C, H, W) with pixels in [0, 1] to logits (N, K). Its state is restored afterwards.
        image: Clean image, (C, H, W), pixels in [0, 1].
        label: True label, to which margins refer.
        direction: Direction of the line, such as an adversarial perturbation, (C, H, W).
        segment: Evaluated part of the line, and number of points.
        tolerance: Precision of the position of a crossing, as L2 distance in pixel units, above 0.
        batch_size: Points in one pass; estimated from the memory that one image needs if None.

    Raises:
        TypeError: network or image has the wrong type.
        ValueError: image, label or tolerance is out of range, direction is zero, not finite or has a different shape, the
            last position is not beyond the first, or the network's output is not (N, K) finite logits.
    """
    length = float(direction.detach().cpu().double().norm())
    if not 0 < length < math.inf:
        raise ValueError(f"direction must be finite and not zero, got a direction of length {length:g}")
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
    """Returns crossings between positions `low` and `high` that lead from class `before` to class `after`."""
    crossings = []
    while before != after:
        near, far, beyond = low, high, after
        # The second condition ends the loop when rounding makes the middle equal to one of the ends.
        while far - near > tolerance and near < (middle := (near + far) / 2) < far:
            here = class_at(middle)
            if here == before:
                near = middle
            else:
                far, beyond = middle, here
        crossings.append(Crossing((near + far) / 2, before, beyond))
        low, before = far, beyond
    return crossings
