"""Pictures of one network's robustness profile, as SVG text."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from evaluators.profiles.record import fitted
from nas.plots.power_law import exponent_label, law_line
from nas.plots.style import COLOURS, GREY, INK, STYLE, epsilon_axis, new_figure, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from evaluators import RobustnessProfile


def profile_figures(profile: RobustnessProfile, norm: str | None = None, epsilon: float | None = None) -> dict[str, str]:
    """Returns all pictures of a profile as SVG text, by name.

    `error_curves` is always there; `margins`, `corruptions` and `certificates` depend on the measurements in the profile.

    Args:
        profile: The profile.
        norm: Name of the search's norm; None for a network that no search made.
        epsilon: Epsilon of the search, in pixel units, which is marked in the panel of the search's norm.
    """
    drawn = {"error_curves": error_curves_figure(profile, norm, epsilon)}
    if profile.record["margins"]["densities"] is not None:
        drawn["margins"] = margins_figure(profile)
    if "corruptions" in profile.record:
        drawn["corruptions"] = corruptions_figure(profile)
    if "certificates" in profile.record:
        drawn["certificates"] = certificates_figure(profile)
    return drawn


def error_curves_figure(profile: RobustnessProfile, norm: str | None = None, epsilon: float | None = None) -> str:
    """Returns a picture of the flip rate under each attack, on log axes, with power laws and first-order predictions.

    There is a panel for each norm.
    """
    entries: dict[str, dict[str, Any]] = profile.record["attacks"]
    norms = list(dict.fromkeys(entry["config"]["norm"] for entry in entries.values()))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4 * len(norms), 4), layout="constrained")
        for column, name in enumerate(norms, start=1):
            axes = figure.add_subplot(1, len(norms), column)
            shown = {key: entry for key, entry in entries.items() if entry["config"]["norm"] == name}
            for colour, (key, entry) in zip(cycle(COLOURS), shown.items(), strict=False):
                _attack_curve(axes, key, entry, colour)
            if axes.get_lines():
                _theory_curves(axes, profile, name)
                axes.legend(loc="lower right", fontsize=8)
            epsilon_axis(axes, name, epsilon if name == norm else None)
        return to_svg(figure)


def _attack_curve(axes: Axes, name: str, entry: dict[str, Any], colour: str) -> None:
    if entry["flip_rate"] is None:
        return
    grid, rate = np.array(entry["epsilons"]), np.array(entry["flip_rate"])
    interval, positive = np.array(entry["flip_interval"]), np.array(entry["flip_rate"]) > 0
    if not positive.any():
        return
    law = fitted(entry)
    label = name if law is None else f"{name}, {exponent_label(law)}"
    axes.fill_between(grid[positive], interval[positive, 0], interval[positive, 1], color=colour, alpha=0.12, linewidth=0)
    axes.plot(grid[positive], rate[positive], marker=".", color=colour, label=label, linewidth=1.3)
    if law is not None:
        window = np.geomspace(*law.window, 50)
        axes.plot(window, law(window), color=colour, **law_line(law))


def _theory_curves(axes: Axes, profile: RobustnessProfile, norm: str) -> None:
    """Draws the flip rates predicted from gradients at the clean images: per image, and with the mean gradient norms."""
    entry, clean = profile.record["margins"]["first_order"].get(norm), profile.record["clean_error"]
    if entry is None:  # The network has no gradients.
        return
    grid, parting = np.array(entry["epsilons"]), entry["parting_epsilon"]
    curves: tuple[tuple[str, str, Any], ...] = (
        ("predicted_error", "first order" if parting is None else f"first order, diverges at {parting:.2g}", (0, (4, 2))),
        ("mean_field_error", "mean field", (0, (1, 1.5))),
    )
    for key, label, dash in curves:
        if key not in entry:  # Older profiles lack the mean field.
            continue
        # The axes already show a curve of the flip rate, so some image is correctly classified, and clean < 1.
        rate = (np.array(entry[key]) - clean) / (1 - clean)
        positive = (rate > 0) & (grid > 0)
        if positive.any():
            axes.plot(grid[positive], rate[positive], color=INK, linestyle=dash, linewidth=1.1, label=label)


def margins_figure(profile: RobustnessProfile) -> str:
    """Returns a picture of the densities of the label's logit minus the logit of each of the nearest wrong classes.

    The densities are over the correctly classified images.
    """
    densities = {**profile.record["margins"]["densities"]}
    at: list[float] = densities.pop("at")
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(5.4, 3.2)
        for colour, (name, density) in zip(cycle(COLOURS), densities.items(), strict=False):
            place = {"1": "nearest", "2": "second", "3": "third"}[name.removeprefix("rival_")]
            axes.plot(at, density, color=colour, label=f"{place} wrong class")
        axes.set(
            xlabel="logit of the label minus logit of the wrong class", ylabel="density", xlim=(0, None), ylim=(0, None)
        )
        if axes.get_lines():
            axes.legend(fontsize=8)
        return to_svg(figure)


def corruptions_figure(profile: RobustnessProfile) -> str:
    """Returns a picture of the error under each common corruption over its severity."""
    measured = profile.record["corruptions"]
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(5.4, 3.2)
        for colour, (name, errors) in zip(cycle(COLOURS), measured["errors"].items(), strict=False):
            axes.plot(range(1, len(errors) + 1), errors, marker=".", color=colour, label=name.replace("_", " "))
        axes.axhline(measured["clean"], color=GREY, linestyle=":", linewidth=1.2, label="clean")
        axes.set(xlabel="severity", ylabel="error", ylim=(0, None), xticks=range(1, 6))
        axes.legend(fontsize=8)
        return to_svg(figure)


def certificates_figure(profile: RobustnessProfile) -> str:
    """Returns a picture of the certified error of the smoothed network over the L2 radius."""
    entry = profile.record["certificates"]
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(5.4, 3.2)
        axes.plot(entry["epsilons"], entry["certified_error"], marker=".", color=COLOURS[0])
        axes.set(
            xlabel="epsilon (L2, pixels in [0, 1])",
            ylabel=f"certified error, noise of {entry['sigma']:g}",
            xlim=(0, None),
            ylim=(0, 1.02),
        )
        return to_svg(figure)
