import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom, norm

from evaluators import compare, compare_radii, error_at, error_curve
from evaluators.statistics.paired_tests import paired_interval

some_radii = st.lists(st.sampled_from([0.0, 0.1, 0.2, np.inf]), min_size=40, max_size=40).map(np.array)


def pair(only_first, only_second, both=5, neither=5):
    """Returns radii of two networks, given how many images only the first, only the second, both or neither misclassifies.

    The images are misclassified at epsilon 0.1.
    """
    counts = [only_first, only_second, both, neither]
    return np.repeat([0.1, np.inf, 0.05, np.inf], counts), np.repeat([np.inf, 0.1, 0.1, 0.2], counts)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 1), (3, 9), (10, 10), (40, 12), (0, 30)])
def test_p_value_is_the_exact_mcnemar_test(only_first, only_second):
    comparison = compare(*pair(only_first, only_second), 0.1)
    # By definition, the p-value is twice the smaller tail of a fair coin.
    tail = binom.cdf(min(only_first, only_second), only_first + only_second, 0.5)
    assert comparison.p_value == pytest.approx(min(1, 2 * tail))
    assert comparison.n == only_first + only_second + 10
    assert comparison.difference == pytest.approx((only_first - only_second) / comparison.n)
    assert comparison.interval == paired_interval(only_first, only_second, comparison.n)


def tango_by_likelihood(only_first, only_second, n, confidence):
    """Returns Tango's interval, with a numerical search for the maximum-likelihood share."""

    def score(difference):
        def loss(second):
            first, rest = second + difference, 1 - 2 * second - difference
            return -(
                only_first * np.log(max(first, 1e-300))
                + only_second * np.log(max(second, 1e-300))
                + (n - only_first - only_second) * np.log(max(rest, 1e-300))
            )

        low, high = max(0.0, -difference), (1 - difference) / 2
        second = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
        return (only_first - only_second - n * difference) / np.sqrt(n * (2 * second + difference - difference**2))

    z, observed = norm.ppf(0.5 + confidence / 2), (only_first - only_second) / n
    return brentq(lambda d: score(d) - z, -0.999, observed), brentq(lambda d: score(d) + z, observed, 0.999)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize(("only_first", "only_second", "n"), [(40, 20, 160), (3, 9, 44), (1, 0, 50), (12, 12, 30)])
def test_interval_is_that_of_the_score_of_the_likelihood(only_first, only_second, n, confidence):
    interval = paired_interval(only_first, only_second, n, confidence)
    assert interval == pytest.approx(tango_by_likelihood(only_first, only_second, n, confidence), abs=1e-5)


def test_interval_by_hand():
    # Without a discordant pair, the score of a difference d is -d * sqrt(n / (|d| - d^2)). It is z or -z at
    # |d| = z^2 / (n + z^2).
    z = norm.ppf(0.975)
    assert paired_interval(0, 0, 50) == pytest.approx((-(z**2) / (50 + z**2), z**2 / (50 + z**2)))
    assert paired_interval(50, 0, 50)[1] == 1
    assert paired_interval(0, 50, 50)[0] == -1
    assert paired_interval(50, 0, 50)[0] == pytest.approx((50 - z**2) / (50 + z**2))


@pytest.mark.parametrize(("first", "second", "n"), [(0.1, 0.1, 50), (0.2, 0.05, 100), (0.02, 0.01, 449), (0.9, 0.02, 30)])
def test_the_95_percent_interval_covers_the_difference_in_93_to_99_percent(first, second, n):
    drawn = np.random.default_rng(0).multinomial(n, [first, second, 1 - first - second], size=1000)
    tables, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    held = [low <= first - second <= high for low, high in (paired_interval(int(a), int(b), n) for a, b in tables)]
    assert 0.93 <= times @ np.array(held) / 1000 <= 0.99


