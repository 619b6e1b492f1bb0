"""Rank correlations compared with scipy, and the coverage of their intervals."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from evaluators import RankCorrelation, rank_correlation
from evaluators.statistics.correlation import stronger_correlation

GENERATOR = np.random.default_rng(0)
X = GENERATOR.random(20)
Y = X + GENERATOR.random(20)


@pytest.mark.parametrize("x", [X, np.round(5 * X)], ids=["distinct", "tied"])
def test_value_is_scipys(x):
    assert rank_correlation(x, Y).value == pytest.approx(spearmanr(x, Y).statistic)


def test_only_the_order_counts():
    assert rank_correlation(X, Y) == rank_correlation(np.exp(9 * X), Y**3)


def test_interval_is_that_of_resampled_networks():
    draws = np.random.default_rng(0).integers(20, size=(2000, 20))
    values = [spearmanr(X[draw], Y[draw]).statistic for draw in draws]
    assert rank_correlation(X, Y).interval == pytest.approx(np.quantile(values, [0.025, 0.975]))


def test_interval_lies_around_the_value_and_widens_with_confidence():
    (low, high), (lower, higher) = (rank_correlation(X, Y, confidence=share).interval for share in (0.8, 0.99))
    assert lower < low < rank_correlation(X, Y).value < high < higher


def test_complete_agreement_has_no_interval():
    assert rank_correlation(X, X**3) == RankCorrelation(20, pytest.approx(1), None)
    assert rank_correlation(X, -X).value == pytest.approx(-1)


def test_few_networks_have_no_interval():
    correlation = rank_correlation(X[:7], Y[:7])
    assert (correlation.n, correlation.interval) == (7, None)
    assert str(correlation).endswith("(n = 7, no interval)")
    assert rank_correlation(X[:8], X[1:9]).interval is not None


def test_numbers_that_hardly_vary_have_no_interval():
    saturated = np.ones(28)
    saturated[:4] = [0.9, 0.8, 0.95, 0.7]
    correlation = rank_correlation(np.arange(28), saturated)
    assert (correlation.value is not None, correlation.interval) == (True, None)
    saturated[4] = 0.6
    assert rank_correlation(np.arange(28), saturated).interval is not None
    assert stronger_correlation(X, np.r_[np.zeros(17), Y[:3]], Y).interval is None


def test_what_does_not_vary_has_no_correlation():
    correlation = rank_correlation(X, np.ones(20))
    assert correlation == RankCorrelation(20, None, None)
    assert str(correlation).startswith("none")


def test_text_has_the_interval():
    assert str(RankCorrelation(28, 0.84, (-0.066, 0.92))) == "+0.84 (-0.07 to +0.92)"


def test_how_much_stronger():
    assert stronger_correlation(X, Y, X).value == pytest.approx(1 - spearmanr(X, Y).statistic)
    assert stronger_correlation(X, -Y, X).value == pytest.approx(1 - spearmanr(X, Y).statistic)
    assert stronger_correlation(-X, Y, X).value == pytest.approx(1 - spearmanr(X, Y).statistic)
    assert stronger_correlation(Y, Y, X) == RankCorrelation(20, 0, (0, 0))
    assert stronger_correlation(Y, Y[::-1], X).interval[0] < stronger_correlation(Y, Y[::-1], X).value


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_interval_holds_the_truth(strength):
    # For normal variables with correlation r, the rank correlation is 6 / pi * asin(r / 2).
    generator, held = np.random.default_rng(1), 0
    truth = 6 / math.pi * math.asin(strength / math.sqrt(1 + strength**2) / 2)
    for seed in range(200):
        x, noise = generator.normal(size=(2, 40))
        low, high = rank_correlation(x, strength * x + noise, seed=seed).interval
        held += low <= truth <= high
    # The nominal coverage is 95 %. A percentile interval of 40 pairs covers a little less.
    assert 0.88 * 200 <= held <= 199


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0, 2.0], [1.0], r"equal length.* got shapes \[\(2,\), \(1,\)\]"),
        ([], [], r"got shapes \[\(0,\), \(0,\)\]"),
        ([[1.0]], [[1.0]], r"got shapes \[\(1, 1\), \(1, 1\)\]"),
        ([1.0, math.nan], [1.0, 2.0], "finite"),
    ],
)
def test_bad_input(x, y, message):
    with pytest.raises(ValueError, match=message):
        rank_correlation(x, y)


def test_confidence_is_a_share():
    with pytest.raises(ValueError, match=r"confidence must be between 0 and 1.* got 95"):
        rank_correlation(X, Y, confidence=95)
