"""Checks of a table of published accuracies, with one row per network and one column per attack and epsilon.

A network cannot have a higher accuracy under a stronger attack. So one row with such an accuracy is enough for a check to
fail. Only differences above 0.1 percentage points and above the rounding of the printed digits count.

Sources: as in `evaluators.checks`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evaluators.checks.result import CheckResult
from evaluators.curves.error_curves import Floats
from evaluators.table.columns import KINDS, Column, in_pixels, parse_column, understood

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray


# Smallest difference that counts, as a share; smaller differences may be noise.
TOLERANCE = 0.001
# From this L-infinity epsilon on, a perturbation can turn every image grey, so the accuracy is at chance or below. Such
# columns are left out of `falls_with_epsilon`.
WHOLE_RANGE = 0.5
# With fewer columns two rows may agree by coincidence.
ENOUGH_COLUMNS = 4
FEW_ROWS = 10
SHOWN = 5


def check_table(columns: Mapping[str, NDArray[Any]]) -> list[CheckResult]:
    """Runs all checks that the columns of a table of accuracies allow, and returns their outcomes.

    Args:
        columns: Columns by name, (N,) each, with one row per network. Columns of accuracies have a numeric dtype and a name
            such as `clean`, `val_acc`, `pgd_Linf_eps2` or `fgsm_l2_0.5`. Accuracies are in percent or shares between 0 and
            1, detected from their range; NaN if missing. If an L-infinity epsilon is above 1, all L-infinity epsilons
            without "/255" are read as multiples of 1/255. The first column of another dtype names the rows. Other columns
            are ignored.

    Raises:
        ValueError: there are no rows, no column has the name of an accuracy, or columns differ in length.

    Example:
        >>> import numpy as np
        >>> from evaluators import check_table
        >>> checks = check_table({"clean": np.array([91.2, 90.1]), "pgd_Linf_eps2": np.array([40.2, 95.0])})
        >>> [check.name for check in checks if not check.passed]
        ['adversarial_below_clean']
    """
    parsed = [column for column in map(parse_column, columns) if column is not None]
    parsed = in_pixels([c for c in parsed if np.issubdtype(np.asarray(columns[c.name]).dtype, np.number)])
    if not parsed:
        raise ValueError(f"no accuracy columns among {', '.join(columns) or 'no columns'}; {understood()}")
    lengths = {len(columns[name]) for name in columns}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"columns must all have the same number of rows, at least one, got {sorted(lengths)}")
    raw = {column.name: np.asarray(columns[column.name], dtype=np.float64) for column in parsed}
    labels = _labels(columns)
    unit = _unit(list(raw.values()))
    table = _Table(parsed, {name: values / unit for name, values in raw.items()}, labels, unit)
    attacks = dict.fromkeys((c.attack, c.norm) for c in parsed if c.epsilon is not None)
    outcomes = [
        _in_range(table),
        _complete(table),
        _columns_vary(table),
        _rows_are_distinct(table),
        *(_falls_with_epsilon(table, attack, norm) for attack, norm in attacks),
        _stronger(table, "one_step_never_beats_many", ("single step",), ("many steps",)),
        _stronger(table, "black_box_never_beats_white_box", ("black box",), ("single step", "many steps")),
        _stronger(table, "noise_never_beats_attacks", ("noise",), ("single step", "many steps")),
        _below_clean(table),
    ]
    return [outcome for outcome in outcomes if outcome is not None]


@final
@dataclass(frozen=True)
class _Table:
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
        shown = [self.labels[i] for i in np.flatnonzero(selected)[:SHOWN]]
        return "; ".join(shown) + ("; ..." if selected.sum() > SHOWN else "")


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


def _in_range(table: _Table) -> CheckResult:
    outside = {name: (v < -1e-9) | (v > 1 + 1e-9) | np.isinf(v) for name, v in table.values.items()}
    count = int(sum(o.sum() for o in outside.values()))
    return CheckResult(
        "accuracies_in_range",
        count == 0,
        {
            "cells": count,
            "unit": "percent" if table.unit == 100 else "shares",
            "columns": ", ".join(name for name, o in outside.items() if o.any()),
            "rows": table.rows(np.any(list(outside.values()), axis=0)),
        },
    )


def _complete(table: _Table) -> CheckResult:
    missing = {name: np.isnan(v) for name, v in table.values.items()}
    return CheckResult(
        "nothing_missing",
        not any(m.any() for m in missing.values()),
        {
            "cells": int(sum(m.sum() for m in missing.values())),
            "columns": ", ".join(name for name, m in missing.items() if m.any()),
            "rows": table.rows(np.any(list(missing.values()), axis=0)),
        },
    )


def _columns_vary(table: _Table) -> CheckResult | None:
    if len(table.labels) < 3:
        return None
    constant = [name for name, v in table.values.items() if np.unique(v[~np.isnan(v)]).size <= 1]
    return CheckResult("columns_vary", not constant, {"columns": ", ".join(constant)})


def _rows_are_distinct(table: _Table) -> CheckResult:
    names, counts = np.unique(table.labels, return_counts=True)
    twice = names[counts > 1]
    repeats = np.zeros(len(table.labels), dtype=bool)
    example = f"{twice[0]}, {counts[counts > 1][0]} times" if len(twice) else ""
    if len(table.values) >= ENOUGH_COLUMNS:
        rows = np.stack(list(table.values.values()), axis=1)
        _, first, inverse = np.unique(np.nan_to_num(rows, nan=-1), axis=0, return_index=True, return_inverse=True)
        earlier = first[inverse.ravel()]
        repeats = earlier != np.arange(len(rows))
        if repeats.any() and not example:
            i = int(np.flatnonzero(repeats)[0])
            example = f"{table.labels[i]} as {table.labels[earlier[i]]}"
    return CheckResult(
        "rows_are_distinct",
        not (len(twice) or repeats.any()),
        {"repeated_names": len(twice), "repeating_rows": int(repeats.sum()), "of": len(repeats), "example": example},
    )


def _falls_with_epsilon(table: _Table, attack: str, norm: str) -> CheckResult | None:
    of_attack = [c for c in table.columns if (c.attack, c.norm) == (attack, norm) and c.epsilon is not None]
    ordered = sorted(of_attack, key=lambda column: column.epsilon or 0.0)
    aside = [c.name for c in ordered if norm == "linf" and (c.epsilon or 0.0) >= WHOLE_RANGE]
    ordered = [c for c in ordered if c.name not in aside]
    if len(ordered) < 2:
        return None
    lowest, rises = table.values[ordered[0].name], {}
    for column in ordered[1:]:
        # Compared with the lowest accuracy so far, because small rises add up.
        rises[column.name] = table.values[column.name] - lowest
        lowest = np.fmin(lowest, table.values[column.name])
    tolerance = table.tolerance(*(column.name for column in ordered[:2]))
    name = f"falls_with_epsilon_{attack}" + ("" if norm == "linf" else f"_{norm}")
    return _verdict(table, name, rises, lambda pair: tolerance, {"attack": attack, "left_aside": ", ".join(aside)})


def _stronger(table: _Table, name: str, weak: Sequence[str], strong: Sequence[str]) -> CheckResult | None:
    """Checks that, in each row, no accuracy of a weak kind is below the lowest of the strong kinds.

    Only accuracies at equal norm and epsilon are compared.
    """
    gaps, tolerances = {}, {}
    for column in table.of(weak):
        rivals = [c for c in table.of(strong) if c.norm == column.norm and _same(c.epsilon, column.epsilon)]
        if rivals:
            lowest = np.fmin.reduce([table.values[c.name] for c in rivals])
            pair = f"{column.name} below {' and '.join(c.name for c in rivals)}"
            gaps[pair] = lowest - table.values[column.name]
            tolerances[pair] = table.tolerance(column.name, rivals[0].name)
    return _verdict(table, name, gaps, tolerances.__getitem__, {}) if gaps else None


def _below_clean(table: _Table) -> CheckResult:
    name, attacked = "adversarial_below_clean", table.of(tuple(KINDS))
    clean, others = table.of(["clean"]), table.of(["other split"])
    if clean and attacked:
        gaps = {column.name: table.values[column.name] - table.values[clean[0].name] for column in attacked}
        tolerance = {column.name: table.tolerance(column.name, clean[0].name) for column in attacked}
        compared = f"No adversarial accuracy is above the clean accuracy, {clean[0].name}"
        return _verdict(table, name, gaps, tolerance.__getitem__, {"compared": compared})
    compared = "Not decided: the table has no clean accuracy of the attacked images"
    if others and attacked:
        best = np.fmax.reduce([table.values[column.name] for column in attacked])
        above = int((best > table.values[others[0].name]).sum())
        compared += f". {others[0].name} is of another split; "
        compared += f"{above:,} of {len(best):,} rows have an adversarial accuracy above it"
    return CheckResult(name, True, {"compared": compared})


def _verdict(
    table: _Table,
    name: str,
    gaps: Mapping[str, Floats],
    tolerance: Callable[[str], float],
    evidence: Mapping[str, float | str],
) -> CheckResult:
    """Returns the outcome of a check that fails if a gap exceeds its tolerance.

    Args:
        table: Table of N rows.
        name: Name of the check.
        gaps: Differences of accuracies, (N,) each, by a text that names their columns.
        tolerance: Maps the text of a gap to its tolerance, as a share.
        evidence: Evidence to add to that of the gaps.
    """
    exceeding = {pair: gap > tolerance(pair) for pair, gap in gaps.items()}
    rows = np.any(list(exceeding.values()), axis=0)
    worst = max(gaps, key=lambda pair: np.nanmax(np.where(exceeding[pair], gaps[pair], -np.inf), initial=-np.inf))
    outcome: dict[str, float | str] = {**evidence, "rows": int(rows.sum()), "of": len(rows)}
    if rows.any():
        row = int(np.nanargmax(np.where(exceeding[worst], gaps[worst], -np.inf)))
        outcome |= {
            "largest_points": round(100 * float(gaps[worst][row]), 4),
            "largest_at": worst,
            "largest_in": table.labels[row],
            "counts": _counts(exceeding),
            "first_rows": table.rows(rows),
        }
    return CheckResult(name, not rows.any(), outcome)


def _counts(exceeding: Mapping[str, NDArray[np.bool_]]) -> str:
    """Returns the number of rows that exceed the tolerance at each pair of columns, as text."""
    counted: Iterable[tuple[str, int]] = ((pair, int(rows.sum())) for pair, rows in exceeding.items())
    return "; ".join(f"{pair}: {count:,}" for pair, count in counted if count)


def _same(first: float | None, second: float | None) -> bool:
    """Returns whether two epsilons are equal up to rounding, or both missing."""
    return first == second or (first is not None and second is not None and math.isclose(first, second, rel_tol=1e-6))
