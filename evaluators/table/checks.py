"""Checks of a table of published accuracies, with one row per network and one column per attack and epsilon.

A network cannot have a higher accuracy under a stronger attack. So one row with such an accuracy is enough for a check to
fail. Only differences above 0.1 percentage points and above the rounding of the printed digits count.

Sources: as in `evaluators.checks`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluators.checks.result import CheckResult
from evaluators.table.accuracies import Accuracies, read_accuracies
from evaluators.table.columns import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from evaluators.curves.error_curves import Floats


# From this L-infinity epsilon on, a perturbation can turn every image grey, so the accuracy is at chance or below. Such
# columns are left out of `falls_with_epsilon`.
WHOLE_RANGE = 0.5
# With fewer columns two rows may agree by coincidence.
ENOUGH_COLUMNS = 4


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
    table = read_accuracies(columns)
    attacks = dict.fromkeys((c.attack, c.norm) for c in table.columns if c.epsilon is not None)
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


def _in_range(table: Accuracies) -> CheckResult:
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


def _complete(table: Accuracies) -> CheckResult:
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


def _columns_vary(table: Accuracies) -> CheckResult | None:
    if len(table.labels) < 3:
        return None
    constant = [name for name, v in table.values.items() if np.unique(v[~np.isnan(v)]).size <= 1]
    return CheckResult("columns_vary", not constant, {"columns": ", ".join(constant)})


def _rows_are_distinct(table: Accuracies) -> CheckResult:
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


def _falls_with_epsilon(table: Accuracies, attack: str, norm: str) -> CheckResult | None:
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


def _stronger(table: Accuracies, name: str, weak: Sequence[str], strong: Sequence[str]) -> CheckResult | None:
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


def _below_clean(table: Accuracies) -> CheckResult:
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
    table: Accuracies,
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
