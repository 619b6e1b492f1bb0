"""Correction of p-values for multiple tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evaluators.curves.error_curves import Floats


def holm(p_values: Sequence[float]) -> Floats:
    """Returns p-values corrected by Holm's method, (P,).

    If all null hypotheses with a corrected p-value below a level are rejected, the probability of any false rejection is at
    most that level.

    Args:
        p_values: P-values of all tests, (P,), between 0 and 1.

    Raises:
        ValueError: a p-value is not between 0 and 1.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.

    Example:
        >>> from evaluators import holm
        >>> holm([0.01, 0.04, 0.03])
        array([0.03, 0.06, 0.06])
    """
    values = np.asarray(p_values, dtype=np.float64)
    outside = values[~((values >= 0) & (values <= 1))]
    if len(outside):
        raise ValueError(f"p-values must be between 0 and 1, got {outside[0]:g}")
    order = np.argsort(values, kind="stable")
    corrected = np.empty_like(values)
    corrected[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)).clip(max=1.0)
    return corrected
