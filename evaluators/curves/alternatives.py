"""Is it a power law, or the lower end of another form? Two rivals of the law, fitted to the whole curve.

A form is F(epsilon) = ceiling * G(shape * ln(epsilon / scale)), with 0 < ceiling <= 1 for the share of images that can be
flipped at all. The saturating form takes G(z) = 1 - exp(-exp(z)), a Weibull distribution of the radii, whose lower tail is a
power law of exponent `shape`; the log-normal form takes the normal distribution function, and has no power-law tail.

A form is fitted by interval-censored maximum likelihood to all images: the flips in every cell of the grid and those never
flipped. The law is fitted to its window alone. They are compared where both speak, on the flips inside the window, by the
likelihood of each flip given that it lies there. That is the test of Vuong, "Likelihood ratio tests for model selection and
non-nested hypotheses", Econometrica 57, 1989, which Clauset, Shalizi and Newman (SIAM Review 51, 2009) use on power laws.

So a form answers for the whole curve, and the law for a window that was chosen to suit it: the form is hardly ever favoured.
Where the law is, the form does not describe the lower end of the curve; where nothing can be told, the law may be the lower
end of the form. In `tests/benchmarks/coverage.py` neither form is ever rejected where it is the truth.
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
    """Another form of the curve, F(epsilon) = ceiling * G(shape * ln(epsilon / scale)), against the power law.

    Attributes:
        ceiling: Share of the images that the form lets be flipped at any epsilon.
        scale: The epsilon at z = 0: where a share 1 - 1/e (saturating) or one half (log-normal) of the ceiling is reached.
        shape: The saturating form's exponent at zero; one over the standard deviation of the log-normal form's ln(radius).
        log_likelihood_ratio: Log-likelihood of the flips in the window under the law, minus that under the form.
        p_value: Vuong's, two-sided: how often two equally good forms would differ as much.
    """

    ceiling: float
    scale: float
    shape: float
    log_likelihood_ratio: float
    p_value: float

    def verdict(self, level: float = 0.05) -> str:
        """Returns 'power law', 'alternative' or 'not distinguishable': which describes the flips in the window better."""
        if self.p_value >= level or self.log_likelihood_ratio == 0:
            return "not distinguishable"
        return "power law" if self.log_likelihood_ratio > 0 else "alternative"


def compare_forms(counts: Floats, log_grid: Floats, law: Floats) -> dict[str, Alternative]:
    """Returns each form's fit and its comparison with the power law.

    Args:
        counts: Flips in each cell of the grid, then the images that were not flipped, (E + 1,).
        log_grid: Logarithms of the grid, (E,).
        law: The law's log-probability of each cell of its window, given a flip there, (W,).
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
    """Returns the ceiling, ln(scale) and ln(shape) of greatest likelihood."""

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
    # Not by gradients: SciPy's routines for these call a threaded BLAS on 3 x 3 matrices, which then waits for its threads.
    optimum = minimize(
        loss,
        corners[0],
        method="Nelder-Mead",
        bounds=bounds,
        options={"initial_simplex": corners, "xatol": 1e-5, "fatol": 1e-9, "maxiter": 1000},
    ).x
    return float(optimum[0]), float(optimum[1]), float(optimum[2])
