"""The pictures of a search and of its networks side by side, as SVG text."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

from nas.report.style import COLOURS, GREY, STYLE, epsilon_axis, new_figure, to_svg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.bundle.load import Bundle
    from nas.config import ObjectiveConfig
    from nas.study import Trial


def best_so_far(trials: Sequence[Trial], objective: ObjectiveConfig) -> str:
    """Returns the first objective of every complete trial, and the best feasible one so far."""
    metric = objective.minimise[0]
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(6.4, 3.6)
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
        return to_svg(figure)


def clean_against_adversarial(trials: Sequence[Trial], objective: ObjectiveConfig) -> str:
    """Returns clean against adversarial validation error over all trained candidates."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(6.4, 3.6)
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
        return to_svg(figure)


def error_curves(bundles: Sequence[Bundle], norm: str, epsilon: float) -> str:
    """Returns the worst-case flip rate of several networks over epsilon, on log axes, each with its power law."""
    from evaluators import error_curve, fit_power_law
    from evaluators.power_law import PowerLaw

    with mpl.rc_context(STYLE):
        figure, axes = new_figure(9.6, 4.6)
        for colour, bundle in zip(cycle(COLOURS), bundles, strict=False):
            grid = bundle.profile.epsilons(norm)
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
        epsilon_axis(axes, norm, epsilon)
        return to_svg(figure)


def _axis(metric: str) -> str:
    return f"{metric.replace('_', ' ')} (validation)" if metric.endswith("error") else metric
