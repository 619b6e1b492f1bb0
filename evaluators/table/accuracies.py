"""The accuracies of a table: its columns with the name of an accuracy, as shares, and the names of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evaluators.curves.error_curves import Floats
from evaluators.table.columns import Column, in_pixels, parse_column, understood

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

# Smallest difference that counts, as a share; smaller differences may be noise.
TOLERANCE = 0.001
FEW_ROWS = 10
SHOWN = 5


@final
@dataclass(frozen=True)
class Accuracies:
    """A table of accuracies.

    Attributes:
        columns: Parsed names of the columns.
        values: Accuracies as shares, (N,) each, by name of the column.
        labels: Names of the rows, (N,).
        unit: Divisor of the original accuracies: 100 for percent, 1 for shares.
    """

    columns: list[Column]
    values: dict[str, Floats]
    labels: list[str]
    unit: float

    def of(self, kinds: Sequence[str]) -> list[Column]:
        """Returns the columns of some kinds."""
        return [column for column in self.columns if column.kind in kinds]

    def tolerance(self, *names: str) -> float:
        """Returns the largest difference between accuracies of the columns that counts as rounding, at least 0.1 points.

        Rounding is half a unit of the last printed digit per column. In a table of few rows, all values of a column may end
        in 0, so the finest last digit of all columns is used.
        """
        few = len(self.labels) < FEW_ROWS
        digits = sum(min(map(self._digit, self.values)) if few else self._digit(name) for name in names) / 2
        return max(digits, TOLERANCE) * (1 + 1e-6) + 1e-9

    def _digit(self, name: str) -> float:
        """Returns the last decimal place of a column as a share, such as 0.001 for 58.2 %; at most 6 places are read."""
        values = self.values[name] * self.unit
        values = values[np.isfinite(values)]
        places = (p for p in range(6) if np.allclose(values * 10**p, np.round(values * 10**p), rtol=0, atol=1e-4))
        return float(10.0 ** -next(places, 6)) / self.unit

    def rows(self, selected: NDArray[np.bool_]) -> str:
        """Returns the names of the first selected rows, (N,), as text."""
        shown = [self.labels[i] for i in np.flatnonzero(selected)[:SHOWN]]
        return "; ".join(shown) + ("; ..." if selected.sum() > SHOWN else "")


def read_accuracies(columns: Mapping[str, NDArray[Any]]) -> Accuracies:
    """Returns the accuracies of a table.

    Args:
        columns: Columns by name, (N,) each, as in `check_table`.

    Raises:
        ValueError: there are no rows, no column has the name of an accuracy, or columns differ in length.
    """
    parsed = [column for column in map(parse_column, columns) if column is not None]
    parsed = in_pixels([c for c in parsed if np.issubdtype(np.asarray(columns[c.name]).dtype, np.number)])
    if not parsed:
        raise ValueError(f"no accuracy columns among {', '.join(columns) or 'no columns'}; {understood()}")
    lengths = {len(columns[name]) for name in columns}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"columns must all have the same number of rows, at least one, got {sorted(lengths)}")
    raw = {column.name: np.asarray(columns[column.name], dtype=np.float64) for column in parsed}
    unit = _unit(list(raw.values()))
    return Accuracies(parsed, {name: values / unit for name, values in raw.items()}, _labels(columns), unit)


def _labels(columns: Mapping[str, NDArray[Any]]) -> list[str]:
    """Returns the names of the rows: the first column of strings, or "row 1", "row 2" and so on."""
    names = next((np.asarray(v) for v in columns.values() if not np.issubdtype(np.asarray(v).dtype, np.number)), None)
    rows = len(next(iter(columns.values())))
    return [f"row {i + 1}" for i in range(rows)] if names is None else [str(name) for name in names]


def _unit(values: Sequence[Floats]) -> float:
    """Returns 100 for percent and 1 for shares. It takes the best accuracy of each row, and the median of these.

    A median above 1 means percent. Otherwise the unit is shares, because a best accuracy of at most 1 % is implausible.
    """
    best = np.fmax.reduce(values)
    return 100.0 if np.isfinite(best).any() and np.nanmedian(best) > 1 else 1.0
