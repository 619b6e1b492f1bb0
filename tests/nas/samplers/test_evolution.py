"""Evolution: parents, tournaments, and its result on a toy problem."""

import math
import random
import statistics

import optuna
import pytest

from nas.pareto import hypervolume
from nas.samplers import SAMPLERS, Evolution, Random
from search_spaces import darts


def distance(architecture):
    """Returns the number of choices that are not 0, and no constraints."""
    return float(sum(value != 0 for value in architecture.values())), {}


def children(sampler, history, count=60):
    return [sampler.propose(history, seed) for seed in range(count)]


def differing(first, second):
    return sum((type(first[name]), first[name]) != (type(second[name]), second[name]) for name in first)


def test_name():
    assert SAMPLERS["evolution"] is Evolution


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": 1}, "^population must be at least 2, got 1$"),
        ({"tournament": 0}, "^tournament must be at least 1, got 0$"),
        ({"crossover": 1.5}, "^crossover must be from 0 to 1, got 1.5$"),
        ({"crossover": math.nan}, "^crossover must be from 0 to 1, got nan$"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Evolution(**settings)


def test_nothing_ended_yet_gives_any_architecture(toy, history_of):
    space = toy(3, 3)
    architectures = children(Evolution(), history_of(space))
    assert {tuple(architecture.values()) for architecture in architectures} == {(a, b) for a in range(3) for b in range(3)}


def test_same_history_and_seed_same_proposal(toy, history_of):
    space = toy(4, 4, 4)
    generator = random.Random(0)
    trials = [(space.sample(generator), (float(i % 7),), {}) for i in range(20)]
    first, second = (children(Evolution(crossover=0.5), history_of(space, trials)) for _ in range(2))
    assert first == second
    assert len({tuple(architecture.values()) for architecture in first}) > 1


def test_child_is_one_choice_away_from_the_best_if_all_are_drawn(toy, history_of):
    space = toy(4, 4, 4, 4)
    generator = random.Random(0)
    trials = [(space.sample(generator), (value,), {}) for value in (3.0, 1.0, 2.0, math.inf)]
    for child in children(Evolution(tournament=100), history_of(space, trials)):
        assert differing(child, trials[1][0]) == 1


def test_the_oldest_are_no_parents_however_good(toy, history_of):
    space = toy(9, 9, 9)
    best = {"a": 0, "b": 0, "c": 0}
    newer = [({"a": 5, "b": 5, "c": 5 + i}, (9.0,), {}) for i in range(3)]
    history = history_of(space, [(best, (0.0,), {}), *newer])
    assert all(differing(child, best) >= 2 for child in children(Evolution(population=3), history))
    assert all(differing(child, best) == 1 for child in children(Evolution(population=4, tournament=100), history))


def test_what_has_no_values_is_no_parent(toy, history_of):
    space = toy(9, 9, 9)
    good = {"a": 0, "b": 0, "c": 0}
    failed = [({"a": 5, "b": 5, "c": i}, None, {"size": 1.0}) for i in range(9)]
    history = history_of(space, [(good, (1.0,), {}), *failed])
    assert all(differing(child, good) == 1 for child in children(Evolution(population=3), history))


def test_among_what_was_rejected_the_least_violation_wins(toy, history_of):
    space = toy(9, 9, 9)
    trials = [({"a": i, "b": i, "c": i}, None, {"size": 5.0 - i, "other": -9.0}) for i in range(4)]
    history = history_of(space, [*trials, ({"a": 8, "b": 8, "c": 8}, None, {})])
    for child in children(Evolution(tournament=100), history):
        assert differing(child, trials[3][0]) == 1


def test_only_failures_give_any_architecture(toy, history_of):
    history = history_of(toy(3, 3), [({"a": 0, "b": 0}, None, {})])
    assert len({tuple(architecture.values()) for architecture in children(Evolution(), history)}) == 9


def test_feasible_goes_before_better(toy, history_of):
    space = toy(9, 9, 9)
    feasible = {"a": 0, "b": 0, "c": 0}
    history = history_of(
        space,
        [
            ({"a": 5, "b": 5, "c": 5}, (0.0,), {"size": 0.1}),
            (feasible, (math.inf,), {"size": 0.0}),
            ({"a": 6, "b": 6, "c": 6}, (0.0,), {"size": -1.0, "error": 0.2}),
        ],
    )
    assert all(differing(child, feasible) == 1 for child in children(Evolution(tournament=100), history))


def test_of_several_objectives_the_sparse_part_of_the_front_wins(toy, history_of):
    space = toy(9, 9, 9)
    points = [(0.0, 4.0), (0.1, 3.9), (0.2, 3.8), (4.0, 0.0), (5.0, 5.0)]
    trials = [({"a": i, "b": i, "c": i}, point, {}) for i, point in enumerate(points)]
    history = history_of(space, trials, objectives=2)
    parents = set()
    for child in children(Evolution(tournament=50), history):
        parents |= {i for i, (parent, *_) in enumerate(trials) if differing(child, parent) == 1}
    assert parents == {0, 3}


def test_equal_values_are_all_parents(toy, history_of):
    space = toy(9, 9, 9)
    trials = [({"a": i, "b": i, "c": i}, (1.0,), {}) for i in range(4)]
    parents = set()
    for child in children(Evolution(), history_of(space, trials)):
        parents |= {i for i, (parent, *_) in enumerate(trials) if differing(child, parent) == 1}
    assert parents == {0, 1, 2, 3}


def test_new_children_are_preferred(toy, history_of):
    space = toy(3, 3)
    trials = [({"a": a, "b": b}, (float(a + b),), {}) for a in range(3) for b in range(3) if (a, b) != (0, 2)]
    history = history_of(space, trials)
    new = sum(history.is_new(child) for child in children(Evolution(), history))
    assert new > 55


def test_a_space_without_anything_new_is_no_trap(toy, history_of):
    space = toy(2, 1)
    trials = [({"a": a, "b": 0}, (0.0,), {}) for a in range(2)]
    assert Evolution().propose(history_of(space, trials), 0) in list(space.enumerate())


def test_values_of_mixed_types(toy, history_of):
    space = toy((1, 1.0, True, None, "1"), (7,))
    history = history_of(space, [({"a": True, "b": 7}, (0.0,), {})])
    values = {(type(child["a"]), child["a"]) for child in children(Evolution(), history)}
    assert values == {(int, 1), (float, 1.0), (type(None), None), (str, "1")}


def test_crossover_takes_choices_from_two_parents(toy, history_of):
    space = toy(*[9] * 8)
    trials = [(dict.fromkeys(space.choices, value), (0.0,), {}) for value in (0, 8)]
    for child in children(Evolution(crossover=1.0), history_of(space, trials)):
        assert sum(value not in (0, 8) for value in child.values()) <= 1
    mixed = sum(set(child.values()) >= {0, 8} for child in children(Evolution(crossover=1.0), history_of(space, trials)))
    assert mixed > 15


@pytest.mark.parametrize("stops", [(3,), (6, 11)])
def test_resumed_equals_uninterrupted(toy, search, tmp_path, stops):
    space, sampler, architectures = toy(4, 4, 4, 4), Evolution(crossover=0.5), []
    for start, stop in zip((0, *stops), (*stops, 16), strict=True):
        storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
        study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
        architectures += search(sampler, space, distance, stop - start, study=study)
        storage.engine.dispose()
    assert architectures == search(sampler, space, distance, 16)


def test_it_finds_the_optimum_sooner_than_chance(toy, search):
    def best(sampler):
        runs = [search(sampler, toy(*[5] * 8), distance, 60, seed=seed) for seed in range(5)]
        return statistics.median(min(distance(architecture)[0] for architecture in run) for run in runs)

    assert best(Evolution()) <= 1 < 3 <= best(Random())


def test_it_finds_the_feasible_optimum(toy, search):
    def measure(architecture):
        zeros = sum(value == 0 for value in architecture.values())
        return -float(zeros), {"zeros": zeros - 4.0}  # The objective favours more zeros than the constraint allows.

    def best(seed):
        values = [measure(architecture) for architecture in search(Evolution(), toy(*[5] * 8), measure, 60, seed=seed)]
        return min(value for value, constraints in values if constraints["zeros"] <= 0)

    assert statistics.median(best(seed) for seed in range(5)) == -4


def test_it_finds_a_front(toy, search):
    def measure(architecture):
        values = list(architecture.values())
        return (float(sum(values)), float(sum((4 - value) * (i % 3 > 0) for i, value in enumerate(values)))), {}

    def covered(sampler):
        runs = [search(sampler, toy(*[5] * 6), measure, 60, seed=seed, objectives=2) for seed in range(3)]
        return statistics.median(hypervolume([measure(a)[0] for a in run], (24.0, 16.0)) for run in runs)

    assert covered(Evolution()) > 1.1 * covered(Random())


def test_failures_do_not_stop_it(toy, search):
    def measure(architecture):
        return (None, {}) if architecture["a"] == 1 else distance(architecture)

    architectures = search(Evolution(), toy(*[3] * 6), measure, 50)
    assert min(map(distance, architectures))[0] <= 1


def test_a_large_space(history_of):
    space, generator = darts(), random.Random(0)
    trials = [(space.sample(generator), (float(i),), {}) for i in range(10)]
    assert space.validate(Evolution().propose(history_of(space, trials), 0))
