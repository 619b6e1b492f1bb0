"""Text and JSON output of the slopes of ln(error) over ln(epsilon) in a table of accuracies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nas.cli.tables import open_console
from nas.formatting import format_epsilon
from nas.plots.style import NORM_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evaluators.table import Slopes


def slopes_record(slopes: Sequence[Slopes]) -> list[dict[str, Any]]:
    """Returns the slopes as plain data: for each attack, one number per row of the table, or None."""
    return [
        {
            "attack": one.attack,
            "norm": one.norm,
            "epsilons": list(one.epsilons),
            "rate": one.rate,
            "slopes": [None if np.isnan(slope) else float(slope) for slope in one.slopes],
        }
        for one in slopes
    ]


def print_slopes(slopes: Sequence[Slopes]) -> None:
    """Prints one line for each attack with the range of its slopes over the rows."""
    out = open_console()
    for one in slopes:
        known = one.slopes[np.isfinite(one.slopes)]
        place = f"slope of ln({one.rate}) over ln(epsilon), {one.attack} {NORM_NAMES.get(one.norm, one.norm)}"
        if len(known):
            low, median, high = np.quantile(known, [0.05, 0.5, 0.95])
            text = f"median {median:.2f}, 5 % to 95 % of the rows {low:.2f} to {high:.2f}"
        else:
            text = "no row"
        span = f"epsilon {format_epsilon(one.epsilons[0])} to {format_epsilon(one.epsilons[-1])}"
        line = f"{place}, {span}: {text} ({len(known):,} of {len(one.slopes):,} rows with 3 rates above 0 and at most 0.5)"
        out.print(line, markup=False, highlight=False, soft_wrap=True)
