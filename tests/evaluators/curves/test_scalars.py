import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from evaluators import error_area, error_at, error_curve, median_radius

some_radii = st.lists(st.one_of(st.sampled_from([0.0, np.inf, 0.01, 0.1]), st.floats(1e-6, 10)), min_size=1, max_size=40)


def test_metrics_by_hand():
    radii = np.array([0.0, 0.01, 0.1, np.inf])
    assert [error_at(radii, epsilon) for epsilon in (0, 0.005, 0.01, 0.1, 1)] == [0.25, 0.25, 0.5, 0.75, 0.75]
    assert median_radius(radii) == 0.1
    # For each image: the share of the range of log epsilon that lies above its radius. Each range has two decades.
    assert error_area(radii, [0.001, 0.1]) == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert error_area(radii, [0.01, 0.1, 1.0]) == pytest.approx((1 + 1 + 0.5 + 0) / 4)


@given(radii=some_radii, low=st.floats(1e-5, 0.01), factor=st.floats(1.5, 1000))
def test_the_area_is_the_integral_of_the_error_curve_over_log_epsilon(radii, low, factor):
    radii = np.array(radii)
    bends = sorted({math.log(r) for r in radii if low < r < low * factor})
    area, _ = quad(
        lambda log_epsilon: error_curve(radii, [math.exp(log_epsilon)]).error[0],
        math.log(low),
        math.log(low * factor),
        points=bends or None,
        limit=200,
    )
    assert error_area(radii, [low, low * factor]) == pytest.approx(area / math.log(factor), abs=1e-6)


@given(radii=some_radii, units=st.floats(1e-3, 1e3))
def test_metrics_change_with_the_units_alone_and_not_with_the_order(radii, units):
    radii = np.array(radii)
    area, median = error_area(radii, [0.001, 1]), median_radius(radii)
    assert 0 <= area <= 1
    assert error_area(units * radii, [0.001 * units, units]) == pytest.approx(area, abs=1e-9)
    assert median_radius(units * radii) == pytest.approx(units * median)
    assert (error_area(radii[::-1], [1, 0.001]), median_radius(radii[::-1])) == (pytest.approx(area), median)


@given(radii=some_radii)
def test_the_median_is_where_the_error_passes_a_half(radii):
    radii = np.array(radii)
    median = median_radius(radii)
    if math.isfinite(median):
        assert error_at(radii, median) > 0.5 or len(radii) % 2 == 0
        assert error_at(radii, median) >= 0.5
        assert (radii < median).mean() <= 0.5
    else:
        assert np.isfinite(radii).mean() <= 0.5


@given(first=some_radii, larger=st.floats(1, 5))
def test_a_more_robust_network_has_the_better_metrics(first, larger):
    first = np.array(first)
    second = first * larger
    assert error_area(second, [0.001, 1]) <= error_area(first, [0.001, 1]) + 1e-12
    assert median_radius(second) >= median_radius(first)
    assert error_at(second, 0.05) <= error_at(first, 0.05)


@pytest.mark.parametrize("radii", [[], [[0.1, 0.2]], [0.1, -0.1], [0.1, np.nan]])
@pytest.mark.parametrize(
    "metric", [lambda radii: error_at(radii, 0.1), median_radius, lambda radii: error_area(radii, [0.1, 1])]
)
def test_radii_that_are_refused(radii, metric):
    with pytest.raises(ValueError, match=r"radii must be a vector .*at least one"):
        metric(np.array(radii))


@pytest.mark.parametrize("epsilon", [-0.1, np.inf, np.nan])
def test_epsilons_that_are_refused(epsilon):
    with pytest.raises(ValueError, match=f"epsilon must be at least 0 and finite, got {epsilon:g}"):
        error_at(np.ones(3), epsilon)


@pytest.mark.parametrize("epsilons", [[], [0.1], [0.1, 0.1], [0, 0.1], [-1, 1], [0.1, np.inf], [0.1, np.nan]])
def test_ranges_that_are_refused(epsilons):
    with pytest.raises(ValueError, match="epsilons must span a range above 0, got "):
        error_area(np.ones(3), epsilons)
