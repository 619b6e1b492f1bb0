import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from evaluators.curves.local_exponent import NoLocalExponent, local_exponent

COVERAGE = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "coverage.py"))
GRID = np.geomspace(0.01, 1, 12)


def on_grid(radii, grid=GRID):
    return np.where(radii > 0, np.append(grid, np.inf)[np.searchsorted(grid, radii)], 0)


def test_two_cells_have_a_closed_form():
    # 10 flips up to epsilon 1 and 40 up to epsilon 2: the exponent is log2(4) = 2.
    radii = np.repeat([1.0, 2.0, 3.0, math.inf], [10, 30, 10, 50])
    local = local_exponent(radii, [1.0, 2.0, 3.0])
    assert local.exponent == pytest.approx(2, rel=1e-6)
    assert (local.window, local.n, local.flip_rate) == ((1.0, 2.0), 40, 0.4)
    for end in local.interval:  # Twice the log-likelihood ratio of a binomial of 10 in 40.
        share = 2.0**-end
        drop = 10 * math.log(0.25 / share) + 30 * math.log(0.75 / (1 - share))
        assert 2 * drop == pytest.approx(chi2.ppf(0.95, 1), rel=1e-5)


def test_exact_radii_give_hills_estimate():
    radii = np.random.default_rng(0).random(1000) ** (1 / 1.7)
    smallest = np.sort(radii)[:100]
    local = local_exponent(np.append(radii, 0.0))
    assert local.exponent == pytest.approx(99 / np.log(smallest[-1] / smallest[:-1]).sum(), rel=1e-6)
    assert (local.window, local.n, local.flip_rate) == ((smallest[0], smallest[-1]), 100, 0.1)
    # Twice the exponent times the sum is chi-squared with 2 * 99 degrees of freedom, which gives an exact interval.
    exact = chi2.ppf([0.025, 0.975], 198) / (2 * 99 / local.exponent)
    assert local.interval == pytest.approx(tuple(exact), rel=0.01)


def test_the_exponent_is_that_of_the_lower_end_of_a_kinked_curve():
    shares = (np.arange(1, 5001) - 0.5) / 5000
    radii = np.where(shares <= 0.2, 0.1 * (shares / 0.2) ** 0.5, np.inf)
    radii[1000:] = 0.1 + shares[1000:] * 0.9
    for local in (local_exponent(radii), local_exponent(on_grid(radii), GRID)):
        assert local.exponent == pytest.approx(2, rel=0.02)
        assert local.interval[0] < 2 < local.interval[1]
        assert local.window[1] <= 0.1


@settings(deadline=None, max_examples=30)
@given(st.floats(0.3, 6), st.integers(60, 3000), st.floats(1e-3, 1e3))
def test_units_do_not_matter_and_the_interval_holds_the_estimate(exponent, n, unit):
    radii = np.random.default_rng(n).random(n) ** (1 / exponent)
    for measured, grid in ((radii, None), (on_grid(radii), GRID)):
        local = local_exponent(measured, grid)
        if isinstance(local, NoLocalExponent):
            continue
        scaled = local_exponent(measured * unit, None if grid is None else GRID * unit)
        assert scaled.exponent == pytest.approx(local.exponent, rel=1e-4)
        assert scaled.window == pytest.approx((local.window[0] * unit, local.window[1] * unit))
        assert local.interval[0] < local.exponent < local.interval[1]
        assert local.n >= 20


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_outside_0_to_1_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence must be between 0 and 1"):
        local_exponent(np.linspace(0.01, 1, 100), confidence=confidence)


def test_a_higher_confidence_widens_the_interval():
    radii = np.linspace(0.001, 1, 500)
    widths = [np.diff(local_exponent(radii, confidence=c).interval).item() for c in (0.5, 0.95, 0.999)]
    assert widths == sorted(widths)
    assert widths[0] < 0.6 * widths[1]


@pytest.mark.parametrize(
    ("radii", "grid", "reason"),
    [
        ([], None, "0 of 0 images were flipped; a local exponent needs at least 20"),
        ([0.0] * 5 + [0.1] * 19 + [math.inf], None, "19 of 20 images were flipped; a local exponent needs at least 20"),
        (
            [0.1] * 30,
            [0.1, 0.2],
            "30 flips fall in 1 cells of the grid; a local exponent needs 20 flips in 2 cells: measure",
        ),
        ([0.1] * 30, None, "the flip rate rises too steeply: the 20 smallest radii are about 0.1"),
    ],
)
def test_the_reason_why_there_is_no_exponent(radii, grid, reason):
    assert local_exponent(np.array(radii), grid).reason.startswith(reason)


@pytest.mark.parametrize("radii", [[-1.0], [math.nan], [[1.0]]])
def test_radii_that_are_refused(radii):
    with pytest.raises(ValueError, match="radii must be a vector"):
        local_exponent(np.array(radii))


@pytest.mark.parametrize("exact", [False, True], ids=["grid", "exact"])
@pytest.mark.parametrize("curve", ["pure, exponent 1", "1 - exp(-e^2)"])
def test_the_interval_covers_the_exponent_at_epsilon_0(curve, exact):
    row = COVERAGE["measure_local"](COVERAGE["CURVES"][curve], 500, exact, draws=200)
    assert row["fitted"] == 1
    assert 0.9 <= row["at zero"] <= 0.99
    assert 0.93 < row["ratio"] < 1.08
