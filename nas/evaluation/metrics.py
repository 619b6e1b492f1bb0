"""Metrics of a trial, by name: what a search minimises, and what it bounds. All are better when smaller.

Two are known before any training, the others come from the validation split: from the radii that the search's attacks
measure anyhow, from gradients at the clean images, or from the checks of a profile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING

from evaluators import error_area, error_at, first_order_error, median_radius
from evaluators.checks import check_network
from nas.config.metrics import CHEAP_METRICS, STANDARD_METRICS, epsilon_of, is_metric

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from evaluators.curves.error_curves import Floats
    from nas.config.schema import EvaluationConfig
    from nas.data import Split


def measured_metrics(
    names: Iterable[str], radii: Floats, network: nn.Module, validation: Split, config: EvaluationConfig
) -> dict[str, float]:
    """Returns the standard metrics of a trained network and those of `names`, but for the cheap ones.

    Args:
        names: Of metrics.
        radii: Radii on the validation split, (N,), under the worst case over the attacks of the search.
        network: The trained network.
        validation: The validation split.
        config: Epsilon, grid and attacks.
    """
    epsilon, norm = config.epsilon, next(iter(config.attacks.values())).norm
    x, y = validation.x, validation.y
    grid = config.grid()
    # A radius beyond the grid counts as its end: the median is at least that.
    largest = max(grid)
    measures = {
        "clean_error": lambda: error_at(radii, 0.0),
        "adversarial_error": lambda: error_at(radii, epsilon),
        "error_area": lambda: error_area(radii, grid),
        "negative_median_radius": lambda: -min(median_radius(radii), largest),
        "first_order_error": lambda: first_order_error(network, x, y, norm, epsilon),
        "failed_checks": lambda: float(sum(not check.passed for check in check_network(network, x, y))),
    }
    wanted = dict.fromkeys([*STANDARD_METRICS, *names])
    metrics = {}
    for name in wanted:
        if (at := epsilon_of(name)) is not None:
            # The radius is a point of the grid, written out; E may be a quotient.
            metrics[name] = error_at(radii, at)
        elif name not in CHEAP_METRICS:
            metrics[name] = measures[name]()
    return metrics


def parse_record(returned: object) -> dict[str, float]:
    """Returns what a user's function recorded of a network.

    Raises:
        ValueError: it is no mapping of names to finite numbers, or has a name of ours.
    """
    if not isinstance(returned, Mapping):
        raise ValueError(f"evaluation.record must return numbers by name, got {type(returned).__name__}")
    for name, value in returned.items():
        if not isinstance(name, str) or not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"evaluation.record must return finite numbers by name, got {name!r}: {value!r}")
        if is_metric(name):
            raise ValueError(f"evaluation.record must return names of its own, got {name!r}, which is a metric")
    return {name: float(value) for name, value in returned.items()}
