"""Surrogate: predictions, proposals, and robustness to any history."""

import math
import random
import statistics
import time

import numpy as np
import optuna
import pytest
from scipy.stats import multivariate_normal

from nas.pareto import hypervolume
from nas.samplers import SAMPLERS, Random, Surrogate
from nas.samplers.gaussian_process import distances_to, fit
from search_spaces import SPACES, cell201, darts

MIXED = (("x", 1, True), (1.0, None, 2), (False, 0, 0.0, "0"), 4, 4, 4, 4)


def steps(architecture):
    """Returns the sum of the values of all choices, and no constraints."""
    return float(sum(architecture.values())), {}


def trials_of(space, count, measure, seed=0):
    generator = random.Random(seed)
    return [(architecture, *measure(architecture)) for architecture in (space.sample(generator) for _ in range(count))]


def test_name():
    assert SAMPLERS["surrogate"] is Surrogate


@pytest.mark.parametrize(("name", "least"), [("start", 0), ("candidates", 1), ("parents", 1), ("points", 2)])
def test_settings_below_the_least_are_refused(name, least):
    Surrogate(**{name: least})
    with pytest.raises(ValueError, match=f"^{name} must be at least {least}, got {least - 1}$"):
        Surrogate(**{name: least - 1})


# The Gaussian process.


def test_likelihood_and_prediction_are_those_of_a_normal_distribution(toy):
    """Compares the Gaussian process with a joint normal distribution, conditioned on the measurements."""
    space = toy(4, 4, 4)
    architectures = [space.sample(random.Random(seed)) for seed in range(12)]
    distances = distances_to(space, architectures, 12)
    values = np.random.default_rng(0).normal(3, 2, 9)
    process = fit(distances[:, :9, :9], values)
    mean, deviation = process.predict(distances[:, 9:, :9])

    relative = distances / process.lengthscales[:, None, None]
    kernels = np.concatenate([np.exp(-0.1 * relative), np.exp(-relative)])
    covariance = np.tensordot(process.variances[:-1], kernels, 1)
    noisy = covariance[:9, :9] + process.variances[-1] * np.eye(9)
    gain = covariance[9:, :9] @ np.linalg.inv(noisy)
    wanted = values.mean() + gain @ (values - values.mean())
    left = covariance[9:, 9:] - gain @ covariance[:9, 9:]
    np.testing.assert_allclose(mean, wanted, rtol=1e-3)
    np.testing.assert_allclose(deviation, values.std() * np.sqrt(np.diag(left)), rtol=1e-3)

    def evidence(weights):
        standard = (values - values.mean()) / values.std()
        total = np.tensordot(weights[:-1], kernels[:, :9, :9], 1) + weights[-1] * np.eye(9)
        prior = 0.02 * ((np.log(weights) + 2) ** 2).sum()
        return multivariate_normal(np.zeros(9), total).logpdf(standard) - prior

    best = evidence(process.variances)
    for place in range(len(process.variances)):
        for factor in (0.8, 1.25):
            moved = process.variances.copy()
            moved[place] *= factor
            assert evidence(moved) < best + 1e-3


@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_noise_is_estimated(toy, noise):
    space, numbers = toy(*[4] * 6), np.random.default_rng(0)
    architectures = [space.sample(random.Random(seed)) for seed in range(150)]
    values = np.array([float(sum(each.values())) for each in architectures])
    values = values / values.std() + numbers.normal(0, noise, 150)
    assert fit(distances_to(space, architectures, 150), values).noise == pytest.approx(noise, rel=0.35)


def test_a_value_that_was_never_measured_is_less_certain(toy):
    space = toy(4, 4, 4)
    architectures = [space.sample(random.Random(seed)) | {"a": seed % 2} for seed in range(30)]
    values = np.array([float(each["a"]) for each in architectures])
    everything = [*architectures, {"a": 1, "b": 0, "c": 0}, {"a": 3, "b": 0, "c": 0}]
    distances = distances_to(space, everything, 30)
    _, deviation = fit(distances[:, :30], values).predict(distances[:, 30:])
    assert deviation[1] > 2 * deviation[0]


def test_distances_of_choices_count_those_that_differ():
    space = SPACES["macro"](stages=1)
    generator = random.Random(0)
    rows = [space.canonical(space.sample(generator)) for _ in range(12)]
    nominal, ordinal = distances_to(space, rows, 5)
    width = list(space.choices["width1"].values)
    for i, first in enumerate(rows):
        for j, second in enumerate(rows[:5]):
            differing = {n for n in first if repr(first[n]) != repr(second[n])}
            assert nominal[i, j] == pytest.approx(len(differing))
            wanted = len(differing - {"width1", "depth1", "kernel"})
            wanted += abs(width.index(first["width1"]) - width.index(second["width1"])) / (len(width) - 1)
            wanted += abs(first["depth1"] - second["depth1"]) / 3 + abs(first["kernel"] - second["kernel"]) / 4
            assert ordinal[i, j] == pytest.approx(wanted)


