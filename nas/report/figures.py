"""The pictures of a report and of a bundle, as SVG text."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from evaluators.profile import fitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from evaluators import RobustnessProfile
    from nas.bundle.load import Bundle
    from nas.config import ObjectiveConfig
    from nas.study import Trial

COLOURS = ("#2f6fb2", "#d1662b", "#3d8f5f", "#9355a8", "#b0892c", "#4a8f9c", "#b2394b")
GREY = "#9aa0a6"
_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#55595f",
    "axes.grid": True,
    "grid.color": "#e4e6e9",
    "axes.axisbelow": True,
    "legend.frameon": False,
    # Without these two, the same numbers would give another file each time.
    "svg.hashsalt": "hardcell",
    "svg.fonttype": "path",
}


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def best_so_far(trials: Sequence[Trial], objective: ObjectiveConfig) -> str:
    """Returns the first objective of every complete trial, and the best feasible one so far."""
    metric = objective.minimise[0]
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(6.4, 3.6)
        complete = [trial for trial in trials if trial.state == "complete"]
        groups = {
            "feasible": ([t for t in complete if t.violation == 0 and t.duplicate_of is None], "o", COLOURS[0]),
            "outside the constraints": ([t for t in complete if t.violation > 0 and t.duplicate_of is None], "x", GREY),
            "duplicate": ([t for t in complete if t.duplicate_of is not None], "|", GREY),
        }
        for label, (group, marker, colour) in groups.items():
            if group:
                axes.scatter(
                    [t.number for t in group],
                    [t.metrics[metric] for t in group],
                    marker=marker,
                    color=colour,
                    s=26,
                    label=label,
                )
        feasible = [trial for trial in complete if trial.violation == 0]
        if feasible:
            best = np.minimum.accumulate([trial.metrics[metric] for trial in feasible])
            numbers = [trial.number for trial in feasible]
            axes.step(
                [*numbers, trials[-1].number],
                [*best, best[-1]],
                where="post",
                color=COLOURS[1],
                label="best feasible so far",
            )
        axes.set(xlabel="trial", ylabel=_axis(metric))
        axes.legend(loc="upper right", fontsize=8)
        return _svg(figure)


def clean_against_adversarial(trials: Sequence[Trial], objective: ObjectiveConfig) -> str:
    """Returns clean against adversarial validation error over all trained candidates."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(6.4, 3.6)
        trained = [t for t in trials if t.state == "complete" and t.duplicate_of is None]
        for random, label, marker in ((True, "drawn at random", "s"), (False, "proposed by the sampler", "o")):
            group = [t for t in trained if t.random is random]
            if group:
                axes.scatter(
                    [t.metrics["clean_error"] for t in group],
                    [t.metrics["adversarial_error"] for t in group],
                    marker=marker,
                    s=30,
                    color=COLOURS[2] if random else COLOURS[0],
                    alpha=0.8,
                    label=label,
                )
        bound = objective.constraints.get("clean_error")
        if bound is not None:
            axes.axvline(
                bound, color=COLOURS[6], linestyle="--", linewidth=1.2, label=f"bound on the clean error, {bound:g}"
            )
        axes.set(xlabel="clean validation error", ylabel="adversarial validation error")
        axes.legend(loc="best", fontsize=8)
        return _svg(figure)


