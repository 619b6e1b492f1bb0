"""Pictures of a search and of its networks, as SVG text."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import MaxNLocator

from evaluators import NoPowerLaw, PowerLaw, error_curve
from evaluators.profiles.law_entries import worst_case_law
from nas.plots.power_law import exponent_label, law_line
from nas.plots.style import COLOURS, GREY, STYLE, epsilon_axis, new_figure, to_svg
from nas.study.ranking import front, hypervolume_so_far

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nas.bundle.load import Bundle
    from nas.config.schema import ObjectiveConfig
    from nas.study.trial import Trial


def best_so_far(trials: Sequence[Trial], objective: ObjectiveConfig) -> str:
    """Returns a picture of the first objective of all complete trials, with the best feasible value so far."""
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
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="upper right", fontsize=8)
        return to_svg(figure)


def clean_against_adversarial(trials: Sequence[Trial], objective: ObjectiveConfig) -> str:
    """Returns a picture of clean against adversarial validation error of all trained candidates."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(6.4, 3.6)
        trained = [t for t in trials if t.state == "complete" and t.duplicate_of is None]
        for random, label, marker in ((True, "random", "s"), (False, "proposed by the sampler", "o")):
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


def front_figures(trials: Sequence[Trial], objective: ObjectiveConfig) -> list[str]:
    """Returns pictures of the Pareto front, one for each objective after the first, and a picture of the hypervolume.

    Each picture of the front shows the first objective against one of the others. The list is empty for a single objective.
    """
    if len(objective.minimise) < 2:
        return []
    figures = [_front(trials, objective, other) for other in objective.minimise[1:]]
    return [*figures, _hypervolume(trials, objective)]


def _front(trials: Sequence[Trial], objective: ObjectiveConfig, other: str) -> str:
    first = objective.minimise[0]
    best = front(trials, objective)
    numbers = {trial.number for trial in best}
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(6.4, 3.6)
        measured = [t for t in trials if t.state == "complete" and t.duplicate_of is None and t.number not in numbers]
        groups = (
            ("outside the constraints", [t for t in measured if t.violation > 0], "x", GREY),
            ("dominated", [t for t in measured if t.violation == 0], "o", COLOURS[0]),
            ("Pareto front", best, "D", COLOURS[1]),
        )
        for label, group, marker, colour in groups:
            if group:
                x, y = [t.metrics[other] for t in group], [t.metrics[first] for t in group]
                axes.scatter(x, y, marker=marker, color=colour, s=26, label=label, alpha=0.8)
        if len(objective.minimise) == 2 and best:
            ordered = sorted((t.metrics[other], t.metrics[first]) for t in best)
            axes.step(*zip(*ordered, strict=True), where="post", color=COLOURS[1], linewidth=1)
        values = [t.metrics[other] for t in [*measured, *best]]
        if values and min(values) > 0 and max(values) > 30 * min(values):
            axes.set_xscale("log")
        axes.set(xlabel=_axis(other), ylabel=_axis(first))
        axes.legend(loc="best", fontsize=8)
        return to_svg(figure)


def _hypervolume(trials: Sequence[Trial], objective: ObjectiveConfig) -> str:
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(6.4, 3.6)
        history = hypervolume_so_far(trials, objective)
        if history:
            numbers, shares = zip(*history, strict=True)
            axes.step([*numbers, trials[-1].number], [*shares, shares[-1]], where="post", color=COLOURS[1])
        axes.set(xlabel="trial", ylabel="hypervolume", ylim=(0, 1.05))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return to_svg(figure)


def rungs_reached(trials: Sequence[Trial]) -> str:
    """Returns a picture of the adversarial errors at the rungs of early stopping, with a line for each trial."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(6.4, 3.6)
        for trial in trials:
            if not trial.rungs:
                continue
            epochs, errors = [rung["epoch"] for rung in trial.rungs], [rung["point"][0] for rung in trial.rungs]
            stopped = not trial.rungs[-1]["promoted"]
            axes.plot(epochs, errors, "-", color=GREY if stopped else COLOURS[0], linewidth=0.8, alpha=0.7)
            axes.plot(epochs[-1:], errors[-1:], "x" if stopped else "o", color=GREY if stopped else COLOURS[0], markersize=5)
        axes.set(xlabel="epoch", ylabel="adversarial error at the rung")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return to_svg(figure)


def worst_case_laws(bundles: Sequence[Bundle], norm: str) -> dict[str, PowerLaw | NoPowerLaw]:
    """Returns the power law of the worst-case flip rate of each bundle, by its name."""
    return {b.name: worst_case_law(b.profile, norm) for b in bundles}


def error_curves(bundles: Sequence[Bundle], laws: Mapping[str, PowerLaw | NoPowerLaw], norm: str, epsilon: float) -> str:
    """Returns a picture of the worst-case flip rates of several networks over epsilon, on log axes, with power laws."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(9.6, 4.6)
        for colour, bundle in zip(cycle(COLOURS), bundles, strict=False):
            curve = error_curve(bundle.profile.worst_case(norm), bundle.profile.epsilons(norm))
            law, label = laws[bundle.name], bundle.name
            if isinstance(law, PowerLaw):
                label += f", {exponent_label(law, interval=True)}"
                window = np.geomspace(*law.window, 50)
                axes.plot(window, law(window), color=colour, **law_line(law))
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
            title = "worst case over the attacks; thick: power law in its window, dashed if the fit is rejected"
            axes.legend(loc="lower right", fontsize=8, title=title, title_fontsize=8)
        epsilon_axis(axes, norm, epsilon)
        return to_svg(figure)


def _axis(metric: str) -> str:
    return f"{metric.replace('_', ' ')} (validation)" if metric.endswith("error") else metric