def test_cells_that_compute_the_same_differ_in_their_choices_alone():
    space = cell201()
    live = dict(zip(space.choices, ("conv3x3", "none", "none", "skip", "none", "none"), strict=True))
    dead = live | {"edge12": "conv1x1"}  # Node 2 feeds nothing.
    assert space.key(live) == space.key(dead)
    distances = distances_to(space, [live, dead], 1)[:, 1, 0]
    assert distances[0] == pytest.approx(1)
    assert distances[1:] == pytest.approx(0)


# The search.


@pytest.mark.parametrize("name", ["mlp", "macro", "cell201", "darts"])
def test_proposals_depend_only_on_history_and_seed(name, history_of):
    space = SPACES[name]()
    trials = trials_of(space, 20, lambda a: ((len(repr(a)) / 10,), {"c": len(repr(a)) % 7 - 3.0}))
    first = Surrogate(start=0).propose(history_of(space, trials), 0)
    Surrogate(start=0).propose(history_of(space, trials[:9]), 3)
    assert Surrogate(start=0).propose(history_of(space, trials), 0) == first
    assert space.validate(first) == first
    assert any(Surrogate(start=0).propose(history_of(space, trials), seed) != first for seed in range(1, 4))


def test_resumed_equals_uninterrupted(toy, search):
    space = toy(4, 4, 4, 4)
    whole = search(Surrogate(start=0), space, steps, 16)
    study = optuna.create_study()
    parts = [each for count in (7, 1, 8) for each in search(Surrogate(start=0), space, steps, count, study=study)]
    assert parts == whole


def test_finds_the_best_far_sooner_than_chance(toy, search):
    """One of 4**6 = 4,096 architectures is the best. Each search has 60 trials."""
    space = toy(*[4] * 6)
    best = [min(map(steps, search(Surrogate(start=0), space, steps, 60, seed=seed)))[0] for seed in range(3)]
    chance = [min(map(steps, search(Random(), space, steps, 60, seed=seed)))[0] for seed in range(3)]
    assert best == [0, 0, 0]
    assert min(chance) > 1


def test_finds_what_matters_in_a_vast_space(search):
    space = darts()
    convolutions = lambda a: (-float(sum("sepconv" in str(value) for value in a.values())), {})  # noqa: E731
    best = min(map(convolutions, search(Surrogate(start=0, candidates=100), space, convolutions, 30)))[0]
    chance = min(map(convolutions, search(Random(), space, convolutions, 30)))[0]
    assert best <= -12 < -9 <= chance


def test_keeps_to_the_constraints(toy, search):
    """Minimises a sum with a lower bound of 14, which 1 in 20 architectures reach. The optimum is at the bound."""
    space = toy(*[4] * 6)
    measure = lambda a: (steps(a)[0], {"least": 14 - steps(a)[0]})  # noqa: E731
    sums = [steps(each)[0] for each in search(Surrogate(start=0), space, measure, 40)]
    assert min(value for value in sums if value >= 14) == 14
    assert statistics.fmean(value >= 14 for value in sums[10:]) > 0.15


def test_learns_constraints_from_rejected_trials(toy, history_of):
    """Infeasible trials have no values. All feasible trials have a = 0, so most proposals must have a = 0, too."""
    space = toy(4, 4, 4, 4)

    def measure(a):
        return (None, {"c": float(a["a"])}) if a["a"] else ((float(a["b"]),), {"c": -0.5})

    history = history_of(space, trials_of(space, 40, measure))
    proposed = [Surrogate(start=0).propose(history, seed) for seed in range(10)]
    assert statistics.fmean(each["a"] == 0 for each in proposed) >= 0.9


@pytest.mark.parametrize("values", [None, (1.0,)])
def test_proposals_approach_feasibility_while_no_trial_is_feasible(toy, history_of, values):
    space = toy(*[4] * 6)
    history = history_of(space, trials_of(space, 40, lambda a: (values, {"c": steps(a)[0]})))
    least = min(trial.constraints["c"] for trial in history.finished)
    proposed = [steps(Surrogate(start=0).propose(history, seed))[0] for seed in range(5)]
    assert statistics.fmean(proposed) < least


