"""Does the generalisation error capture adversarial examples?

Claim (Shu, Xi and Kamhoua, "Understanding Adversarial Examples Through Deep Neural Network's Response Surface and
Uncertainty Regions", arXiv:2107.00003): it does not.

Method: use the children (trained networks) of the searches of `architecture_search.py`. This script runs the searches if
they are missing. Compute rank correlations over all children, and over the random children alone. One variable is the clean
error on training, validation or test images, or the gap between test and training error. The other is the adversarial error
on test images at several epsilons, under a one-step attack (FGSM) and a many-step attack (PGD).

The adversarial error includes the clean error, so the two correlate at small epsilons by definition. The flip rate, which is
the adversarial error among correctly classified images, does not include it. A quantity that captures adversarial examples
ranks networks by their flip rate.

    python examples/papers/generalisation.py [--smoke | --full] [--out FOLDER] [--workers N]
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import product
from typing import TYPE_CHECKING

import children
import lab
import matplotlib as mpl
import numpy as np
from lab import format_correlation, format_epsilon
from matplotlib.figure import Figure
from recorded import MULTIPLES

from evaluators import rank_correlation
from nas.plots.style import COLOURS, STYLE

if TYPE_CHECKING:
    from pathlib import Path

ATTACKS = {"one step": "one_step", "many steps": "many_steps"}
ERRORS = {
    "training error": lambda row: row["train_error"],
    "validation error": lambda row: row["validation_error"],
    "test error": lambda row: row["test_error"],
    "gap": lambda row: row["test_error"] - row["train_error"],
}
# Measures of adversarial examples, with the suffix of their metric names.
MEASURES = {"adversarial error": "", "flip rate": "_flips"}
# The multiple of the search's epsilon in the report and the scatter plots.
SHOWN_MULTIPLE = 1.0


def analyse(data: str, rows: list[dict], out: Path) -> dict:
    """Returns rank correlations of clean errors with adversarial errors and flip rates, over the children of a search."""
    search = children.search_settings(data, out)
    return {
        "data": data,
        "search": search,
        "children": len(rows),
        # Standard deviation of the gap, and an upper bound on the deviation that the sampling of images alone would cause.
        "gap_deviation": float(np.std([ERRORS["gap"](row) for row in rows], ddof=1)) if len(rows) > 1 else None,
        "gap_deviation_by_chance_at_most": gap_deviation_by_chance(rows, search),
        "ranges": {name: [float(pick(value(row) for row in rows)) for pick in (min, max)] for name, value in ERRORS.items()},
        "correlations": [
            {
                "group": group,
                "measure": measure,
                "attack": attack,
                "multiple": multiple,
                "epsilon": multiple * search["epsilon"],
                "error": error,
                # If the median is close to 1, the children cannot be ranked.
                "median": float(np.median([row[f"{ATTACKS[attack]}{suffix}@{multiple:g}"] for row in chosen])),
                **asdict(
                    rank_correlation(
                        [value(row) for row in chosen], [row[f"{ATTACKS[attack]}{suffix}@{multiple:g}"] for row in chosen]
                    )
                ),
            }
            for (group, chosen), (measure, suffix), attack, multiple, (error, value) in product(
                children.child_groups(rows).items(), MEASURES.items(), ATTACKS, MULTIPLES, ERRORS.items()
            )
        ],
    }


def gap_deviation_by_chance(rows: list[dict], search: dict) -> float:
    """Returns the standard deviation of the gap of a child due to the sampling of images.

    The formula assumes separate images for each child. The children share their images, and a common error changes no rank.
    So the value is an upper bound.
    """
    variances = [
        sum(row[f"{split}_error"] * (1 - row[f"{split}_error"]) / search[f"{split}_images"] for split in ("train", "test"))
        for row in rows
    ]
    return float(np.sqrt(np.mean(variances)))


def _select(row: dict, **criteria: object) -> list[dict]:
    return [one for one in row["correlations"] if all(one[key] == value for key, value in criteria.items())]


def format_table(analyses: list[dict]) -> str:
    """Returns a table of the correlations over all children, one line for each data set, measure, attack and epsilon."""
    title = f"{'data':8} {'measure':18} {'attack':11} {'epsilon':8}"
    lines = [title + "".join(f" {error:>24}" for error in ERRORS)]
    for row, measure, attack, multiple in product(analyses, MEASURES, ATTACKS, MULTIPLES):
        entries = _select(row, group="all", measure=measure, attack=attack, multiple=multiple)
        epsilon = format_epsilon(row["data"], entries[0]["epsilon"])
        columns = "".join(f" {format_correlation(one) if one['value'] is not None else 'none':>24}" for one in entries)
        lines.append(f"{row['data']:8} {measure:18} {attack:11} {epsilon:8}{columns}")
    return "\n".join(lines)


def draw(analyses: list[dict], rows: dict[str, list[dict]], file: Path) -> None:
    """Plots the adversarial error against the test error and the gap, and all correlations against epsilon."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(14, 0.9 + 3.5 * len(analyses)), layout="constrained")
        panels = figure.subplots(len(analyses), 4, squeeze=False)
        for line, row in zip(panels, analyses, strict=True):
            epsilon = format_epsilon(row["data"], SHOWN_MULTIPLE * row["search"]["epsilon"])
            for axes, error in zip(line[:2], ("test error", "gap"), strict=True):
                for colour, name in zip(COLOURS, ATTACKS.values(), strict=False):
                    x = [ERRORS[error](child) for child in rows[row["data"]]]
                    y = [child[f"{name}@{SHOWN_MULTIPLE:g}"] for child in rows[row["data"]]]
                    axes.scatter(x, y, s=20, color=colour, alpha=0.7)
                axes.set(xlabel=error if error == "test error" else "gap: test error less training error")
                axes.set(ylabel=f"adversarial error at {epsilon} (L∞)")
                axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
            line[0].set_title(row["data"], fontsize=10)
            for axes, measure in zip(line[2:], MEASURES, strict=True):
                _draw_correlations(axes, row, measure)
        marks = {"marker": "o", "linestyle": ""}
        handles = [mpl.lines.Line2D([], [], color=c, label=name, **marks) for c, name in zip(COLOURS, ATTACKS, strict=False)]
        handles += [mpl.lines.Line2D([], [], color=c, label=name) for c, name in zip(COLOURS[2:], ERRORS, strict=False)]
        handles += [
            mpl.lines.Line2D([], [], color="black", linestyle=dash, label=f"{name}: correlation")
            for dash, name in zip(("--", "-"), ATTACKS, strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)
        figure.savefig(file, dpi=110)


def _draw_correlations(axes, row: dict, measure: str) -> None:
    scale = 255 if row["data"] == "cifar10" else 1
    for place, (colour, error) in enumerate(zip(COLOURS[2:], ERRORS, strict=False)):
        for dash, shift, attack in (("--", -0.5, "one step"), ("-", 0.5, "many steps")):
            entries = _select(row, group="all", measure=measure, attack=attack, error=error)
            entries = [one for one in entries if one["interval"] is not None]
            if not entries:
                continue
            at = np.array([scale * one["epsilon"] for one in entries]) * (1 + 0.05 * (place + shift / 2 - 1.5))
            rho, ends = np.array([one["value"] for one in entries]), np.array([one["interval"] for one in entries]).T
            # With few children, the percentile interval may exclude the estimate.
            errors = np.clip([rho - ends[0], ends[1] - rho], 0, None)
            axes.errorbar(
                at, rho, errors, color=colour, linestyle=dash, marker="o", markersize=3, linewidth=1, elinewidth=0.7
            )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xscale="log", ylim=(-1.05, 1.05), ylabel="rank correlation over children", title=f"with {measure}")
    axes.title.set_fontsize(10)
    ticks = [scale * multiple * row["search"]["epsilon"] for multiple in MULTIPLES]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axes.set_xlabel("epsilon, in 1/255 (L∞)" if scale > 1 else "epsilon, L∞, pixels in [0, 1]")