def error_curves(bundles: Sequence[Bundle], norm: str, epsilon: float) -> str:
    """Returns the worst-case flip rate of several networks over epsilon, on log axes, each with its power law."""
    from evaluators import error_curve, fit_power_law
    from evaluators.power_law import PowerLaw

    with mpl.rc_context(_STYLE):
        figure, axes = _figure(9.6, 4.6)
        for colour, bundle in zip(COLOURS, bundles, strict=False):
            grid = grid_of(bundle.profile, norm)
            radii = bundle.profile.worst_case(norm)
            curve = error_curve(radii, grid)
            law = fit_power_law(radii, grid)
            label = bundle.name
            if isinstance(law, PowerLaw):
                label += f", exponent {law.exponent:.2f} [{law.exponent_interval[0]:.2f}, {law.exponent_interval[1]:.2f}]"
                window = np.geomspace(*law.window, 50)
                axes.plot(window, law(window), color=colour, linewidth=3.5, alpha=0.3)
            positive = curve.flip_rate > 0
            if not positive.any():
                continue
            style = "-" if bundle.role == "finalist" else "--"
            axes.plot(
                curve.epsilons[positive],
                curve.flip_rate[positive],
                style,
                marker=".",
                color=colour,
                label=label,
                linewidth=1.3,
            )
        if axes.get_lines():
            title = "worst case over the attacks; thick: power law in its window"
            axes.legend(loc="lower right", fontsize=8, title=title, title_fontsize=8)
        _epsilon_axis(axes, norm, epsilon)
        return _svg(figure)


def profile_figure(found: RobustnessProfile, norm: str, epsilon: float) -> str:
    """Returns the flip rate of one network under each attack, on log axes, one panel a norm, with the power laws."""
    entries: dict[str, dict[str, Any]] = found.record["attacks"]
    norms = list(dict.fromkeys(entry["config"]["norm"] for entry in entries.values()))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.4 * len(norms), 4), layout="constrained")
        for column, name in enumerate(norms, start=1):
            axes = figure.add_subplot(1, len(norms), column)
            shown = {key: entry for key, entry in entries.items() if entry["config"]["norm"] == name}
            for colour, (key, entry) in zip(COLOURS, shown.items(), strict=False):
                _attack_curve(axes, key, entry, colour)
            if axes.get_lines():
                axes.legend(loc="lower right", fontsize=8)
            _epsilon_axis(axes, name, epsilon if name == norm else None)
        return _svg(figure)


def _attack_curve(axes: Axes, name: str, entry: dict[str, Any], colour: str) -> None:
    if entry["flip_rate"] is None:
        return
    grid, rate = np.array(entry["epsilons"]), np.array(entry["flip_rate"])
    interval, positive = np.array(entry["flip_interval"]), np.array(entry["flip_rate"]) > 0
    if not positive.any():
        return
    law = fitted(entry)
    label = name if law is None else f"{name}, exponent {law.exponent:.2f}"
    axes.fill_between(grid[positive], interval[positive, 0], interval[positive, 1], color=colour, alpha=0.12, linewidth=0)
    axes.plot(grid[positive], rate[positive], marker=".", color=colour, label=label, linewidth=1.3)
    if law is not None:
        window = np.geomspace(*law.window, 50)
        axes.plot(window, law(window), color=colour, linewidth=3.5, alpha=0.3)


def grid_of(found: RobustnessProfile, norm: str) -> list[float]:
    """Returns the epsilons of a profile's attacks in one norm."""
    return next(e["epsilons"] for e in found.record["attacks"].values() if e["config"]["norm"] == norm)


def _epsilon_axis(axes: Axes, norm: str, epsilon: float | None) -> None:
    if not axes.get_lines():
        axes.text(0.5, 0.5, "no image was flipped", transform=axes.transAxes, ha="center", color="#55595f")
        axes.set_axis_off()
        return
    axes.set(
        xscale="log", yscale="log", xlabel=f"epsilon ({NORM_NAMES.get(norm, norm)}, pixels in [0, 1])", ylabel="flip rate"
    )
    for axis, steps in ((axes.xaxis, (1, 2, 5)), (axes.yaxis, (1,))):
        axis.set_major_locator(LogLocator(subs=steps))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    if epsilon is not None:
        axes.axvline(epsilon, color=GREY, linestyle=":", linewidth=1.2)
        axes.annotate(
            f"{epsilon:g}",
            (epsilon, 1),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            color="#55595f",
            fontsize=8,
        )


NORM_NAMES = {"linf": "L∞", "l2": "L2"}


def _axis(metric: str) -> str:
    return f"{metric.replace('_', ' ')} (validation)" if metric.endswith("error") else metric