def test_several_objectives_are_traded_off(toy, search):
    space = toy(*[4] * 5)

    def measure(a):
        pulls = sum(a[name] != 0 for name in "abc"), sum(a[name] != 3 for name in "cde"), sum(a[name] != 1 for name in "ae")
        return [float(pull) for pull in pulls], {}

    def volume(sampler, seed):
        architectures = search(sampler, space, measure, 25, seed=seed, objectives=3)
        return hypervolume([tuple(measure(each)[0]) for each in architectures], (4, 4, 4))

    assert min(volume(Surrogate(start=0), seed) for seed in range(3)) > max(volume(Random(), seed) for seed in range(3))


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_any_number_of_objectives_will_do(toy, history_of, objectives):
    space = toy(*[4] * 4)
    measure = lambda a: (tuple(float(v) for v in a.values())[:objectives], {})  # noqa: E731
    history = history_of(space, trials_of(space, 20, measure), objectives=objectives)
    for seed in range(3):
        space.validate(Surrogate(start=0).propose(history, seed))


# Histories.

HUGE = [math.inf, -math.inf, 1e300, -1e300, 1e-300, 0.0, 3.0]
HISTORIES = {
    "nothing": [],
    "only failures": [(None, {})] * 5,
    "one measured": [((1.0,), {})],
    "two measured": [((1.0,), {}), ((2.0,), {})],
    "one rejected": [(None, {"c": 1.0})],
    "one measured, one rejected": [((1.0,), {"c": -1.0}), (None, {"c": 1.0})],
    "all the same": [((1.0,), {"c": 0.0})] * 9,
    "all infinite": [((math.inf,), {})] * 9,
    "huge": [((value,), {}) for value in HUGE],
    "huge excesses": [((1.0,), {"c": value}) for value in HUGE],
    "feasible but failed": [(None, {"c": -1.0})] * 3,
    "constraints known of some": [((1.0,), {"c": -1.0}), ((2.0,), {}), ((0.5,), {"d": 2.0}), (None, {"c": 3.0, "d": -1.0})],
}


@pytest.mark.parametrize("name", HISTORIES)
def test_any_history_will_do(toy, history_of, name):
    for space in (toy(*MIXED), cell201()):
        drawn = [space.sample(random.Random(seed)) for seed in range(len(HISTORIES[name]))]
        history = history_of(space, [(a, *rest) for a, rest in zip(drawn, HISTORIES[name], strict=True)])
        proposed = Surrogate(start=0).propose(history, 0)
        assert space.validate(proposed) == proposed
        assert history.is_new(proposed)


def test_without_measurements_draws_are_uniform(toy, history_of):
    history = history_of(toy(4, 4))
    drawn = [Surrogate(start=0).propose(history, seed)["a"] for seed in range(400)]
    assert all(abs(drawn.count(value) / 400 - 0.25) < 0.09 for value in range(4))


def test_what_was_tried_is_not_proposed(toy, history_of):
    """Of 16 architectures, 12 were tried and 3 are running, so the remaining one is proposed."""
    space = toy(4, 4)
    everything = list(space.enumerate())
    for left in (0, 7, 15):
        tried = everything[:left] + everything[left + 1 :]
        history = history_of(space, [(a, (1.0,), {}) for a in tried[:12]], running=tried[12:])
        assert Surrogate(start=0).propose(history, 0) == everything[left]


@pytest.mark.parametrize("choices", [(1,), (1, 1), (2,)])
def test_spaces_that_are_used_up(toy, history_of, choices):
    space = toy(*choices)
    history = history_of(space, [(a, (1.0,), {}) for a in space.enumerate()])
    assert space.validate(Surrogate(start=0).propose(history, 0))


def test_ten_thousand_trials_take_no_longer(toy, history_of):
    space = toy(*[4] * 8)
    measure = lambda a: ((steps(a)[0],), {})  # noqa: E731
    few, many = (history_of(space, trials_of(space, count, measure)) for count in (300, 10_000))
    taken = {300: [], 10_000: []}
    for _ in range(3):  # The machine may be busy, so the smallest time counts.
        for history, times in zip((few, many), taken.values(), strict=True):
            started = time.process_time()
            Surrogate(start=0).propose(history, 0)
            times.append(time.process_time() - started)
    assert min(taken[10_000]) < 2 * min(taken[300]) + 0.5


def test_draws_uniformly_until_start_trials_have_finished(toy, history_of):
    space = toy(*[4] * 6)
    # The objective is the sum of the choices. Its mean is 9 over uniform draws, and lower over proposals of the model.
    trials = [(architecture, (float(steps(architecture)[0]),), {}) for architecture, *_ in trials_of(space, 12, steps)]

    def mean(known):
        history = history_of(space, trials[:known])
        return statistics.fmean(steps(Surrogate(start=12).propose(history, seed))[0] for seed in range(40))

    assert mean(11) == pytest.approx(9, abs=5 * (6 * 1.25 / 40) ** 0.5)
    assert mean(12) < 6
