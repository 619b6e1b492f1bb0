"""Slopes of ln(error) over ln(epsilon) in a table of published accuracies, for each row and attack.

For the flip rate, the slope is a rough exponent of a power law. A table has no radii, so there is neither a window nor a
test of the fit. If the table has no clean accuracy of the attacked images, the error replaces the flip rate. The clean error
then makes the slope smaller than the exponent, most at small epsilons.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np

from evaluators.curves.error_curves import Floats
from evaluators.table.accuracies import read_accuracies

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

# Smallest number of epsilons of a slope, and the largest rate of its points. Above it, curves level off.
POINTS = 3
LARGEST_RATE = 0.5


@final
@dataclass(frozen=True)
class Slopes:
    """Slopes of the rows of a table under one attack.

    Attributes:
        attack: Name of the attack.
        norm: Name of its norm.
        epsilons: Epsilons of the attack above 0, ascending, (E,).
        rate: Whether the slopes are those of the flip rate or, without a clean accuracy, of the error.
        slopes: Least-squares slope of each row, (N,). NaN if fewer than 3 of its rates are above 0 and at most 0.5.
    """

    attack: str
    norm: str
    epsilons: tuple[float, ...]
    rate: Literal["flip rate", "error"]
    slopes: Floats = field(repr=False)


def error_slopes(columns: Mapping[str, NDArray[Any]]) -> list[Slopes]:
    """Returns the slopes of ln(rate) over ln(epsilon) for each attack that has at least 3 epsilons.

    Args:
        columns: Columns by name, (N,) each, as in `check_table`.

    Raises:
        ValueError: as `check_table`.

    Example:
        >>> import numpy as np
        >>> from evaluators.table import error_slopes
        >>> table = {"clean": [100.0], "pgd_1": [99.0], "pgd_2": [96.0], "pgd_4": [84.0]}
        >>> (slopes,) = error_slopes({name: np.array(values) for name, values in table.items()})
        >>> round(float(slopes.slopes[0]), 3)
        2.0
    """
    table = read_accuracies(columns)
    clean = next((table.values[column.name] for column in table.of(["clean"])), None)
    found = []
    for attack, norm in dict.fromkeys((c.attack, c.norm) for c in table.columns if c.epsilon):
        own = {c.epsilon: c.name for c in table.columns if (c.attack, c.norm) == (attack, norm) and c.epsilon}
        epsilons = tuple(sorted(own))
        if len(epsilons) >= POINTS:
            accuracies = np.stack([table.values[own[epsilon]] for epsilon in epsilons], axis=1)
            with np.errstate(divide="ignore", invalid="ignore"):
                rates = 1 - accuracies if clean is None else 1 - accuracies / clean[:, None]
            slopes = _slopes(rates, np.log(epsilons))
            found.append(Slopes(attack, norm, epsilons, "error" if clean is None else "flip rate", slopes))
    return found


def _slopes(rates: Floats, log_epsilons: Floats) -> Floats:
    """Returns the least-squares slope of ln(rate) of each row, (N,); rates are (N, E), log_epsilons (E,)."""
    # The smallest rate above 0 that counts is one of a rounding error.
    used = (rates > 1e-9) & (rates <= LARGEST_RATE)
    y, n = np.log(np.where(used, rates, 1.0)), np.maximum(used.sum(axis=1), 1)
    x = np.where(used, log_epsilons - (used * log_epsilons).sum(axis=1, keepdims=True) / n[:, None], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(used.sum(axis=1) >= POINTS, (x * y).sum(axis=1) / (x * x).sum(axis=1), np.nan)
