"""Pictures of a comparison: error curves, transfer matrices, reach of adversarial images, disagreement.

The reach of an adversarial image is the set of other networks that it fools: all, some or none.
"""

from __future__ import annotations

import io
import math
from itertools import cycle
from textwrap import wrap
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from evaluators import error_curve
from evaluators.transferability.rates import transfer_rates
from evaluators.transferability.universal import universal_transfer
from nas.analysis.compare.result import NoTransfer
from nas.formatting import format_epsilon
from nas.plots.style import COLOURS, GREY, INK, NORM_NAMES, STYLE, new_figure, to_svg

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from evaluators.regions import Disagreement
    from evaluators.transferability.matrix import TransferMatrix
    from evaluators.transferability.universal import UniversalTransfer
    from nas.analysis.compare.result import NetworkComparison

# Number of panels in a row, maximum letters of a name, and minimum share of a part of a bar that has room for a number.
ACROSS, LETTERS, ROOM = 3, 36, 0.07
DOTS_PER_INCH = 150
# Line styles; the next one is used when all colours are taken.
LINES = ("-", "--", ":", "-.")
TO_ALL, TO_SOME, TO_NONE = COLOURS[1], "#f0c5a4", "#d5d8dc"


def compare_figures(comparison: NetworkComparison) -> dict[str, bytes]:
    """Returns the bytes of all pictures of a comparison by file name, each as SVG and as PNG."""
    with mpl.rc_context(STYLE):
        figures = {"error_curves": error_curves_figure(comparison)}
        for attack, matrix in comparison.transfers.items():
            if isinstance(matrix, NoTransfer):
                figures[f"transfer_{attack}"] = _reason_figure(f"transfer by {attack}: not measured: {matrix.reason}")
                continue
            figures[f"transfer_{attack}"] = transfer_figure(matrix, attack, comparison.norm)
            figures[f"reach_{attack}"] = reach_figure(matrix, attack, comparison.norm)
        figures["disagreement"] = disagreement_figure(comparison.disagreement, comparison.norm)
        drawn = {}
        for name, figure in figures.items():
            drawn[f"{name}.svg"] = to_svg(figure).encode()
            pixels = io.BytesIO()
            figure.savefig(pixels, format="png", dpi=DOTS_PER_INCH)
            drawn[f"{name}.png"] = pixels.getvalue()
        return drawn


def _reason_figure(reason: str) -> Figure:
    """Returns a figure with the reason why a measurement is missing."""
    lines = wrap(reason, 72)
    figure, axes = new_figure(5.2, 0.8 + 0.2 * len(lines))
    # Names of networks must not be parsed as mathematics.
    text = axes.text(0.5, 0.5, "\n".join(lines), ha="center", va="center", color=INK, fontsize=9, parse_math=False)
    text.set_transform(axes.transAxes)
    axes.set_axis_off()
    return figure


