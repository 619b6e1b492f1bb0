"""Shared style of all pictures: colours, fonts, the axis of epsilon, and deterministic SVG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from nas.formatting import format_epsilon

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2f6fb2", "#d1662b", "#3d8f5f", "#9355a8", "#b0892c", "#4a8f9c", "#b2394b")
GREY = "#9aa0a6"
INK = "#55595f"
NORM_NAMES = {"linf": "L∞", "l2": "L2", "l1": "L1"}
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "grid.color": "#e4e6e9",
    "axes.axisbelow": True,
    "legend.frameon": False,
    # These two make the SVG deterministic.
    "svg.hashsalt": "hardcell",
    "svg.fonttype": "path",
}


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Returns a figure and its axes; the size is in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def to_svg(figure: Figure) -> str:
    """Returns a figure as SVG text, without XML header, for an HTML page or a file."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def epsilon_axis(axes: Axes, norm: str, epsilon: float | None) -> None:
    """Formats the axes of a plot of flip rate against epsilon: log scales and labels. Marks an epsilon if it is not None.

    A plot without curves gets a message instead of axes.
    """
    if not axes.get_lines():
        axes.text(0.5, 0.5, "no image was flipped", transform=axes.transAxes, ha="center", color=INK)
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
            format_epsilon(epsilon),
            (epsilon, 1),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            color=INK,
            fontsize=8,
        )
