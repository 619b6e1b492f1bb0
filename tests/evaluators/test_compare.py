import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from evaluators import compare

some_radii = st.lists(st.sampled_from([0.0, 0.1, 0.2, np.inf]), min_size=40, max_size=40).map(np.array)


def pair(only_first, only_second, both=5, neither=5):
    """Returns two networks' radii with so many images wrong at 0.1 for one, the other, both or none."""
    counts = [only_first, only_second, both, neither]
    return np.repeat([0.1, np.inf, 0.05, np.inf], counts), np.repeat([np.inf, 0.1, 0.1, 0.2], counts)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 1), (3, 9), (10, 10), (40, 12), (0, 30)])
def test_p_value_is_the_exact_mcnemar_test(only_first, only_second):
    found = compare(*pair(only_first, only_second), 0.1)
    # Twice the smaller tail of a fair coin, from the definition.
    tail = binom.cdf(min(only_first, only_second), only_first + only_second, 0.5)
    assert found.p_value == pytest.approx(min(1, 2 * tail))
    assert found.n == only_first + only_second + 10
    assert found.difference == pytest.approx((only_first - only_second) / found.n)


@pytest.mark.parametrize(
    ("only_first", "only_second", "verdict"),
    [(2, 20, "more robust"), (20, 2, "less robust"), (5, 6, "not distinguishable"), (0, 0, "not distinguishable")],
)
def test_verdict(only_first, only_second, verdict):
    assert compare(*pair(only_first, only_second), 0.1).verdict() == verdict


def test_verdict_takes_a_level():
    found = compare(*pair(2, 10), 0.1)
    assert found.p_value == pytest.approx(0.0386, abs=1e-4)
    assert found.verdict() == "more robust"
    assert found.verdict(0.01) == "not distinguishable"


@given(first=some_radii, second=some_radii)
def test_swapping_the_networks_swaps_the_verdict(first, second):
    here, there = compare(first, second, 0.1), compare(second, first, 0.1)
    assert here.p_value == pytest.approx(there.p_value)
    assert here.difference == -there.difference
    assert here.difference == pytest.approx((first <= 0.1).mean() - (second <= 0.1).mean())
    assert compare(first, first, 0.1).p_value == 1


def test_radii_of_different_images_are_refused():
    with pytest.raises(ValueError, match="radii must belong to the same images, got 3 and 2"):
        compare(np.ones(3), np.ones(2), 0.1)