def report_text(analyses: list[dict]) -> str:
    """Returns a summary of the results, a few lines for each data set."""
    lines = []
    for row in analyses:
        epsilon = format_epsilon(row["data"], SHOWN_MULTIPLE * row["search"]["epsilon"])
        lines.append(f"{row['data']}, {row['children']} children, epsilon {epsilon}; 95 % intervals over children:")
        for group, measure, attack in product(("all", "random"), MEASURES, ATTACKS):
            entries = _select(row, group=group, measure=measure, attack=attack, multiple=SHOWN_MULTIPLE)
            correlations = "; ".join(f"{one['error']} {format_correlation(one)}" for one in entries)
            group_name = "all" if group == "all" else "drawn at random"
            lines.append(f"  {group_name}, {measure} under {attack} against {correlations}")
        for attack, group in product(ATTACKS, ("all", "random")):
            gap, test = (
                _select(row, group=group, measure=measure, attack=attack, multiple=SHOWN_MULTIPLE, error=error)[0]
                for measure, error in (("adversarial error", "gap"), ("flip rate", "test error"))
            )
            group_name = "all children" if group == "all" else "those drawn at random"
            lines.append(
                f"  does generalisation error capture adversarial examples, {attack}, {group_name}: the gap "
                f"{_verdict(gap, 'adversarial error')}; the test error {_verdict(test, 'the flip rate')}"
            )
    return "\n".join(lines)


def _verdict(one: dict, of: str) -> str:
    if one["value"] is None:
        return f"has no correlation with {of}, because one of them is constant"
    if one["interval"] is None:
        return f"has no interval with {one['n']} children"
    low, high = one["interval"]
    if low <= 0 <= high:
        return f"has no significant correlation with {of}"
    if high < 0:
        return f"ranks {of} in reverse, {one['value']:+.2f}"
    return f"ranks {of} in part, {one['value']:+.2f}" if one["value"] < 0.8 else f"ranks {of} well, {one['value']:+.2f}"


def main() -> None:
    """Runs missing searches, and writes the analysis and the figures."""
    options = lab.parse_arguments(__file__, __doc__)
    searches = options.out.parent / "architecture_search"
    children.search_all(options.size, searches, options.workers)
    rows = {data: children.read_children(data, searches) for data in children.data_sets(options.size)}
    analyses = [analyse(data, own, searches) for data, own in rows.items()]
    lab.write_json(options.out / "generalisation.json", {"analysis": analyses, "children": rows})
    draw(analyses, rows, options.out / "generalisation.png")
    print(format_table(analyses))
    print(report_text(analyses))


if __name__ == "__main__":
    lab.run(main)