def error_curves_figure(comparison: NetworkComparison) -> Figure:
    """Returns a figure of adversarial error over epsilon with intervals; the epsilons of the tests are marked."""
    figure, axes = new_figure(7.2, 4.2 + 0.2 * len(comparison.names))
    grid = [epsilon for epsilon in comparison.grid if epsilon > 0]
    for place, (name, colour) in enumerate(zip(comparison.names, cycle(COLOURS), strict=False)):
        curve = error_curve(comparison.radii[name], grid)
        clean = (comparison.radii[name] == 0).mean()
        low, high = curve.error_interval.T
        axes.fill_between(grid, low, high, color=colour, alpha=0.12, linewidth=0)
        style, label = LINES[place // len(COLOURS) % len(LINES)], f"{_short(name)}, clean {clean:.3f}"
        axes.plot(grid, curve.error, style, marker=".", color=colour, linewidth=1.3, label=label)
    norm = NORM_NAMES.get(comparison.norm, comparison.norm)
    axes.set(xscale="log", xlabel=f"epsilon ({norm}, pixels in [0, 1])", ylabel="adversarial error", ylim=(0, 1.02))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    for epsilon in comparison.epsilons:
        axes.axvline(epsilon, color=GREY, linestyle=":", linewidth=1.2)
        label, edge = format_epsilon(epsilon), ("data", "axes fraction")
        axes.annotate(label, (epsilon, 1), xycoords=edge, rotation=45, ha="left", va="bottom", color=INK, fontsize=8)
    title = f"worst case over {', '.join(comparison.attacks)}, {comparison.n} images, 95 % intervals"
    figure.legend(loc="outside lower center", fontsize=8, title=title, title_fontsize=8)
    return figure


def transfer_figure(matrix: TransferMatrix, attack: str, norm: str) -> Figure:
    """Returns a figure of transfer rates: rows are source networks, columns are targets, and each epsilon has a panel."""
    rates, size = transfer_rates(matrix), len(matrix.names)
    side = max(2.2, 0.72 * size)
    figure, panels = _panels(len(matrix.epsilons), side, side + 0.3, labels=1.0 + 0.075 * _longest(matrix))
    for e, axes in enumerate(panels):
        axes.imshow(rates.share[e], cmap="Blues", vmin=0, vmax=1.25)  # With vmax 1, cells could be too dark for the frame.
        axes.grid(visible=False)
        axes.set_title(_panel_title(matrix, e, norm), fontsize=9)
        axes.set(xticks=range(size), yticks=range(size), xticklabels=range(1, size + 1), xlabel="target")
        first = e % ACROSS == 0
        axes.set_yticklabels([f"{_short(name)}  {i}" if first else f"{i}" for i, name in enumerate(matrix.names, start=1)])
        if first:
            axes.set_ylabel("source")
        for s, t in np.ndindex(size, size):
            share = rates.share[e, s, t]
            text = f"{share:.2f}\n{rates.counts[e, s, t]}"
            axes.text(t, s, text, ha="center", va="center", fontsize=8, color="white" if share > 0.7 else "black")
        for i in range(size):
            axes.add_patch(Rectangle((i - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor=INK, linewidth=1))
    figure.suptitle(
        f"images crafted on the source by {attack} that fool the target: share and number\n"
        f"of {matrix.n} images that all networks classify correctly; framed: the source itself",
        fontsize=9,
    )
    return figure


def reach_figure(matrix: TransferMatrix, attack: str, norm: str) -> Figure:
    """Returns a figure of the images that fool their source: shares that fool all other networks, some, and none.

    Each epsilon has a panel.
    """
    transfers, size = universal_transfer(matrix), len(matrix.names)
    width, height = 2.9, 0.8 + 0.42 * size
    figure, panels = _panels(len(matrix.epsilons), width, height, labels=0.4 + 0.075 * _longest(matrix))
    for e, axes in enumerate(panels):
        for place, one in enumerate(transfers[e * size : (e + 1) * size]):
            _bar(axes, place, one)
        axes.grid(visible=False, axis="y")
        axes.set_title(_panel_title(matrix, e, norm), fontsize=9)
        axes.set(xlim=(0, 1), ylim=(size - 0.5, -0.5), xticks=(0, 0.5, 1), yticks=range(size), xlabel="share")
        axes.set_yticklabels([_short(name) for name in matrix.names] if e % ACROSS == 0 else [""] * size)
    parts = zip((TO_ALL, TO_SOME, TO_NONE), ("all others", "some", "none"), strict=True)
    handles: list[Artist] = [Patch(color=colour, label=label) for colour, label in parts]
    handles.append(Line2D([], [], color="black", marker="v", markersize=5, linestyle="", label="all others, by chance"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(f"images that fool their source under {attack},\nby the other networks that they fool", fontsize=9)
    return figure


def disagreement_figure(disagreement: Disagreement, norm: str) -> Figure:
    """Returns a figure of the share of points where the networks disagree, and of the vote entropy, over epsilon."""
    figure = Figure(figsize=(6.4, 3.1), layout="constrained")
    panels = figure.subplots(1, 2)
    shown = (
        ("share where not all agree", disagreement.mean_share, disagreement.mean_share_interval),
        ("vote entropy, nats", disagreement.mean_entropy, disagreement.mean_entropy_interval),
    )
    for axes, (title, mean, interval) in zip(panels, shown, strict=True):
        axes.errorbar(
            disagreement.epsilons, mean, abs(interval.T - mean), color=COLOURS[0], marker=".", capsize=3, linewidth=1.3
        )
        axes.set(xlabel=f"epsilon ({NORM_NAMES.get(norm, norm)}, pixels in [0, 1])", xticks=disagreement.epsilons)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.set_title(title, fontsize=9)
        axes.set_ylim(bottom=0)
    samples = f"{disagreement.samples} random points in each ball around {len(disagreement.counts)} clean images"
    figure.suptitle(f"where the networks disagree:\n{samples}, 95 % intervals", fontsize=9)
    return figure


def _bar(axes: Axes, place: int, one: UniversalTransfer) -> None:
    """Draws the bar of one source: three parts with their numbers of images, and a mark.

    The mark shows the length that the first part is expected to have if the networks are fooled independently of each other.
    """
    if one.fooled == 0:
        axes.text(0.02, place, "no image fools the source", va="center", fontsize=8, color=INK)
        return
    left = 0.0
    for colour, group in ((TO_ALL, one.to_all), (TO_SOME, one.to_some), (TO_NONE, one.to_none)):
        axes.barh(place, group.share, left=left, height=0.62, color=colour)
        if group.share > ROOM:
            axes.text(left + group.share / 2, place, f"{len(group.images)}", ha="center", va="center", fontsize=8)
        left += group.share
    axes.plot([one.to_all.chance], [place - 0.38], "v", color="black", markersize=5, clip_on=False)  # Above the numbers.


def _panels(count: int, width: float, height: float, labels: float) -> tuple[Figure, list[Axes]]:
    """Returns a figure and its `count` panels in rows; sizes are in inches, and `labels` is the room on the left."""
    across = min(count, ACROSS)
    rows = math.ceil(count / across)
    # The figure must not be narrower than its title.
    figure = Figure(figsize=(max(5.2, labels + across * width), 0.9 + rows * height), layout="constrained")
    return figure, [figure.add_subplot(rows, across, place + 1) for place in range(count)]


def _panel_title(matrix: TransferMatrix, e: int, norm: str) -> str:
    return f"epsilon {format_epsilon(matrix.epsilons[e])} ({NORM_NAMES.get(norm, norm)})"


def _longest(matrix: TransferMatrix) -> int:
    return max(len(_short(name)) for name in matrix.names)


def _short(name: str) -> str:
    """Returns a name that fits beside a picture; a long name keeps its beginning, and its end, where names mostly differ."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS // 3]}…{name[-(LETTERS - LETTERS // 3 - 1) :]}"
