"""Metrics of a trial. For all metrics, smaller is better.

parameters and macs need no training. The other metrics are measured on the validation split: from the radii under the
search's attacks, from gradients at clean images, or by the checks of a profile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING

from evaluators import NoPowerLaw, error_area, error_at, first_order_error, fit_power_law, median_radius
from evaluators.checks import check_network
from nas.config.metrics import CHEAP_METRICS, LAW_METRICS, STANDARD_METRICS, epsilon_of, is_metric
from nas.errors import UndefinedMetricError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from evaluators.curves.error_curves import Floats
    from nas.config.evaluation import EvaluationConfig
    from nas.data import Split


def measured_metrics(
    names: Iterable[str],
    radii: Floats,
    fooled: NDArray[np.bool_],
    network: nn.Module,
    validation: Split,
    config: EvaluationConfig,
) -> dict[str, float]:
    """Returns the standard metrics of a trained network and the further metrics in `names`, by name.

    parameters and macs are left out: they are measured before the training, by `Evaluator.precheck`.

    Args:
        names: Names of metrics.
        radii: Smallest radius of each validation image over the attacks in the norm of epsilon, (N,), in pixel units.
        fooled: Whether each image counts for adversarial_error, (N,): over the attacks of all norms.
        network: The trained network.
        validation: The validation split.
        config: Epsilon, grid and attacks.

    Raises:
        UndefinedMetricError: a metric of the power law is wanted, but no law can be fitted.
    """
    epsilon, norm = config.epsilon, next(iter(config.attacks_in(config.norm).values())).norm
    x, y = validation.x, validation.y
    grid = config.grid()
    # A median radius beyond the grid is infinite. The largest epsilon, a lower bound, replaces it.
    largest = max(grid)
    measures = {
        "clean_error": lambda: error_at(radii, 0.0),
        "adversarial_error": lambda: float(fooled.mean()),
        "error_area": lambda: error_area(radii, grid),
        "negative_median_radius": lambda: -min(median_radius(radii), largest),
        "first_order_error": lambda: first_order_error(network, x, y, norm, epsilon),
        "failed_checks": lambda: float(sum(not check.passed for check in check_network(network, x, y))),
    }
    wanted = dict.fromkeys([*STANDARD_METRICS, *names])
    metrics = {}
    for name in wanted:
        if (at := epsilon_of(name)) is not None:
            metrics[name] = error_at(radii, at)
        elif name in LAW_METRICS:
            metrics[name] = _law_metric(name, radii, grid)
        elif name not in CHEAP_METRICS:
            metrics[name] = measures[name]()
    return metrics


def _law_metric(name: str, radii: Floats, grid: Sequence[float]) -> float:
    """Returns a metric of the power law of the flip rate. A law whose fit is rejected counts as well.

    Without a law there is no number that would rank the network: too few flips may mean that it is robust, or that it
    misclassifies nearly all clean images.

    Raises:
        UndefinedMetricError: no law can be fitted.
    """
    law = fit_power_law(radii, grid)
    if isinstance(law, NoPowerLaw):
        raise UndefinedMetricError(f"{name} is undefined: {law.reason}")
    return -law.exponent if name == "negative_power_law_exponent" else law.prefactor


def parse_record(returned: object) -> dict[str, float]:
    """Returns the validated numbers of a custom `evaluation.record` function.

    Raises:
        ValueError: the value is not a mapping of names to finite numbers, or a name is that of a metric.
    """
    if not isinstance(returned, Mapping):
        raise ValueError(f"evaluation.record must return numbers by name, got {type(returned).__name__}")
    for name, value in returned.items():
        if not isinstance(name, str) or not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"evaluation.record must return finite numbers by name, got {name!r}: {value!r}")
        if is_metric(name):
            raise ValueError(f"evaluation.record must not return the name of a metric, got {name!r}")
    return {name: float(value) for name, value in returned.items()}
