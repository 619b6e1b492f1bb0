"""Multi-objective ranking: fronts, crowding, hypervolume. All objectives are minimised.

Sources: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE TEC 2002 (ranks, crowding); While,
Bradstreet & Barone, "A Fast Way of Calculating Exact Hypervolumes", IEEE TEC 2012 (hypervolume).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

MOST_OBJECTIVES = 5


def front_ranks(points: ArrayLike) -> NDArray[np.int64]:
    """Returns the front of every point: 0 for non-dominated points, 1 for points dominated only by front 0, and so on.

    A point dominates another if it is not larger in any objective and smaller in at least one. Equal points share a front.
    The time is O(N log N) for two objectives and O(N²) for more.

    Args:
        points: Objectives, (N, M). Infinite values are allowed.

    Returns:
        Fronts, (N,).

    Raises:
        ValueError: points is not two-dimensional.
    """
    distinct, places = np.unique(_table(points), axis=0, return_inverse=True)
    size, objectives = distinct.shape
    ranks = np.arange(size)
    # np.unique sorts the points lexicographically, so no point dominates an earlier one.
    if objectives == 2:
        least: list[float] = []  # Smallest second objective of each front, in increasing order.
        for i, second in enumerate(distinct[:, 1].tolist()):
            ranks[i] = front = bisect_right(least, second)
            least[front : front + 1] = [second]
    elif objectives > 2:
        # The values are replaced by their ranks: only their order matters, and int32 is fast to compare.
        order = [np.unique(column, return_inverse=True)[1].astype(np.int32) for column in distinct.T[1:]]
        depth = np.zeros(size, dtype=np.int32)
        for i in range(size):
            dominates = order[0][:i] <= order[0][i]
            for column in order[1:]:
                dominates &= column[:i] <= column[i]
            depth[i] = 1 + np.max(depth[:i] * dominates, initial=0)
        ranks = depth.astype(np.int64) - 1
    return ranks[places.reshape(-1)]


def crowding(points: ArrayLike) -> NDArray[np.float64]:
    """Returns the crowding distance of each point: the distance between its two neighbours, summed over the objectives.

    Distances are relative to the range of an objective. They are infinite at both ends of every objective that varies.
    Equal points count as one point and have the same distance.

    Args:
        points: Objectives of one front, (N, M). Infinite values count as the largest or smallest finite value.

    Returns:
        Distances, (N,), at least 0.

    Raises:
        ValueError: points is not two-dimensional.
    """
    distinct, places = np.unique(_table(points), axis=0, return_inverse=True)
    distances = np.zeros(len(distinct))
    for column in distinct.T:
        finite = column[np.isfinite(column)]
        if not finite.size or finite.min() == finite.max():
            continue
        column = (np.clip(column, finite.min(), finite.max()) - finite.min()) / (finite.max() - finite.min())
        order = np.argsort(column, kind="stable")
        distances[order[1:-1]] += column[order[2:]] - column[order[:-2]]
        distances[(column == 0) | (column == 1)] = np.inf
    return distances[places.reshape(-1)]


def constrained_rank(points: ArrayLike, violations: ArrayLike) -> NDArray[np.int64]:
    """Returns the rank of each point, 0 for the best. Equally good points share a rank.

    Feasible points come first, ordered by their front and within a front by decreasing crowding distance. With one
    objective, they are ordered by its values. Infeasible points are ordered by their violation.

    Args:
        points: Objectives, (N, M).
        violations: Sum of the amounts by which each point exceeds its bounds, (N,); 0 if the point is feasible.

    Returns:
        Ranks, (N,).

    Raises:
        ValueError: points is not two-dimensional.
    """
    points, violations = _table(points), np.asarray(violations, dtype=float)
    feasible = np.flatnonzero(violations <= 0)
    fronts, apart = np.zeros(len(points)), np.zeros(len(points))
    if feasible.size:
        fronts[feasible] = front_ranks(points[feasible])
        for front in np.unique(fronts[feasible]) if points.shape[1] > 1 else ():
            members = feasible[fronts[feasible] == front]
            apart[members] = crowding(points[members])
    order = np.stack([np.maximum(violations, 0), fronts, -apart], axis=1)
    return np.unique(order, axis=0, return_inverse=True)[1].reshape(-1)


def hypervolume(points: ArrayLike, reference: Sequence[float]) -> float:
    """Returns the exact hypervolume: the volume that is dominated by the points and bounded by the reference point.

    Args:
        points: Objectives, (N, M), M from 1 to 5. Points that are not below the reference in all objectives add nothing.
        reference: Reference point, (M,).

    Raises:
        ValueError: the points and the reference differ in their number of objectives, or have more than 5.
    """
    return _volume(_below(points, reference))


def hypervolume_history(points: ArrayLike, reference: Sequence[float]) -> NDArray[np.float64]:
    """Returns the hypervolume of the first n points, for n from 1 to N.

    Args:
        points: Objectives, (N, M), M from 1 to 5, in the order of their evaluation.
        reference: Reference point, (M,).

    Returns:
        Hypervolumes, (N,).

    Raises:
        ValueError: the points and the reference differ in their number of objectives, or have more than 5.
    """
    sides = _below(points, reference)
    if sides.shape[1] == 1:
        return np.maximum.accumulate(sides[:, 0])
    gains = _gains_in_plane(sides) if sides.shape[1] == 2 else _gains_in_space(sides)
    return np.cumsum(gains)


def hypervolume_subset(points: ArrayLike, count: int, reference: Sequence[float]) -> list[int]:
    """Returns a subset of a front with a large hypervolume, by greedy selection.

    The first point is the best by the first objective. Each next point adds more hypervolume to the chosen ones
    than any other point would.

    Args:
        points: Objectives of a front, (N, M), M from 1 to 5.
        count: Number of points to choose; if there are fewer points, all are chosen.
        reference: Reference point, (M,).

    Returns:
        Indices in the order of selection. Of equally good points, the one with the smaller index comes first.

    Raises:
        ValueError: the points and the reference differ in their number of objectives, or have more than 5.
    """
    sides, table = _below(points, reference), _table(points)
    if not len(table) or count < 1:
        return []
    chosen = [int(np.lexsort(table.T[::-1])[0])]
    while len(chosen) < min(count, len(table)):
        left = [i for i in range(len(table)) if i not in chosen]
        gains = [_gain(sides[chosen], sides[i]) for i in left]
        chosen.append(left[int(np.argmax(gains))])
    return chosen


def _table(points: ArrayLike) -> NDArray[np.float64]:
    table = np.asarray(points, dtype=float)
    if table.ndim != 2:
        raise ValueError(f"points must have the shape (N, M), got {table.shape}")
    return table


def _below(points: ArrayLike, reference: Sequence[float]) -> NDArray[np.float64]:
    """Returns how far each point is below the reference in each objective, (N, M); zeros unless it is below in all."""
    table = _table(points)
    if table.shape[1] != len(reference):
        raise ValueError(f"points have {table.shape[1]} objectives, but the reference has {len(reference)}")
    if not 1 <= len(reference) <= MOST_OBJECTIVES:
        raise ValueError(f"a hypervolume needs 1 to {MOST_OBJECTIVES} objectives, got {len(reference)}")
    inside = (table < np.asarray(reference, dtype=float)).all(axis=1, keepdims=True)
    return np.asarray(reference, dtype=float) - np.where(inside, table, reference)


def _volume(sides: NDArray[np.float64]) -> float:
    """Returns the volume of the union of boxes with sides (N, M) that share one corner."""
    if not len(sides):
        return 0.0
    if sides.shape[1] == 1:
        return float(sides.max())
    if sides.shape[1] == 2:
        widths, heights = sides[np.argsort(-sides[:, 0], kind="stable")].T
        return float(np.sum(np.maximum.accumulate(heights) * (widths - np.append(widths[1:], 0.0))))
    # The boxes are sorted by increasing last side, so the overlap of a box with a later one has the full last side of the
    # first. The volume that a box adds to later ones is its last side times the volume that it adds in the other dimensions.
    sides = _largest(sides)
    sides = sides[np.argsort(sides[:, -1], kind="stable")]
    return sum(float(box[-1]) * _gain(sides[i + 1 :, :-1], box[:-1]) for i, box in enumerate(sides))


def _gain(sides: NDArray[np.float64], box: NDArray[np.float64]) -> float:
    """Returns the volume that a box (M,) adds to the union of other boxes (N, M)."""
    return float(np.prod(box)) - _volume(np.minimum(sides, box))


def _largest(sides: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the distinct boxes (N, M) that are not inside another one."""
    sides = np.unique(sides, axis=0)
    within = np.ones((len(sides), len(sides)), dtype=bool)
    for column in sides.T:
        within &= column[:, None] <= column
    largest: NDArray[np.float64] = sides[within.sum(axis=1) == 1]
    return largest


