"""Names of metrics, and the epsilons that they need. For all metrics, smaller is better."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from evaluators.curves.error_curves import in_grid
from evaluators.curves.power_law_window import SMALLEST_CELLS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


CHEAP_METRICS = ("parameters", "macs")


# Measured for every trial.
STANDARD_METRICS = (*CHEAP_METRICS, "clean_error", "adversarial_error")


# Computed from the power law of the flip rate over evaluation.epsilons.
LAW_METRICS = ("negative_power_law_exponent", "power_law_prefactor")


# Computed from the error curve over evaluation.epsilons.
CURVE_METRICS = ("error_area", "negative_median_radius", *LAW_METRICS)


METRICS = (*STANDARD_METRICS, *CURVE_METRICS, "first_order_error", "failed_checks")


AT = "adversarial_error@"


def epsilon_of(metric: str) -> float | None:
    """Returns E of the metric adversarial_error@E; None for other metrics, NaN if E is not a number."""
    if not metric.startswith(AT):
        return None
    try:
        value, _, divisor = metric.removeprefix(AT).partition("/")
        return float(value) / float(divisor or 1)
    except (ValueError, ZeroDivisionError):
        return float("nan")


def is_metric(name: str) -> bool:
    """Returns whether a name is that of a metric."""
    return name in METRICS or math.isfinite(epsilon_of(name) or math.nan)


def missing_epsilons(names: Iterable[str], grid: Sequence[float]) -> list[str]:
    """Returns one message for each metric that needs epsilons outside the grid."""
    faults = []
    for name in names:
        at = epsilon_of(name)
        if at is not None and not in_grid(at, grid):
            faults.append(f"asks for {name}, so evaluation.epsilons must hold {name.removeprefix(AT)}")
        least = SMALLEST_CELLS if name in LAW_METRICS else 2
        if name in CURVE_METRICS and len(grid) < least:
            number = {2: "two", SMALLEST_CELLS: "four"}[least]
            faults.append(f"asks for {name}, so evaluation.epsilons must hold at least {number} epsilons")
    return faults
