import math

import numpy as np
import pytest
from scipy.optimize import differential_evolution
from scipy.stats import lognorm, norm, weibull_min

from evaluators import PowerLaw, fit_power_law
from evaluators.curves.alternatives import Alternative, compare_forms
from evaluators.curves.power_law_window import log_shares

GRID = np.geomspace(0.001, 0.1, 14)

# The two alternatives to a power law, computed by SciPy: functions from (epsilons, ceiling, scale, shape) to flip rates.
ORACLES = {
    "saturating": lambda e, ceiling, scale, shape: ceiling * weibull_min.cdf(e, shape, scale=scale),
    "log_normal": lambda e, ceiling, scale, shape: ceiling * lognorm.cdf(e, 1 / shape, scale=scale),
}


def expected(form, n, *parameters):
    """Returns the expected counts in the cells of the grid and above the grid, (E + 1,)."""
    return n * np.diff(ORACLES[form](GRID, *parameters), prepend=0, append=1)


def drawn(form, n, seed, *parameters):
    return np.random.default_rng(seed).multinomial(n, expected(form, 1, *parameters)).astype(float)


def radii_of(counts):
    return np.repeat(np.append(GRID, np.inf), counts.astype(int))


@pytest.mark.parametrize("form", ORACLES)
@pytest.mark.parametrize("parameters", [(1.0, 0.02, 1.0), (0.7, 0.01, 1.5), (0.3, 0.03, 0.8)])
def test_a_form_without_noise_recovers_its_own_constants(form, parameters):
    law = log_shares(1.0, np.log(GRID[:6]))
    forms = compare_forms(expected(form, 10_000, *parameters), np.log(GRID), law)[form]
    assert (forms.ceiling, forms.scale, forms.shape) == pytest.approx(parameters, rel=2e-3)


@pytest.mark.parametrize("form", ORACLES)
@pytest.mark.parametrize("seed", range(2))
def test_no_parameters_have_a_greater_likelihood(form, seed):
    # The oracle searches all parameters globally, by differential evolution.
    counts = drawn(form, 300, seed, 0.8, 0.015, 1.2)

    def loss(parameters):
        ceiling, log_scale, log_shape = parameters
        shares = np.diff(ORACLES[form](GRID, ceiling, math.exp(log_scale), math.exp(log_shape)), prepend=0, append=1)
        return -float(counts @ np.log(np.maximum(shares, 1e-300)))

    forms = compare_forms(counts, np.log(GRID), log_shares(1.0, np.log(GRID[:6])))[form]
    best = differential_evolution(loss, [(0.05, 1), (-8, 0), (-2, 2)], rng=0, tol=1e-8)
    assert loss((forms.ceiling, math.log(forms.scale), math.log(forms.shape))) <= best.fun + 1e-3


def test_the_comparison_is_vuongs():
    counts, law = drawn("log_normal", 3000, 0, 0.9, 0.02, 1.0), log_shares(1.9, np.log(GRID[:7]))
    for form, comparison in compare_forms(counts, np.log(GRID), law).items():
        below = ORACLES[form](GRID[:7], comparison.ceiling, comparison.scale, comparison.shape)
        shares = np.diff(below, prepend=0) / below[-1]
        # One log-likelihood ratio for each flip in the window.
        ratios = np.repeat(law - np.log(shares), counts[:7].astype(int))
        assert comparison.log_likelihood_ratio == pytest.approx(ratios.sum(), rel=1e-6)
        statistic = ratios.sum() / (np.sqrt(len(ratios)) * ratios.std())
        assert comparison.p_value == pytest.approx(2 * norm.sf(abs(statistic)), rel=1e-6)


@pytest.mark.parametrize(
    ("p_value", "ratio", "level", "verdict"),
    [
        (0.01, 5.0, 0.05, "power law"),
        (0.01, -5.0, 0.05, "alternative"),
        (0.06, 5.0, 0.05, "not distinguishable"),
        (0.06, -5.0, 0.1, "alternative"),
        (0.0, 0.0, 0.05, "not distinguishable"),
    ],
)
def test_verdict(p_value, ratio, level, verdict):
    assert Alternative(1.0, 0.01, 1.0, ratio, p_value).verdict(level) == verdict


def verdicts(form, *parameters, n=10_000, draws=20):
    """Draws samples from one alternative, fits a power law to each, and returns the verdicts against both alternatives."""
    fits = [fit_power_law(radii_of(drawn(form, n, seed, *parameters)), GRID, resamples=100) for seed in range(draws)]
    laws = [fit for fit in fits if isinstance(fit, PowerLaw)]
    assert len(laws) >= 0.25 * draws
    return {name: [law.alternatives[name].verdict() for law in laws] for name in ORACLES}


def test_a_law_beats_only_the_log_normal_form_on_a_saturating_curve():
    by_form = verdicts("saturating", 0.9, 0.03, 1.0)
    assert set(by_form["saturating"]) == {"not distinguishable"}
    assert by_form["log_normal"].count("power law") >= 0.9 * len(by_form["log_normal"])


def test_a_law_beats_only_the_saturating_form_on_a_log_normal_curve():
    by_form = verdicts("log_normal", 0.9, 0.02, 1.0)
    assert by_form["log_normal"].count("not distinguishable") >= 0.9 * len(by_form["log_normal"])
    assert by_form["saturating"].count("power law") >= 0.9 * len(by_form["saturating"])


def test_a_law_beats_both_forms_on_a_pure_law():
    radii = 0.1 * np.random.default_rng(0).random(10_000) / 0.8
    radii = np.append(GRID, np.inf)[np.searchsorted(GRID, radii)]
    fit = fit_power_law(radii, GRID)
    assert {form.verdict() for form in fit.alternatives.values()} == {"power law"}
    assert list(fit.alternatives) == ["saturating", "log_normal"]


def test_all_images_flipped_is_no_error():
    counts = np.append(drawn("saturating", 500, 0, 1.0, 0.01, 1.0)[:-1], 0.0)
    for comparison in compare_forms(counts, np.log(GRID), log_shares(1.0, np.log(GRID[:6]))).values():
        assert comparison.ceiling == 1
        assert math.isfinite(comparison.log_likelihood_ratio)
