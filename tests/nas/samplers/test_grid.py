"""The grid visits every architecture once, in an order that covers the space evenly from the start."""

import time

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.samplers import SAMPLERS, Grid
from nas.samplers.grid import golden_stride
from search_spaces import darts


def measure(architecture):
    return 0.0, {}


def flat(architectures):
    return [tuple(architecture.values()) for architecture in architectures]


def test_name():
    assert SAMPLERS["grid"] is Grid


@given(st.integers(1, 10**40))
def test_stride_meets_every_index_and_is_near_the_golden_section(size):
    stride = golden_stride(size)
    assert stride == 1 or pow(stride, -1, size) * stride % size == 1
    # Numbers coprime to the size are so dense that, for random sizes, one is within 60 of the golden section.
    assert abs(stride - (5**0.5 - 1) / 2 * size) < 60 + 1e-9 * size


@pytest.mark.parametrize("choices", [(1,), (2,), (1, 1), (5, 1, 2), (3, 4, 5), (2, 2, 2, 2, 2)])
def test_every_architecture_once(toy, search, choices):
    space = toy(*choices)
    assert sorted(flat(search(Grid(), space, measure, space.size, random_trials=0))) == sorted(flat(space.enumerate()))


def test_architectures_of_random_trials_are_passed_over(toy, search):
    space = toy(3, 4, 5)
    visited = flat(search(Grid(), space, measure, space.size, random_trials=7))
    assert len(set(visited)) == space.size


def test_of_equal_functions_one_is_visited(toy, search):
    # The last choice has no effect where the first is 0.
    space = toy(3, 4, canonical=lambda a: {**a, "b": 0} if a["a"] == 0 else dict(a))
    visited = search(Grid(), space, measure, 9, random_trials=0)
    assert len({space.key(architecture) for architecture in visited}) == 9


def test_it_goes_on_after_the_last_new_architecture(toy, search):
    space = toy(2, 2)
    assert len(search(Grid(), space, measure, 6, random_trials=0)) == 6


def test_seed_does_not_matter(toy, history_of):
    history = history_of(toy(4, 4), [({"a": 1, "b": 1}, (0.5,), {})])
    assert Grid().propose(history, 0) == Grid().propose(history, 1)


def test_failed_and_running_trials_are_passed_over(toy, history_of):
    space = toy(4, 4)
    first = Grid().propose(history_of(space), 0)
    second = Grid().propose(history_of(space, [(first, None, {})]), 0)
    third = Grid().propose(history_of(space, [(first, None, {})], running=[second]), 0)
    assert len(set(flat([first, second, third]))) == 3
    assert third == Grid().propose(history_of(space, [(first, None, {}), (second, (0.0,), {})]), 0)


def test_values_of_mixed_types_are_told_apart(toy, history_of):
    space = toy((1, 1.0, True, None, "1"), (0, False))
    trials = []
    for _ in range(space.size):
        trials.append((Grid().propose(history_of(space, trials), 0), (0.0,), {}))
    assert len({space.index(architecture) for architecture, *_ in trials}) == space.size


def test_first_visits_spread_over_the_indices(toy, search):
    space = toy(10, 10, 10)
    visited = np.sort([space.index(a) for a in search(Grid(), space, measure, 50, random_trials=0)])
    gaps = np.diff([*visited, visited[0] + space.size])
    assert len(set(gaps)) <= 3  # the three-gap theorem
    assert gaps.max() < 3 * space.size / 50


@pytest.mark.parametrize("stops", [(1,), (4, 9)])
def test_resumed_equals_uninterrupted(toy, search, tmp_path, stops):
    space = toy(3, 4, 5)
    visited = []
    for start, stop in zip((0, *stops), (*stops, 14), strict=True):
        storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
        study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
        visited += search(Grid(), space, measure, stop - start, study=study, random_trials=3)
        storage.engine.dispose()
    assert visited == search(Grid(), space, measure, 14, random_trials=3)


def test_a_space_of_any_size_is_walked_without_listing_it(history_of):
    space, trials = darts(), []
    started = time.process_time()
    for _ in range(30):
        trials.append((Grid().propose(history_of(space, trials), 0), (0.0,), {}))
    assert time.process_time() - started < 10
    assert len({space.key(architecture) for architecture, *_ in trials}) == 30
