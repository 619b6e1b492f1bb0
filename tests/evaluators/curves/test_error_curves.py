import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from evaluators import error_curve, worst_case
from evaluators.curves.error_curves import binomial_interval

GRID = [0.01, 0.02, 0.04, 0.08]
some_radii = st.lists(st.one_of(st.sampled_from([0.0, np.inf, *GRID]), st.floats(0, 1)), min_size=1, max_size=60)


def test_curve_by_hand():
    curve = error_curve(np.array([0.0, 0.02, 0.02, 0.08, np.inf]), GRID)
    assert (curve.n, curve.right) == (5, 4)
    np.testing.assert_allclose(curve.error, [0.2, 0.6, 0.6, 0.8])
    np.testing.assert_allclose(curve.flip_rate, [0, 0.5, 0.5, 0.75])
    np.testing.assert_array_equal(curve.epsilons, GRID)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [1, 7, 400, 10_000])
def test_interval_is_scipys_clopper_pearson(n, confidence):
    for k in sorted({0, 1, n // 3, n - 1, n}):
        expected = binomtest(k, n).proportion_ci(confidence, method="exact")
        interval = binomial_interval(np.array([float(k)]), n, confidence)[0]
        np.testing.assert_allclose(interval, [expected.low, expected.high], rtol=1e-9, atol=1e-12)


@given(radii=some_radii)
def test_a_curve_never_falls_and_its_intervals_hold_it(radii):
    radii = np.array(radii)
    curve = error_curve(radii, [0.0, *GRID, 1.0])
    assert (np.diff(curve.error) >= 0).all()
    assert curve.error[0] == (radii == 0).mean()
    assert curve.error[-1] == np.isfinite(radii).mean()
    assert curve.error_interval.shape == (6, 2)
    assert (curve.error_interval[:, 0] <= curve.error + 1e-12).all()
    assert (curve.error <= curve.error_interval[:, 1] + 1e-12).all()
    if curve.right:
        assert curve.flip_rate[0] == 0
        assert (np.diff(curve.flip_rate) >= 0).all()
        assert (curve.flip_interval[:, 0] <= curve.flip_rate + 1e-12).all()
        assert (curve.flip_rate <= curve.flip_interval[:, 1] + 1e-12).all()
        # The two shares are consistent: error = clean error + share of correct images * flip rate.
        np.testing.assert_allclose(curve.error, 1 - curve.right / curve.n * (1 - curve.flip_rate), atol=1e-12)


@given(radii=some_radii)
def test_error_is_the_share_of_radii_at_most_epsilon(radii):
    radii = np.array(radii)
    np.testing.assert_allclose(error_curve(radii, GRID).error, [(radii <= epsilon).mean() for epsilon in GRID])


@given(first=st.lists(st.floats(0, 1), min_size=9, max_size=9), second=st.lists(st.floats(0, 1), min_size=9, max_size=9))
def test_the_worst_case_is_at_least_as_bad_as_either(first, second):
    both = worst_case([np.array(first), np.array(second)])
    assert both.tolist() == [min(pair) for pair in zip(first, second, strict=True)]
    assert (error_curve(both, GRID).error >= error_curve(np.array(first), GRID).error).all()


def test_without_correct_images_there_is_no_flip_rate():
    curve = error_curve(np.zeros(5), GRID)
    assert curve.right == 0
    assert (curve.error == 1).all()
    assert np.isnan(curve.flip_rate).all()
    assert curve.flip_interval.shape == (4, 2)
    assert np.isnan(curve.flip_interval).all()


@pytest.mark.parametrize("radii", [[], [[0.1, 0.2]], [0.1, -0.1], [0.1, np.nan]])
def test_radii_that_are_refused(radii):
    message = r"radii must be a vector .*at least one"
    with pytest.raises(ValueError, match=message):
        error_curve(np.array(radii), GRID)
