"""Fronts and hypervolumes, compared with brute force and closed forms."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nas.pareto import constrained_rank, crowding, front_ranks, hypervolume, hypervolume_history, hypervolume_subset


def tables(least=1, most=5, rows=12):
    """Returns a strategy for tables of points (N, M). The values are small integers, so many are equal."""
    shapes = st.tuples(st.integers(0, rows), st.integers(least, most))
    return shapes.flatmap(lambda shape: arrays.arrays(float, shape, elements=st.integers(0, 4).map(float)))


def dominates(p, q):
    return (p <= q).all() and (p < q).any()


def peeled(points):
    """Returns the number of the front of each point, from 0, by repeated removal of the non-dominated points."""
    ranks, left = np.full(len(points), -1), set(range(len(points)))
    for front in itertools.count():
        if not left:
            return ranks
        first = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        ranks[list(first)] = front
        left -= first
    return None


def cubes(points, reference):
    """Returns the hypervolume of integer points by counting unit cubes."""
    cells = itertools.product(*(range(int(r)) for r in reference))
    return sum(any((p <= cell).all() for p in points) for cell in map(np.array, cells))


@given(tables())
def test_fronts_agree_with_repeated_removal_of_non_dominated_points(points):
    np.testing.assert_array_equal(front_ranks(points), peeled(points))


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_fronts_of_real_numbers(objectives):
    points = np.random.default_rng(objectives).normal(size=(60, objectives))
    np.testing.assert_array_equal(front_ranks(points), peeled(points))


@pytest.mark.parametrize("objectives", [2, 3])
def test_infinite_values_come_after_all_others(objectives):
    points = np.full((4, objectives), 1.0)
    points[1, 0], points[2], points[3] = math.inf, math.inf, -math.inf
    assert front_ranks(points).tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_ten_thousand_points_are_sorted_within_seconds(objectives):
    points = np.random.default_rng(0).random((10_000, objectives))
    started = time.process_time()
    front_ranks(points)
    assert time.process_time() - started < 10  # CPU time. In practice, at most 0.6 s are used.


def test_points_must_be_a_table():
    with pytest.raises(ValueError, match=r"^points must have the shape \(N, M\), got \(3,\)$"):
        front_ranks([1, 2, 3])


def test_crowding_of_a_line():
    # (1, 3) lies between (0, 4) and (3, 1), which differ by 3 of 4 in both objectives: 3/4 + 3/4.
    assert crowding([[0, 4], [1, 3], [3, 1], [4, 0]]).tolist() == [math.inf, 1.5, 1.5, math.inf]


def test_crowding_counts_equal_points_once_and_ignores_what_is_equal_for_all():
    assert crowding([[0, 4, 7], [1, 3, 7], [1, 3, 7], [4, 0, 7]]).tolist() == [math.inf, 2.0, 2.0, math.inf]
    assert crowding([[1, 2], [1, 2]]).tolist() == [0, 0]


@given(tables(), st.randoms(use_true_random=False))
def test_crowding_depends_on_neither_order_nor_scale(points, random):
    order = list(range(len(points)))
    random.shuffle(order)
    scales = 2.0 ** np.arange(points.shape[1])
    np.testing.assert_array_equal(crowding(points[order] * scales), crowding(points)[order])


def test_crowding_of_infinite_values():
    assert not np.isnan(crowding([[0, math.inf], [1, 3], [2, 2], [math.inf, 0]])).any()
    assert not np.isnan(crowding([[math.inf, math.inf]])).any()


def test_rank_is_by_violation_then_front_then_crowding():
    points = [[9, 9], [0, 4], [1, 3], [2, 2], [4, 0], [0, 0], [0, 0], [1, 3]]
    # In order: dominated, end of the front, dense part, sparse part, other end, two infeasible points, dense part again.
    assert constrained_rank(points, [0, 0, 0, 0, 0, 2, 1, 0]).tolist() == [3, 0, 2, 1, 0, 5, 4, 2]


@given(tables(1, 1))
def test_rank_of_one_objective_is_the_order_of_its_values(points):
    expected = np.unique(points[:, 0], return_inverse=True)[1]
    np.testing.assert_array_equal(constrained_rank(points, np.zeros(len(points))), expected)


@given(tables(rows=8))
def test_hypervolume_counts_the_cubes(points):
    reference = [4.0] * points.shape[1]
    assert hypervolume(points, reference) == cubes(points, reference)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4, 5])
def test_hypervolume_of_one_box_and_of_two(objectives):
    reference = [1.0] * objectives
    point = np.linspace(0.1, 0.6, objectives)
    volume = np.prod(1 - point)
    assert hypervolume([point], reference) == pytest.approx(volume)
    other = point[::-1]
    shared = np.prod(1 - np.maximum(point, other))
    assert hypervolume([point, other], reference) == pytest.approx(2 * volume - shared)


@pytest.mark.parametrize("objectives", [2, 3, 4, 5])
def test_hypervolume_of_many_points_agrees_with_inclusion_by_sampling(objectives):
    generator = np.random.default_rng(objectives)
    points = generator.random((100, objectives)) ** 0.5
    samples = generator.random((20_000, objectives))
    inside = np.zeros(len(samples), dtype=bool)
    for point in points:
        inside |= (samples >= point).all(axis=1)
    volume = hypervolume(points, [1.0] * objectives)
    assert abs(volume - inside.mean()) < 5 * (volume * (1 - volume) / len(samples)) ** 0.5


@pytest.mark.parametrize(("objectives", "size"), [(3, 300), (4, 200), (5, 100)])
def test_hypervolume_of_a_whole_front_takes_seconds(objectives, size):
    points = np.abs(np.random.default_rng(0).normal(size=(size, objectives)))
    points /= np.linalg.norm(points, axis=1, keepdims=True)  # On a sphere, no point dominates another.
    started = time.process_time()
    assert 0 < hypervolume(points, [1.1] * objectives) < 1.1**objectives
    assert time.process_time() - started < 20


def test_points_beyond_the_reference_add_nothing():
    assert hypervolume([[0.5, 1.0], [1.0, 0.0], [2.0, 0.0], [math.inf, -1.0]], [1.0, 1.0]) == 0
    assert hypervolume(np.empty((0, 3)), [1.0] * 3) == 0


@pytest.mark.parametrize(
    ("shape", "reference", "message"),
    [
        ((2, 2), [1.0], "^points have 2 objectives, but the reference has 1$"),
        ((2, 6), [1.0] * 6, "^a hypervolume needs 1 to 5 objectives, got 6$"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(shape, reference, message):
    for function in (hypervolume, hypervolume_history, lambda points, r: hypervolume_subset(points, 1, r)):
        with pytest.raises(ValueError, match=message):
            function(np.zeros(shape), reference)


@given(tables(rows=10))
def test_history_is_the_hypervolume_after_every_point(points):
    reference = [4.0] * points.shape[1]
    expected = [hypervolume(points[: n + 1], reference) for n in range(len(points))]
    np.testing.assert_allclose(hypervolume_history(points, reference), expected)


@pytest.mark.parametrize("shape", ["inwards", "outwards", "on the front"])
def test_history_of_ten_thousand_points_of_two_objectives_is_fast(shape):
    points = np.random.default_rng(0).random((10_000, 2))
    if shape != "on the front":
        points = points[np.argsort(points.sum(axis=1) * (-1 if shape == "inwards" else 1))]
    else:
        points[:, 1] = 1 - points[:, 0]
    started = time.process_time()
    volumes = hypervolume_history(points, [1.0, 1.0])
    assert time.process_time() - started < 5  # CPU time. In practice, at most 0.1 s are used.
    assert volumes[-1] == pytest.approx(hypervolume(points, [1.0, 1.0]))


def test_choice_starts_with_the_best_by_the_first_objective_and_spreads():
    points = [[4, 0], [0, 4], [1, 3], [2, 2], [3, 1]]
    # (0, 4) is the best by the first objective. The next ones, (2, 2), (4, 0), (1, 3) and (3, 1), add 6, 2, 1 and 1.
    chosen = hypervolume_subset(points, 3, [5, 5])
    assert chosen[:2] == [1, 3]
    assert hypervolume_subset(points, 9, [5, 5])[:3] == chosen
    assert sorted(hypervolume_subset(points, 9, [5, 5])) == [0, 1, 2, 3, 4]


@given(tables(1, 4, rows=7), st.integers(0, 8))
def test_choice_is_greedy_by_brute_force(points, count):
    reference = [5.0] * points.shape[1]
    chosen = hypervolume_subset(points, count, reference)
    assert len(chosen) == len(set(chosen)) == min(count, len(points))
    for n in range(1, len(chosen)):
        gains = {i: hypervolume(points[[*chosen[:n], i]], reference) for i in range(len(points)) if i not in chosen[:n]}
        assert chosen[n] == max(gains, key=lambda i: (gains[i], -i))


def test_choice_takes_what_adds_nothing_too():
    assert hypervolume_subset([[9.0, 9.0], [8.0, 9.5], [7.0, math.inf]], 3, [1.0, 1.0]) == [2, 0, 1]
    assert hypervolume_subset(np.empty((0, 2)), 3, [1.0, 1.0]) == []
