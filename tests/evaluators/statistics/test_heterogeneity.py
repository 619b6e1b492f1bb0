"""Heterogeneity of exponents compared with scipy's analysis of variance, closed forms and simulated networks."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import f_oneway

from evaluators.statistics.heterogeneity import Observation, heterogeneity

NUMBERS = np.random.default_rng(0)
Z = 1.959963984540054


def observe(log, error=0.1, subject=None, **factors):
    """Returns an observation with a given log exponent and its standard error."""
    return Observation(math.exp(log), (math.exp(log - Z * error), math.exp(log + Z * error)), factors, subject)


def test_one_factor_is_the_analysis_of_scipy():
    groups = [NUMBERS.normal(mean, 0.3, size=n) for mean, n in ((1.0, 8), (1.4, 5), (0.9, 11))]
    analysis = heterogeneity([observe(b, attack=str(g)) for g, group in enumerate(groups) for b in group])
    effect, wanted = analysis.effects["attack"], f_oneway(*groups)
    assert effect.f_value == pytest.approx(wanted.statistic)
    assert effect.p_value == pytest.approx(wanted.pvalue)
    assert effect.freedom == (2, 21)
    assert effect.means == pytest.approx({str(g): math.exp(group.mean()) for g, group in enumerate(groups)})
    assert effect.counts == {"0": 8, "1": 5, "2": 11}


def test_two_balanced_factors_are_the_sums_of_squares_of_the_textbook():
    table = NUMBERS.normal(size=(3, 4))
    analysis = heterogeneity([observe(table[i, j], row=str(i), column=str(j)) for i, j in product(range(3), range(4))])
    rows = 4 * ((table.mean(1) - table.mean()) ** 2).sum()
    columns = 3 * ((table.mean(0) - table.mean()) ** 2).sum()
    rest = ((table - table.mean()) ** 2).sum() - rows - columns
    assert analysis.effects["row"].f_value == pytest.approx(rows / 2 / (rest / 6))
    assert analysis.effects["column"].f_value == pytest.approx(columns / 3 / (rest / 6))
    assert analysis.residual == pytest.approx(math.sqrt(rest / 6))
    assert analysis.effects["row"].share == pytest.approx(max(0, (rows - 2 * rest / 6) / (rows + columns + rest + rest / 6)))


def test_effects_of_unbalanced_factors_are_separated():
    """An effect of the data set is not attributed to an architecture that was measured mostly on one data set."""
    observations = []
    for data, architecture, count in (("a", "x", 20), ("a", "y", 3), ("b", "x", 3), ("b", "y", 20)):
        for _ in range(count):
            observations.append(observe(1.0 + (data == "b") + NUMBERS.normal(0, 0.05), data=data, architecture=architecture))
    analysis = heterogeneity(observations)
    assert analysis.effects["data"].p_value < 1e-20
    assert 0.2 < analysis.effects["data"].share < 0.8  # The rest is confounded with the architecture.
    assert analysis.effects["architecture"].share < 0.01
    assert analysis.effects["architecture"].p_value > 0.01
    means = analysis.effects["architecture"].means
    assert math.log(means["y"] / means["x"]) > 0.5  # Means are not adjusted for the other factor.


def test_equal_exponents_are_universal_and_others_are_not():
    errors = NUMBERS.uniform(0.05, 0.2, size=60)
    equal = heterogeneity([observe(NUMBERS.normal(1.0, e), e, data="ab"[n % 2]) for n, e in enumerate(errors)])
    spread = heterogeneity(
        [observe(NUMBERS.normal(1.0, math.hypot(e, 0.5)), e, data="ab"[n % 2]) for n, e in enumerate(errors)]
    )
    assert equal.heterogeneity_p > 0.01
    assert equal.between < 0.08
    assert spread.heterogeneity_p < 1e-6
    assert spread.between == pytest.approx(0.5, abs=0.12)
    assert equal.mean_interval[0] < math.e < equal.mean_interval[1]
    assert equal.mean_interval[1] / equal.mean_interval[0] < spread.mean_interval[1] / spread.mean_interval[0]


def test_p_values_are_uniform_if_no_factor_has_an_effect():
    p_values = []
    for _ in range(400):
        analysis = heterogeneity(
            [observe(NUMBERS.normal(1.0, 0.1), data="abc"[n % 3], attack="xy"[n // 3 % 2]) for n in range(12)]
        )
        p_values.append((analysis.heterogeneity_p, analysis.effects["data"].p_value, analysis.effects["attack"].p_value))
    # The tolerance is three standard errors of a share of 0.1 among 400.
    assert np.mean(np.array(p_values) < 0.1, axis=0) == pytest.approx([0.1] * 3, abs=0.045)


def laboratory(subjects, *, kinds=4, attacks="xyz", spread=0.3, missing=0.0):
    """Returns exponents of networks under several attacks. Networks differ at random, attacks systematically.

    Each exponent, except that under the first attack, is left out with the probability `missing`.
    """
    observations = []
    for n in range(subjects):
        level = NUMBERS.normal(1.0, spread)
        observations += [
            observe(level + 0.1 * a + NUMBERS.normal(0, 0.05), 0.05, f"network {n}", kind=str(n % kinds), attack=attack)
            for a, attack in enumerate(attacks)
            if a == 0 or NUMBERS.random() >= missing
        ]
    return observations


def test_factors_that_vary_between_networks_are_tested_between_networks():
    observations = laboratory(12, kinds=3)
    analysis = heterogeneity(observations)
    logs = np.log([o.exponent for o in observations]).reshape(12, 3)
    means = logs.mean(1)
    kinds = f_oneway(*(means[k::3] for k in range(3)))
    assert analysis.effects["kind"].f_value == pytest.approx(kinds.statistic)
    assert analysis.effects["kind"].freedom == (2, 9)
    attacks = 12 * ((logs.mean(0) - logs.mean()) ** 2).sum()
    rest = ((logs - logs.mean(0) - means[:, None] + logs.mean()) ** 2).sum()
    assert analysis.effects["attack"].f_value == pytest.approx(attacks / 2 / (rest / 22))
    assert analysis.effects["attack"].freedom == (2, 22)
    assert (analysis.n, analysis.subjects) == (36, 12)
    assert analysis.effects["kind"].counts == {"0": 12, "1": 12, "2": 12}


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_attacks_on_one_network_are_no_independent_networks(missing):
    """If kinds of networks differ only at random, `kind` is rarely significant, and most intervals hold the mean."""
    p_values, held = [], []
    for _ in range(300):
        analysis = heterogeneity(laboratory(24, missing=missing))
        p_values.append(analysis.effects["kind"].p_value)
        held.append(analysis.mean_interval[0] < math.exp(1.1) < analysis.mean_interval[1])
        assert analysis.effects["attack"].p_value < 1e-3
    # For shares among 300, 0.052 is three standard errors of 0.1, and 0.9 is four standard errors below 0.95.
    assert np.mean(np.array(p_values) < 0.1) == pytest.approx(0.1, abs=0.052)
    assert np.mean(held) >= 0.9


def test_numbers_by_hand():
    analysis = heterogeneity([observe(1.0, 0.1, data="a"), observe(2.0, 0.1, data="b"), observe(3.0, 0.1, data="b")])
    assert analysis.range == pytest.approx((math.exp(1), math.exp(3)))
    assert analysis.deviation == pytest.approx(1.0)
    assert analysis.mean == pytest.approx(math.exp(2))
    # Q = 2 / 0.01; between**2 = (200 - 2) / (300 - 3 * 100**2 / 300).
    assert analysis.between == pytest.approx(math.sqrt(198 / 200))


@pytest.mark.parametrize("networks", [3, 6])
def test_interval_of_the_mean_holds_it_for_few_networks_too(networks):
    held = []
    for _ in range(400):
        errors = NUMBERS.uniform(0.03, 0.1, size=networks)
        analysis = heterogeneity([observe(NUMBERS.normal(1.0, math.hypot(e, 0.5)), e) for e in errors])
        held.append(analysis.mean_interval[0] < math.e < analysis.mean_interval[1])
    # The tolerance is three standard errors of a share of 0.95 among 400.
    assert np.mean(held) >= 0.95 - 0.033


def test_exponents_that_agree_by_chance_do_not_narrow_the_interval():
    analysis = heterogeneity([observe(0.7, 0.1), observe(0.7001, 0.1)])
    assert analysis.mean_interval[1] / analysis.mean_interval[0] > math.exp(2 * 1.96 * 0.1 / math.sqrt(2))


def test_weights_of_the_mean_depend_on_precision_and_on_the_spread_of_networks():
    """A large spread gives three precise exponents and an imprecise one nearly equal weights. A small spread does not."""
    logs, errors = [0.0, 2.0, 4.0, 6.0], [0.01, 0.01, 0.01, 0.3]
    analysis = heterogeneity([observe(log, error) for log, error in zip(logs, errors, strict=True)])
    assert math.log(analysis.mean) == pytest.approx(3, abs=0.1)
    alike = heterogeneity([observe(log, error) for log, error in zip([1.0, 1.0, 1.0, 1.4], errors, strict=True)])
    assert math.log(alike.mean) == pytest.approx(1, abs=0.01)


def test_one_network_has_no_spread():
    analysis = heterogeneity([observe(1.0, subject="a", attack="x"), observe(2.0, subject="a", attack="y")])
    assert (analysis.subjects, analysis.mean) == (1, pytest.approx(math.exp(1.5)))
    assert all(math.isnan(value) for value in (analysis.between, analysis.heterogeneity_p, *analysis.mean_interval))


def test_the_order_of_observations_changes_nothing_even_where_no_levels_link_networks():
    rows = [(1.0, "A", "1"), (1.3, "A", "2"), (1.1, "B", "3"), (1.5, "B", "4"), (0.9, "C", "5"), (1.2, "C", "6")]
    analyses = [
        heterogeneity([observe(log, subject=subject, attack=attack) for log, subject, attack in order])
        for order in (rows, rows[::-1], [rows[n] for n in (1, 3, 5, 4, 2, 0)])
    ]
    assert analyses[0].mean == pytest.approx(math.exp(np.mean([1.15, 1.3, 1.05])))
    for other in analyses[1:]:
        assert (other.between, other.heterogeneity_p) == pytest.approx((analyses[0].between, analyses[0].heterogeneity_p))


def test_a_factor_that_explains_everything_leaves_the_others_nothing():
    logs = {"a": 0.2, "b": 0.7}
    analysis = heterogeneity([observe(logs[data], data=data, attack=attack) for data, attack in product("ab", "xyz")])
    assert analysis.effects["data"].share == pytest.approx(1)
    assert analysis.effects["data"].share <= 1
    assert (analysis.effects["data"].f_value, analysis.effects["data"].p_value) == (math.inf, 0)
    assert math.isnan(analysis.effects["attack"].f_value)
    assert analysis.residual == 0


def test_one_level_and_saturated_designs_have_no_answer():
    analysis = heterogeneity([observe(1.0, data="a", attack="x"), observe(1.2, data="a", attack="y")])
    assert math.isnan(analysis.effects["data"].p_value)
    assert math.isnan(analysis.effects["attack"].p_value)
    assert math.isnan(analysis.residual)


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        ([observe(1.0)], "observations must be at least 2, got 1"),
        (
            [observe(1.0, a="x"), observe(1.0, b="x")],
            r"factors must be the same .*got \['a'\] and \['b'\]",
        ),
        ([observe(1.0), Observation(1.0, (1.0, 1.0), {})], "wider than 0, got .*1, .*1 to 1"),
        ([observe(1.0), Observation(1.0, (-0.1, 1.0), {})], "above 0, .* got .*1, .*-0.1 to 1"),
        ([observe(1.0), Observation(math.nan, (1.0, 2.0), {})], "exponents .*must be finite .* got .*nan, .*1 to 2"),
    ],
)
def test_bad_observations_are_refused(observations, message):
    with pytest.raises(ValueError, match=message):
        heterogeneity(observations)
