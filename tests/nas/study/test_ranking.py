"""Ranking of trials: feasible trials first, and the order of the Pareto front."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.config.schema import ObjectiveConfig
from nas.pareto import hypervolume
from nas.study.ranking import MOST_SPREAD, front, hypervolume_so_far, ranked, sort_key
from nas.study.trial import Trial

BOTH = ObjectiveConfig(minimise=("adversarial_error", "parameters"))
THREE = ObjectiveConfig(minimise=("adversarial_error", "clean_error", "parameters"))


def trial(number, *, adversarial=0.5, clean=0.1, parameters=100.0, violation=0.0, state="complete", key=None):
    return Trial(
        number=number,
        state=state,
        key=key or f"key{number}",
        architecture={},
        metrics={"adversarial_error": adversarial, "clean_error": clean, "parameters": parameters},
        violation=violation,
        seconds=0.0,
        reason=None,
        duplicate_of=None,
    )


def numbers(trials, *minimise):
    return [t.number for t in ranked(trials, ObjectiveConfig(minimise=minimise or ("adversarial_error",)))]


def test_feasible_come_first_and_then_the_others_by_violation():
    trials = [
        trial(0, adversarial=0.1, violation=0.5),
        trial(1, adversarial=0.9),
        trial(2, adversarial=0.2, violation=0.1),
        trial(3, adversarial=0.8),
    ]
    assert numbers(trials) == [3, 1, 2, 0]


def test_only_complete_trials_are_ranked():
    trials = [trial(0, adversarial=0.1, state="failed"), trial(1, state="infeasible"), trial(2, state="running"), trial(3)]
    assert numbers(trials) == [3]
    assert numbers([]) == []


def test_of_equals_the_earlier_comes_first():
    assert numbers([trial(2), trial(0), trial(1)]) == [0, 1, 2]


def test_an_architecture_is_ranked_once_as_its_first_trial():
    assert numbers([trial(0, adversarial=0.4), trial(1, adversarial=0.3, key="a"), trial(2, adversarial=0.3, key="a")]) == [
        1,
        0,
    ]


def test_pareto_front_comes_before_what_it_dominates():
    trials = [
        trial(0, adversarial=0.10, parameters=900),
        trial(1, adversarial=0.20, parameters=950),  # Trial 0 dominates it.
        trial(2, adversarial=0.30, parameters=100),
        trial(3, adversarial=0.40, parameters=100),  # Trial 2 dominates it.
        trial(4, adversarial=0.25, parameters=500),
    ]
    # The reference point is (0.43, 1035). To the area that trial 0 dominates, trial 2 adds 0.13 * 800 = 104, and trial 4
    # adds 0.18 * 400 = 72.
    assert numbers(trials, "adversarial_error", "parameters") == [0, 2, 4, 1, 3]
    # To the area that trial 2 dominates, trial 0 adds 0.2 * 135 = 27, and trial 4 adds 0.05 * 535 = 26.75.
    assert numbers(trials, "parameters", "adversarial_error") == [2, 0, 4, 3, 1]


def test_equal_points_do_not_dominate_each_other():
    assert numbers([trial(0), trial(1)], "adversarial_error", "parameters") == [0, 1]


def test_infeasible_point_dominates_no_feasible_one():
    trials = [trial(0, adversarial=0.1, parameters=10, violation=1.0), trial(1, adversarial=0.2, parameters=20)]
    assert numbers(trials, "adversarial_error", "parameters") == [1, 0]


def test_smallest_sort_key_is_that_of_the_first():
    trials = [
        trial(0, violation=0.2),
        trial(1, parameters=3),
        trial(2, parameters=2),
        trial(3, adversarial=0.6, parameters=1),
    ]
    assert min(trials, key=lambda t: sort_key(t, BOTH)) == ranked(trials, BOTH)[0] == trials[2]


def dominated(a, b, names):
    """Returns whether trial a is dominated by trial b."""
    pairs = [(a.metrics[name], b.metrics[name]) for name in names]
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


grids = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=12
)


@given(grids, st.sampled_from([ObjectiveConfig(), BOTH, THREE]))
def test_front_is_what_no_feasible_trial_dominates(points, objective):
    trials = [
        trial(i, adversarial=a, clean=c, parameters=p, violation=max(0, v - 2)) for i, (a, c, p, v) in enumerate(points)
    ]
    feasible = [t for t in trials if t.violation == 0]
    wanted = [t for t in feasible if not any(dominated(t, other, objective.minimise) for other in feasible)]
    members = front(trials, objective)
    assert sorted(t.number for t in members) == [t.number for t in wanted]
    assert ranked(trials, objective)[: len(members)] == members
    assert sorted(t.number for t in ranked(trials, objective)) == list(range(len(trials)))
    if members:
        assert members[0] == min(feasible, key=lambda t: sort_key(t, objective))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=10, unique=True))
def test_each_next_of_the_front_adds_the_most_hypervolume(points):
    trials = [trial(i, adversarial=a, parameters=p) for i, (a, p) in enumerate(points)]
    table = np.array(points, dtype=float)
    reference = table.max(0) + 0.1 * np.ptp(table, axis=0)
    chosen = [(t.metrics["adversarial_error"], t.metrics["parameters"]) for t in front(trials, BOTH)]
    for i in range(1, len(chosen)):
        volumes = [hypervolume([*chosen[:i], point], reference) for point in chosen[i:]]
        assert volumes[0] == pytest.approx(max(volumes))


def test_large_front_is_whole_with_the_rest_in_order_of_the_first_objective():
    count = MOST_SPREAD + 20
    members = front([trial(i, adversarial=i, parameters=count - i) for i in range(count)], BOTH)
    assert sorted(t.number for t in members) == list(range(count))
    rest = [t.number for t in members[MOST_SPREAD:]]
    assert len(rest) == 20
    assert rest == sorted(rest)


def test_front_of_nothing_feasible_is_empty():
    assert front([], BOTH) == front([trial(0, violation=1.0), trial(1, state="pruned")], BOTH) == []


def test_front_of_one_objective_is_the_best_and_what_equals_it():
    trials = [trial(0), trial(1, adversarial=0.4), trial(2, adversarial=0.4)]
    assert [t.number for t in front(trials, ObjectiveConfig())] == [1, 2]


class TestHypervolume:
    def test_two_corners_of_the_box_add_nothing_and_what_lies_between_adds_its_rectangle(self):
        # The box is the range of each objective. Scaled to it, the trials are at (0, 1), (1, 0), (0.25, 0.5) and
        # (0.5, 0.75). The third point dominates the last one.
        trials = [
            trial(0, adversarial=0.2, parameters=500),
            trial(1, adversarial=0.6, parameters=100),
            trial(3, adversarial=0.3, parameters=300),
            trial(4, adversarial=0.4, parameters=400),
        ]
        wanted = [(0, 0.0), (1, 0.0), (3, 0.75 * 0.5), (4, 0.75 * 0.5)]
        assert hypervolume_so_far(trials, BOTH) == [(number, pytest.approx(share)) for number, share in wanted]

    def test_best_at_both_is_the_whole_box(self):
        trials = [trial(0, adversarial=0.9, parameters=9), trial(1, adversarial=0.1, parameters=1)]
        assert hypervolume_so_far(trials, BOTH) == [(0, 0.0), (1, 1.0)]

    def test_of_one_objective_it_is_the_share_of_the_range(self):
        trials = [trial(0, adversarial=0.5), trial(1, adversarial=0.4), trial(2, adversarial=0.1), trial(3, adversarial=0.2)]
        history = hypervolume_so_far(trials, ObjectiveConfig())
        assert history == [(number, pytest.approx(share)) for number, share in [(0, 0), (1, 0.25), (2, 1), (3, 1)]]

    def test_what_does_not_vary_is_no_side_of_the_box(self):
        trials = [trial(0, adversarial=0.4), trial(1, adversarial=0.2)]
        assert hypervolume_so_far(trials, BOTH) == [(0, 0.0), (1, 1.0)]

    def test_only_complete_and_feasible_trials_count(self):
        counted = [trial(1, adversarial=0.4, parameters=10), trial(5, adversarial=0.2, parameters=20)]
        others = [
            trial(0, adversarial=0.0, parameters=0, violation=0.1),
            trial(2, adversarial=0.0, parameters=0, state="pruned"),
            trial(3, state="running"),
        ]
        mixed = sorted([*counted, *others], key=lambda t: t.number)
        assert hypervolume_so_far(mixed, BOTH) == hypervolume_so_far(counted, BOTH)
        assert [number for number, _ in hypervolume_so_far(mixed, BOTH)] == [1, 5]

    def test_fewer_than_two_points_or_more_than_five_objectives_have_none(self):
        assert hypervolume_so_far([], BOTH) == hypervolume_so_far([trial(0)], BOTH) == []
        names = [f"adversarial_error@0.{i}" for i in range(1, 7)]
        trials = [trial(i) for i in range(2)]
        for i, t in enumerate(trials):
            t.metrics.update(dict.fromkeys(names, float(i)))
        assert hypervolume_so_far(trials, ObjectiveConfig(minimise=tuple(names))) == []
        assert hypervolume_so_far(trials, ObjectiveConfig(minimise=tuple(names[:5]))) == [(0, 1.0), (1, 1.0)]

    @given(grids)
    def test_grows_and_counts_cells_of_the_grid(self, points):
        # The hypervolume is the share of the 5 x 5 x 5 cells that some point dominates. The corners fix the box to [0, 5].
        corners = [(0, 5, 5), (5, 0, 5), (5, 5, 0)]
        rows = [*corners, *(point[:3] for point in points)]
        trials = [trial(i, adversarial=a, clean=c, parameters=p) for i, (a, c, p) in enumerate(rows)]
        cells = list(itertools.product(range(5), repeat=3))
        for i, (_, share) in enumerate(hypervolume_so_far(trials, THREE)):
            covered = sum(
                any(all(x <= y for x, y in zip(row, cell, strict=True)) for row in rows[: i + 1]) for cell in cells
            )
            assert share == pytest.approx(covered / 125)