@given(table=st.lists(st.integers(0, 60), min_size=3, max_size=3).filter(any))
def test_the_interval_holds_the_difference_and_mirrors(table):
    only_first, only_second, _ = table
    n = sum(table)
    low, high = paired_interval(only_first, only_second, n)
    assert -1 <= low <= (only_first - only_second) / n <= high <= 1
    assert low < high
    assert paired_interval(only_second, only_first, n) == pytest.approx((-high, -low), abs=1e-9)
    wide = paired_interval(only_first, only_second, n, 0.999)
    assert wide[0] <= low
    assert high <= wide[1]


@pytest.mark.parametrize(
    ("only_first", "only_second", "verdict"),
    [(2, 20, "more robust"), (20, 2, "less robust"), (5, 6, "not distinguishable"), (0, 0, "not distinguishable")],
)
def test_verdict(only_first, only_second, verdict):
    assert compare(*pair(only_first, only_second), 0.1).verdict() == verdict
    assert compare_radii(*pair(only_first, only_second), [0.1]).verdict() == verdict


def test_verdict_takes_a_level():
    comparison = compare(*pair(2, 10), 0.1)
    assert comparison.p_value == pytest.approx(0.0386, abs=1e-4)
    assert comparison.verdict() == "more robust"
    assert comparison.verdict(0.01) == "not distinguishable"


@given(first=some_radii, second=some_radii)
def test_swapping_the_networks_swaps_the_verdict(first, second):
    here, there = compare(first, second, 0.1), compare(second, first, 0.1)
    assert here.p_value == pytest.approx(there.p_value)
    assert here.difference == -there.difference
    assert here.difference == pytest.approx((first <= 0.1).mean() - (second <= 0.1).mean())
    assert compare(first, first, 0.1).p_value == 1


def test_radii_by_hand():
    first = np.array([0.0, 0.0, 0.1, 0.2, 0.4, np.inf, np.inf, 0.4])
    second = np.array([0.0, 0.1, 0.1, 0.1, 0.2, 0.4, np.inf, 0.2])
    comparison = compare_radii(first, second)
    assert (comparison.n, comparison.ties) == (8, 3)
    assert comparison.effect == (4 - 1) / 8
    assert comparison.interval == paired_interval(4, 1, 8)
    assert comparison.p_value == pytest.approx(2 * binom.cdf(1, 5, 0.5))
    assert comparison.median_ratio == pytest.approx(0.3 / 0.15)


@given(first=some_radii, second=some_radii)
def test_radii_swap_and_do_not_depend_on_the_scale(first, second):
    here, there = compare_radii(first, second), compare_radii(second, first)
    assert here.effect == -there.effect
    assert here.p_value == pytest.approx(there.p_value)
    assert here.interval == pytest.approx((-there.interval[1], -there.interval[0]), abs=1e-9)
    scaled = compare_radii((7 * first) ** 2, (7 * second) ** 2)
    assert (scaled.effect, scaled.p_value) == (here.effect, here.p_value)
    order = np.random.default_rng(0).permutation(len(first))
    assert compare_radii(first[order], second[order]) == here


@given(first=some_radii, second=some_radii)
def test_at_one_common_epsilon_the_radii_give_mcnemars_test(first, second):
    # No clean image is misclassified. In the sign test, radius 0 of one network and radius epsilon of the other would not be
    # a tie. In McNemar's test they would, because both networks misclassify such an image at epsilon.
    first, second = np.maximum(first, 0.05), np.maximum(second, 0.05)
    over_all, at_one = compare_radii(first, second, [0.1]), compare(first, second, 0.1)
    assert over_all.p_value == at_one.p_value
    assert over_all.effect == -at_one.difference
    assert over_all.interval == pytest.approx((-at_one.interval[1], -at_one.interval[0]), abs=1e-9)


def test_a_coarser_or_shorter_grid_makes_no_network_more_robust():
    radii = np.random.default_rng(0).exponential(0.1, 2000)

    def on(grid):
        return np.append(grid, np.inf)[np.searchsorted(grid, radii)]

    fine, coarse, short = np.linspace(0.01, 1, 100), np.array([0.1, 0.5, 1.0]), np.linspace(0.01, 0.1, 10)
    # The same radii are rounded up to two grids. Without common epsilons, one network looks more robust.
    assert compare_radii(on(coarse), on(fine)).verdict() == "more robust"
    assert compare_radii(on(short), on(fine)).verdict() == "more robust"
    for grid in (coarse, short):
        common = np.array([e for e in grid if np.isclose(e, fine).any()])
        comparison = compare_radii(on(grid), on(fine), common)
        assert (comparison.effect, comparison.ties, comparison.p_value) == (0, 2000, 1)


