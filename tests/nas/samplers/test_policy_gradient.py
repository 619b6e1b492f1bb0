"""Policy gradient: learning, exact replay, unchanged torch state, and bounded cost."""

import math
import random
import statistics
import time

import numpy as np
import optuna
import pytest
import torch

from nas.samplers import SAMPLERS, FinishedTrial, History, PolicyGradient, Random
from nas.samplers.policy_gradient import PolicyNetwork, batch_slices, rank_rewards
from search_spaces import cell201, darts

# Cache of trained policies. All histories share it, as in one study.
CACHE = {}


@pytest.fixture(autouse=True)
def forgotten():
    """Clears CACHE before each test."""
    CACHE.clear()


@pytest.fixture
def history_of(history_of):
    """A factory of histories that share CACHE."""
    return lambda *args, **kwargs: history_of(*args, cache=CACHE, **kwargs)


def distance(architecture):
    """Returns the number of choices that are not 0, and no constraints."""
    return float(sum(value != 0 for value in architecture.values())), {}


def sampled(space, count, measure=distance, seed=0):
    generator = random.Random(seed)
    drawn = [space.sample(generator) for _ in range(count)]
    return [(a, (measure(a)[0],), measure(a)[1]) for a in drawn]


def forget():
    CACHE.clear()


def test_name():
    assert SAMPLERS["ppo"] is PolicyGradient


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "^batch must be at least 1, got 0$"),
        ({"steps": 0}, "^steps must be at least 1, got 0$"),
        ({"hidden": -1}, "^hidden must be at least 1, got -1$"),
        ({"learning_rate": 0.0}, "^learning_rate must be positive, got 0$"),
        ({"learning_rate": math.inf}, "^learning_rate must be positive, got inf$"),
        ({"clip": -0.1}, "^clip must be positive, got -0.1$"),
        ({"entropy": -1.0}, "^entropy must not be negative, got -1$"),
        ({"entropy": math.nan}, "^entropy must not be negative, got nan$"),
        ({"memory": 1.0}, "^memory must be from 0 to below 1, got 1$"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PolicyGradient(**settings)


def test_untrained_policy_is_uniform_over_the_values_of_each_choice():
    network = PolicyNetwork([2, 5, 1, 3], hidden=8)
    drawn = network.draw(4000, torch.Generator().manual_seed(0))
    for column, size in zip(drawn.T, (2, 5, 1, 3), strict=True):
        counts = torch.bincount(column, minlength=5)
        assert counts[size:].sum() == 0
        assert (counts[:size] - 4000 / size).abs().max() < 5 * (4000 / size) ** 0.5


def test_probabilities_are_those_of_the_draws():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PolicyNetwork([2, 3], hidden=8)
        torch.nn.init.normal_(network.output)
    every = torch.tensor([[a, b] for a in range(2) for b in range(3)])
    with torch.no_grad():
        expected = network(every).gather(-1, every[..., None]).sum(dim=(1, 2)).exp()
    assert float(expected.sum()) == pytest.approx(1, abs=1e-5)
    drawn = network.draw(20_000, torch.Generator().manual_seed(0))
    share = torch.bincount(drawn[:, 0] * 3 + drawn[:, 1], minlength=6) / len(drawn)
    assert (share - expected).abs().max() < 5 * 0.5 / len(drawn) ** 0.5


def test_reward_is_the_share_surpassed_minus_the_share_that_surpass(toy, history_of):
    space = toy(9)
    cases = [((3.0,), {}), ((1.0,), {}), ((math.inf,), {}), ((3.0,), {}), (None, {})]
    trials = history_of(space, [({"a": i}, values, constraints) for i, (values, constraints) in enumerate(cases)]).finished
    np.testing.assert_allclose(rank_rewards(trials), [0.25, 1.0, -0.5, 0.25, -1.0])


def test_reward_ranks_by_violation_then_value_and_failures_last(toy, history_of):
    cases = [
        ((5.0,), {"size": 0.0}),
        ((1.0,), {"size": 0.5}),
        (None, {"size": 0.7}),
        (None, {}),
        (None, {"size": -1.0}),  # stopped early
        ((4.0,), {"size": -3.0}),
    ]
    trials = history_of(toy(9), [({"a": i}, values, constraints) for i, (values, constraints) in enumerate(cases)]).finished
    np.testing.assert_allclose(rank_rewards(trials), [0.6, -0.2, -0.6, -1.0, 0.2, 1.0])


def test_reward_does_not_change_with_the_scale(toy, history_of):
    values = [(float(v),) for v in (3, -1, 2, 5, 2)]
    one, other = (
        history_of(toy(9), [({"a": i}, (scale(v),), {}) for i, (v,) in enumerate(values)]).finished
        for scale in (float, lambda v: math.exp(9 * v) - 1e5)
    )
    np.testing.assert_array_equal(rank_rewards(one), rank_rewards(other))


def test_reward_of_several_objectives_is_by_front(toy, history_of):
    points = [(0.0, 1.0), (1.0, 0.0), (2.0, 2.0), None]
    trials = history_of(toy(9), [({"a": i}, p, {}) for i, p in enumerate(points)], objectives=2).finished
    np.testing.assert_allclose(rank_rewards(trials), [2 / 3, 2 / 3, -1 / 3, -1])


def test_batches_do_not_change_as_trials_are_added_and_grow_slowly():
    long = list(batch_slices(10_000, 8))
    for trials in (0, 7, 8, 511, 512, 530, 4000):
        shorter = list(batch_slices(trials, 8))
        assert shorter == long[: len(shorter)]
        assert trials - (shorter[-1].stop if shorter else 0) < max(8, trials / 16)
    assert [batch.start for batch in long[1:]] == [batch.stop for batch in long[:-1]]
    assert len(long) < 250


ENDS = (50, 20, 33, 34, 50)


def test_same_history_and_seed_same_proposal_warm_or_cold(toy, history_of):
    space = toy(4, 4, 4)
    trials = sampled(space, 50)
    cold = []
    for end in ENDS:
        forget()
        cold.append(PolicyGradient().propose(history_of(space, trials[:end]), 3))
    forget()
    # The cache must not matter: the histories come in any order, with other settings and other trials in between.
    for end, expected in zip(ENDS, cold, strict=True):
        assert PolicyGradient().propose(history_of(space, trials[:end]), 3) == expected
        PolicyGradient(entropy=0.5).propose(history_of(space, trials[:end]), 3)
        PolicyGradient().propose(history_of(space, sampled(space, 40, seed=1)), 3)


def test_another_seed_draws_otherwise(toy, history_of):
    history = history_of(toy(5, 5, 5, 5), sampled(toy(5, 5, 5, 5), 20))
    assert len({tuple(PolicyGradient().propose(history, seed).values()) for seed in range(10)}) > 5


def test_an_interrupted_update_leaves_no_half_trained_policy(toy, history_of, monkeypatch):
    space = toy(4, 4, 4)
    trials = sampled(space, 24)
    expected = PolicyGradient().propose(history_of(space, trials), 0)
    forget()
    PolicyGradient().propose(history_of(space, trials[:8]), 0)
    with monkeypatch.context() as patched:

        def interrupted(*_):
            raise KeyboardInterrupt

        patched.setattr(torch.optim.Adam, "zero_grad", interrupted)
        with pytest.raises(KeyboardInterrupt):
            PolicyGradient().propose(history_of(space, trials), 0)
    assert PolicyGradient().propose(history_of(space, trials), 0) == expected


@pytest.mark.parametrize("stops", [(3,), (8, 21)])
def test_resumed_equals_uninterrupted(toy, search, tmp_path, stops):
    space, sampler, architectures = toy(4, 4, 4, 4), PolicyGradient(batch=4), []
    for start, stop in zip((0, *stops), (*stops, 26), strict=True):
        forget()
        storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
        study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
        architectures += search(sampler, space, distance, stop - start, study=study)
        storage.engine.dispose()
    forget()
    assert architectures == search(sampler, space, distance, 26)


def test_torch_is_left_as_it_was(toy, history_of):
    space, threads = toy(4, 4), torch.get_num_threads()
    before = torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        PolicyGradient().propose(history_of(space, sampled(space, 20)), 0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before)


def test_state_of_torch_does_not_matter(toy, history_of):
    space = toy(4, 4)
    history = history_of(space, sampled(space, 20))
    expected = [PolicyGradient().propose(history, seed) for seed in range(5)]
    forget()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("meta"):
            torch.manual_seed(99)
            assert [PolicyGradient().propose(history, seed) for seed in range(5)] == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_nothing_ended_yet(toy, history_of):
    space = toy(3, 1, 2)
    proposals = {tuple(PolicyGradient().propose(history_of(space), seed).values()) for seed in range(60)}
    assert proposals == {tuple(architecture.values()) for architecture in space.enumerate()}


@pytest.mark.parametrize(
    ("values", "constraints"),
    [
        (None, {}),
        (None, {"size": 1.0}),
        ((1.0,), {}),
        ((math.inf,), {}),
        ((1.0,), {"size": 2.0}),
    ],
)
def test_all_alike_teaches_nothing_but_is_no_error(toy, history_of, values, constraints):
    space = toy(3, 3, 3)
    history = history_of(space, [(a, values, constraints) for a, *_ in sampled(space, 24)])
    proposals = {tuple(PolicyGradient().propose(history, seed).values()) for seed in range(40)}
    assert len(proposals) > 8


def test_values_of_mixed_types_and_choices_of_one_value(toy, history_of):
    space = toy((1, 1.0, True, None, "1"), (7,), (False, 0))

    def measure(architecture):
        return float(not isinstance(architecture["a"], bool)), {}

    policy = PolicyGradient(batch=8, steps=8)
    values = [policy.propose(history_of(space, sampled(space, 64, measure)), seed)["a"] for seed in range(20)]
    # All 10 architectures were tried, so each proposal is simply the last draw from the policy.
    assert sum(value is True for value in values) > 8


def test_new_ones_are_preferred(toy, history_of):
    space = toy(4, 4)
    trials = [(a, (0.0,), {}) for a in space.enumerate() if tuple(a.values()) != (2, 3)]
    proposals = [tuple(PolicyGradient().propose(history_of(space, trials), seed).values()) for seed in range(30)]
    assert proposals.count((2, 3)) > 10  # A proposal has 16 draws. Uniform ones include (2, 3) with probability 0.64.


def test_it_finds_the_optimum_sooner_than_chance(toy, search):
    def mean(sampler):
        runs = [search(sampler, toy(*[5] * 8), distance, 100, seed=seed)[60:] for seed in range(3)]
        return statistics.mean(distance(architecture)[0] for run in runs for architecture in run)

    assert mean(PolicyGradient()) < 0.7 * mean(Random())


def test_it_keeps_to_the_constraints(toy, search):
    def measure(architecture):
        zeros = sum(value == 0 for value in architecture.values())
        return -float(zeros), {"zeros": zeros - 2.0}  # The objective favours more zeros than the constraint allows.

    run = search(PolicyGradient(), toy(*[3] * 8), measure, 150)[100:]
    zeros = [-measure(architecture)[0] for architecture in run]
    assert statistics.mean(zero <= 2 for zero in zeros) > 0.7  # For random architectures, the share is 0.47.
    assert statistics.mean(zeros) > 1


def test_it_leaves_what_fails(toy, search):
    def measure(architecture):
        return (None, {}) if architecture["a"] == 1 else (0.0, {})

    run = search(PolicyGradient(), toy(*[2] * 9), measure, 100)[60:]
    assert sum(architecture["a"] == 1 for architecture in run) < 12


def test_several_objectives(toy, search):
    def measure(architecture):
        values = list(architecture.values())
        return (float(sum(values)), float(sum(4 - value for value in values[:3]))), {}

    run = search(PolicyGradient(), toy(*[5] * 6), measure, 100, objectives=2)[60:]
    # The last three choices affect only the first objective, for which 0 is best.
    assert statistics.mean(value for architecture in run for value in list(architecture.values())[3:]) < 1.4


@pytest.mark.slow
@pytest.mark.parametrize(("space", "limit"), [(cell201(), 6), (darts(), 12)])
def test_ten_thousand_trials_are_replayed_in_seconds(space, limit):
    generator = random.Random(0)
    finished = tuple(
        FinishedTrial(number, f"{number}", space.sample(generator), (generator.random(),), {}) for number in range(10_000)
    )
    history = History(space, 1, finished, {e.key for e in finished}, 8, None, None, space.key)
    started = time.process_time()
    first = PolicyGradient().propose(history, 0)
    assert time.process_time() - started < limit  # CPU time. In practice, about a sixth of the limit is used.
    started = time.process_time()
    assert PolicyGradient().propose(history, 0) == first
    assert time.process_time() - started < limit / 10
