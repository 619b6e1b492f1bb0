"""Compares a power law with two alternative forms of the whole flip-rate curve.

A form is F(epsilon) = ceiling * G(shape * ln(epsilon / scale)). The ceiling, 0 < ceiling <= 1, is the share of images that
are flipped at large epsilon. The saturating form uses G(z) = 1 - exp(-exp(z)), a Weibull distribution of the radii. Its
lower tail is a power law of exponent `shape`. The log-normal form uses the normal distribution function. It has no power-law
tail.

A form is fitted by interval-censored maximum likelihood to all correctly classified images: the flips in each cell of the
grid, and the images that are never flipped. The law is fitted only in its window, the range (0, top] of epsilon that
`power_law_window` chooses. Law and form are compared on the flips inside the window, by the likelihood of each flip given
that it lies in the window. This is the test of Vuong, "Likelihood ratio tests for model selection and non-nested
hypotheses", Econometrica 57, 1989, which Clauset, Shalizi and Newman (SIAM Review 51, 2009) use for power laws.

The comparison favours the law: the window is chosen to suit the law, whereas a form is fitted to the whole curve. If the
verdict is 'power law', the form does not describe the lower end of the curve. If the two are not distinguishable, the law
may be the lower end of the form. In `tests/benchmarks/coverage.py` the verdict is never 'power law' on data drawn from the
form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.optimize import minimize
from scipy.special import ndtr

if TYPE_CHECKING:
    from collections.abc import Callable

    from evaluators.curves.error_curves import Floats


def _weibull(z: Floats) -> Floats:
    return np.asarray(-np.expm1(-np.exp(np.minimum(z, 50.0))))


FORMS: dict[str, Callable[[Floats], Floats]] = {"saturating": _weibull, "log_normal": ndtr}


@final
@dataclass(frozen=True)
class Alternative:
    """An alternative form of the curve, F(epsilon) = ceiling * G(shape * ln(epsilon / scale)), compared with the power law.

    Attributes:
        ceiling: Share of the correctly classified images that are flipped at large epsilon, between 0 and 1.
        scale: Epsilon at which the argument of G is 0, in pixel units. There the curve reaches a share 1 - 1/e (saturating)
            or 1/2 (log-normal) of the ceiling.
        shape: Exponent of the curve near epsilon 0 (saturating), or one over the standard deviation of ln(radius)
            (log-normal).
        log_likelihood_ratio: Log-likelihood of the flips in the window under the law, minus that under the form.
        p_value: Two-sided p-value of Vuong's test that law and form are equally good.
    """

    ceiling: float
    scale: float
    shape: float
    log_likelihood_ratio: float
    p_value: float

    def verdict(self, level: float = 0.05) -> str:
        """Returns the better description of the flips in the window: 'power law', 'alternative' or 'not distinguishable'."""
        if self.p_value >= level or self.log_likelihood_ratio == 0:
            return "not distinguishable"
        return "power law" if self.log_likelihood_ratio > 0 else "alternative"


def compare_forms(counts: Floats, log_grid: Floats, law: Floats) -> dict[str, Alternative]:
    """Returns the fit of each form and its comparison with the power law, by name of the form.

    Args:
        counts: Number of flips in each cell of the grid, then number of images that are not flipped, (E + 1,).
        log_grid: Natural logarithms of the grid, (E,).
        law: Log-probability of each of the W cells of the window under the law, given a flip in the window, (W,).
    """
    return {name: _compare(form, counts, log_grid, law) for name, form in FORMS.items()}


def _compare(form: Callable[[Floats], Floats], counts: Floats, log_grid: Floats, law: Floats) -> Alternative:
    ceiling, log_scale, log_shape = _fit(form, counts, log_grid)
    shape = math.exp(log_shape)
    cells = np.diff(form(shape * (log_grid[: len(law)] - log_scale)), prepend=0.0)
    difference = law - np.log(np.maximum(cells, 1e-300)) + np.log(max(cells.sum(), 1e-300))
    inside = counts[: len(law)]
    n, ratio = inside.sum(), float(inside @ difference)
    variance = float(inside @ (difference - ratio / n) ** 2)
    p_value = math.erfc(abs(ratio) / math.sqrt(2 * variance)) if variance > 0 else 1.0
    return Alternative(ceiling, math.exp(log_scale), shape, ratio, p_value)


def _fit(form: Callable[[Floats], Floats], counts: Floats, log_grid: Floats) -> tuple[float, float, float]:
    """Returns the maximum-likelihood ceiling, ln(scale) and ln(shape)."""

    def loss(parameters: Floats) -> float:
        ceiling, log_scale, log_shape = parameters
        below = ceiling * form(math.exp(log_shape) * (log_grid - log_scale))
        shares = np.diff(below, prepend=0.0, append=1.0)
        return -float(counts @ np.log(np.maximum(shares, 1e-300))) / total

    total, flips = float(counts.sum()), counts[:-1]
    reached = float(flips.sum()) / total
    middle = float(np.average(log_grid, weights=flips))
    spread = math.sqrt(max(float(np.average((log_grid - middle) ** 2, weights=flips)), 1e-6))
    bounds = [(reached, 1.0), (log_grid[0] - 20, log_grid[-1] + 20), (math.log(1e-3), math.log(1e3))]
    ceiling, shape = (1 + reached) / 2, -math.log(spread)
    corners = [
        (ceiling, middle, shape),
        (1.0, middle, shape),
        (ceiling, middle + spread / 2, shape),
        (ceiling, middle, shape + 0.3),
    ]
    # SciPy's gradient methods call a threaded BLAS on 3 x 3 matrices, which spends its time on waiting for threads.
    optimum = minimize(
        loss,
        corners[0],
        method="Nelder-Mead",
        bounds=bounds,
        options={"initial_simplex": corners, "xatol": 1e-5, "fatol": 1e-9, "maxiter": 1000},
    ).x
    return float(optimum[0]), float(optimum[1]), float(optimum[2])