def test_common_epsilons_take_radii_in_single_precision():
    grid = np.array([0.1, 0.2, 0.3])
    comparison = compare_radii(grid.astype(np.float32), grid, [0, *grid])
    assert comparison.ties == 3
    assert compare_radii(np.zeros(3), grid, grid).effect == -1


@pytest.mark.parametrize("radii", [[0.0, 0.0, 1.0], [np.inf, np.inf, 1.0]])
def test_no_ratio_of_medians_that_are_0_or_infinite(radii):
    assert compare_radii(np.array(radii), np.ones(3)).median_ratio is None
    assert compare_radii(np.ones(3), np.array(radii)).median_ratio is None


def test_equal_networks_differ_significantly_in_at_most_5_percent():
    generator = np.random.default_rng(0)
    p_values = []
    for _ in range(500):
        common = generator.exponential(size=(1, 200))
        first, second = np.ceil(4 * common * generator.exponential(size=(2, 200))) / 4
        p_values.append(compare_radii(np.where(first > 2, np.inf, first), np.where(second > 2, np.inf, second)).p_value)
    # Of 500 tests at the level 5 %, more than 40 would be significant by chance about once in a thousand runs.
    assert 5 <= sum(p < 0.05 for p in p_values) <= 40


def test_radii_of_different_images_are_refused():
    for test in (lambda *radii: compare(*radii, 0.1), compare_radii):
        with pytest.raises(ValueError, match="radii must belong to the same images, got 3 and 2"):
            test(np.ones(3), np.ones(2))
        with pytest.raises(ValueError, match="none of them negative or NaN"):
            test(np.ones(2), np.array([1, np.nan]))
        with pytest.raises(ValueError, match="at least one number"):
            test(np.array([]), np.array([]))


def test_there_must_be_a_common_epsilon():
    with pytest.raises(ValueError, match=r"epsilons must .*above 0"):
        compare_radii(np.ones(3), np.ones(3), [0.0])


def test_radii_that_exceed_epsilon_by_rounding_count_everywhere():
    first, second = np.full(10, 0.1 + 0.2), np.full(10, np.inf)
    assert compare(first, second, 0.3).difference == error_at(first, 0.3) == error_curve(first, [0.3]).error[0] == 1


@pytest.mark.parametrize("epsilon", [np.nan, -0.1])
def test_negative_and_nan_epsilons_are_refused(epsilon):
    with pytest.raises(ValueError, match="epsilons must be numbers of at least 0"):
        error_curve(np.ones(3), [epsilon])


def test_a_confidence_in_percent_is_refused():
    with pytest.raises(ValueError, match=r"0\.95 rather than 95"):
        error_curve(np.ones(3), [0.1], confidence=95)


@pytest.mark.parametrize("confidence", [95, 1.0, 0.0, -1])
def test_confidence_is_a_share(confidence):
    with pytest.raises(ValueError, match=rf"confidence must be between 0 and 1.* got {confidence:g}"):
        compare(np.array([0.1, 0.2]), np.array([0.2, 0.1]), 0.1, confidence)


@pytest.mark.parametrize("epsilon", [math.nan, -0.1])
def test_epsilon_is_a_size(epsilon):
    with pytest.raises(ValueError, match=f"epsilon must be at least 0, got {epsilon:g}"):
        compare(np.array([0.1, 0.2]), np.array([0.2, 0.1]), epsilon)
    with pytest.raises(ValueError, match=f"epsilons must be at least 0, got {epsilon:g}"):
        compare_radii(np.array([0.1, 0.2]), np.array([0.2, 0.1]), [0.1, epsilon])