def _gains_in_plane(sides: NDArray[np.float64]) -> list[float]:
    """Returns the area that each box (N, 2) adds to the earlier boxes, in O(N log N) time."""
    gains: list[float] = []
    # The maximal boxes so far: widths increase, heights decrease.
    widths: list[float] = []
    heights: list[float] = []
    for width, height in sides.tolist():
        end = bisect_left(widths, width)
        if end < len(widths) and heights[end] >= height:
            gains.append(0.0)
            continue
        start = end
        while start and heights[start - 1] <= height:
            start -= 1
        stop = end + (end < len(widths) and widths[end] == width)
        steps = [widths[start - 1] if start else 0.0, *widths[start:end], width]
        floors = [*heights[start:end], heights[end] if end < len(widths) else 0.0]
        gains.append(sum((b - a) * (height - f) for a, b, f in zip(steps, steps[1:], floors, strict=False)))
        widths[start:stop], heights[start:stop] = [width], [height]
    return gains


def _gains_in_space(sides: NDArray[np.float64]) -> list[float]:
    """Returns the volume that each box (N, M) adds to the earlier boxes."""
    gains, front = [], np.empty((0, sides.shape[1]))
    for box in sides:
        if not box.all() or (front >= box).all(axis=1).any():
            gains.append(0.0)
            continue
        gains.append(_gain(front, box))
        front = np.vstack([front[~(front <= box).all(axis=1)], box])
    return gains
