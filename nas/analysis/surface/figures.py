"""Pictures of response surfaces: planes and lines through one image."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from nas.plots.style import COLOURS, GREY, INK, STYLE, to_svg

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from evaluators.surface.lines import BoundaryLine
    from evaluators.surface.planes import Surface
    from nas.analysis.surface.result import ImageSurfaces

Form = Literal["svg", "png"]
FORMS: tuple[Form, ...] = ("svg", "png")
PNG_DPI = 150
# Further colours, for more classes than `COLOURS` has colours. All classes beyond these share a grey.
MORE_COLOURS = ("#e0a6c0", "#7fc6c9", "#8a6a52", "#c3d07a", "#6b6fb5")
MARKERS = ("o", "X", "P", "D")
# Share of white in the colours of maps, so that marks on them are visible.
PALE = 0.45


def draw_surface(surfaces: ImageSurfaces, name: str, form: Form = "svg") -> bytes:
    """Returns the picture of one plane, as file bytes: maps of class, margin and confidence, side by side."""
    surface = surfaces.surfaces[name]

    def draw(figure: Figure) -> None:
        colours = class_colours(surfaces)
        panels = figure.subplots(1, 3, sharex=True, sharey=True)
        _label_map(panels[0], surface, colours)
        _margin_map(figure, panels[1], surface)
        _confidence_map(figure, panels[2], surface, len(surfaces.classes))
        for axes in panels:
            _finish_map(axes, surface)
        panels[0].set_ylabel(_along(surface.axes[1]))
        handles = _class_handles(surfaces, np.unique(surface.label), colours) + _mark_handles(surface)
        _legend(figure, handles)

    return _drawn(draw, (11.5, 4.5), form)


def draw_lines(surfaces: ImageSurfaces, form: Form = "svg") -> bytes:
    """Returns the picture of all lines, as file bytes: margin over distance, classes as bands, boundary crossings."""

    def draw(figure: Figure) -> None:
        colours = class_colours(surfaces)
        panels = figure.subplots(len(surfaces.lines), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
        for axes, (name, line) in zip(panels, surfaces.lines.items(), strict=True):
            _margin_line(axes, line, name, colours)
            axes.set_title(f"along the {name} direction", fontsize=10, loc="left")
        panels[-1].set_xlabel("L2 distance from the clean image (pixels in [0, 1])")
        labels = np.unique(np.concatenate([line.label for line in surfaces.lines.values()]))
        handles = _class_handles(surfaces, labels, colours) + _line_handles(surfaces.lines.values())
        _legend(figure, handles)

    return _drawn(draw, (8.4, 1.1 + 2.0 * len(surfaces.lines)), form)


def draw_summary(surfaces: ImageSurfaces, form: Form = "svg") -> bytes:
    """Returns the picture for a report, as file bytes: class and margin on the first plane, and the first line."""
    surface = next(iter(surfaces.surfaces.values()))
    name, line = next(iter(surfaces.lines.items()))

    def draw(figure: Figure) -> None:
        colours = class_colours(surfaces)
        panels = figure.subplots(1, 3)
        _label_map(panels[0], surface, colours)
        _margin_map(figure, panels[1], surface)
        for axes in panels[:2]:
            _finish_map(axes, surface)
        panels[0].set_ylabel(_along(surface.axes[1]))
        _margin_line(panels[2], line, name, colours)
        panels[2].set_box_aspect(1)
        panels[2].set_title("margin along the line", fontsize=10)
        panels[2].set_xlabel(_along(f"along the {name} direction"))
        labels = np.unique(np.concatenate([surface.label.ravel(), line.label]))
        marks = _mark_handles(surface)
        marked = {handle.get_label() for handle in marks}
        further = [handle for handle in _line_handles([line]) if handle.get_label() not in marked]
        _legend(figure, _class_handles(surfaces, labels, colours) + marks + further)

    return _drawn(draw, (11.5, 4.3), form)


def class_colours(surfaces: ImageSurfaces) -> dict[int, str]:
    """Returns a colour for each class that occurs; the true class has the first colour, then classes by area."""
    labels = [surface.label.ravel() for surface in surfaces.surfaces.values()]
    labels += [line.label for line in surfaces.lines.values()]
    seen, counts = np.unique(np.concatenate(labels), return_counts=True)
    order = sorted(
        zip(seen.tolist(), counts.tolist(), strict=True), key=lambda entry: (entry[0] != surfaces.label, -entry[1])
    )
    palette = (*COLOURS, *MORE_COLOURS)
    return {label: palette[i] if i < len(palette) else GREY for i, (label, _) in enumerate(order)}


def _drawn(draw: Callable[[Figure], None], size: tuple[float, float], form: Form) -> bytes:
    with mpl.rc_context({**STYLE, "axes.grid": False, "hatch.color": INK, "hatch.linewidth": 0.35}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        if form == "svg":
            return to_svg(figure).encode()
        file = io.BytesIO()
        figure.savefig(file, format=form, dpi=PNG_DPI)
        return file.getvalue()


def _label_map(axes: Axes, surface: Surface, colours: Mapping[int, str]) -> None:
    shown = sorted(colours)
    places = np.searchsorted(shown, surface.label)
    pale = ListedColormap([_paler(colours[label]) for label in shown])
    axes.imshow(places.T, cmap=pale, vmin=-0.5, vmax=len(shown) - 0.5, interpolation="nearest", **_placed(surface))
    axes.set_title("class", fontsize=10)


def _margin_map(figure: Figure, axes: Axes, surface: Surface) -> None:
    # A few extreme margins would make all others pale, so the colour scale ends at a quantile.
    limit = max(float(np.quantile(abs(surface.margin), 0.95)), 1e-6)
    image = axes.imshow(surface.margin.T, cmap="RdBu", vmin=-limit, vmax=limit, **_smooth(surface))
    if surface.margin.min() < 0 < surface.margin.max():
        axes.contour(surface.across, surface.up, surface.margin.T, levels=[0.0], colors=[INK], linewidths=1.4)
    _colour_bar(figure, axes, image, extend="both")
    axes.set_title("margin, in logits; line: margin 0", fontsize=10)


def _confidence_map(figure: Figure, axes: Axes, surface: Surface, classes: int) -> None:
    image = axes.imshow(surface.confidence.T, cmap="cividis", vmin=1 / classes, vmax=1, **_smooth(surface))
    _colour_bar(figure, axes, image)
    axes.set_title("confidence: largest softmax", fontsize=10)


def _colour_bar(figure: Figure, axes: Axes, image: AxesImage, extend: str = "neither") -> None:
    # An inset has the height of the square panel; a separate axes would be taller.
    bar = figure.colorbar(image, cax=axes.inset_axes((1.03, 0, 0.045, 1)), extend=extend)
    bar.outline.set_visible(False)


def _finish_map(axes: Axes, surface: Surface) -> None:
    """Hatches points outside the pixel range, and marks the images."""
    if not surface.inside.all():
        outside = (~surface.inside).astype(float).T
        axes.contourf(surface.across, surface.up, outside, levels=[0.5, 1.5], colors="none", hatches=["////"])
    for marker, (a, b) in zip(MARKERS, surface.marks.values(), strict=False):
        axes.plot(a, b, marker, color="black", markeredgecolor="white", markeredgewidth=1.0, markersize=9)
    axes.set_xlabel(_along(surface.axes[0]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))


def _margin_line(axes: Axes, line: BoundaryLine, name: str, colours: Mapping[int, str]) -> None:
    edges = [line.positions[0], *(crossing.position for crossing in line.crossings), line.positions[-1]]
    labels = [int(line.label[0]), *(crossing.after for crossing in line.crossings)]
    for left, right, label in zip(edges[:-1], edges[1:], labels, strict=True):
        axes.axvspan(left, right, color=_paler(colours.get(label, GREY)), linewidth=0)
    axes.axhline(0, color=INK, linewidth=0.8)
    inside = np.where(line.inside, line.margin, np.nan)
    axes.plot(line.positions, line.margin, ":", color="black", linewidth=1.3)
    axes.plot(line.positions, inside, color="black", linewidth=1.6)
    for crossing in line.crossings:
        height = float(np.interp(crossing.position, line.positions, line.margin))
        axes.plot(crossing.position, height, "o", color="white", markeredgecolor="black", markersize=5.5)
    axes.axvline(line.length, color="black", linestyle=(0, (4, 3)), linewidth=1.0)
    axes.set(xlim=(line.positions[0], line.positions[-1]), ylabel="margin, in logits")


def _legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Draws one legend for all panels below them, with as few rows as fit."""
    for rows in range(1, len(handles) + 1):
        # Matplotlib fills legends by column. At font size 9, a letter is about 5.2 points wide, a symbol with gaps 48.
        columns = [handles[i : i + rows] for i in range(0, len(handles), rows)]
        width = sum(48 + 5.2 * max(len(handle.get_label()) for handle in column) for column in columns)
        if width <= 72 * figure.get_figwidth():
            break
    figure.set_figheight(figure.get_figheight() + 0.2 * (rows - 1))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(columns), fontsize=9)


def _class_handles(surfaces: ImageSurfaces, labels: Sequence[int] | Any, colours: Mapping[int, str]) -> list[Any]:
    """Returns legend entries for classes; the true class comes first, and all grey classes share one entry."""
    own = [label for label in colours if label in labels and colours[label] != GREY]
    names = {label: _name(surfaces.classes[label]) + (" (true)" if label == surfaces.label else "") for label in own}
    handles = [Patch(facecolor=_paler(colours[label]), edgecolor=INK, linewidth=0.4, label=names[label]) for label in own]
    if any(colours[int(label)] == GREY for label in labels):
        handles.append(Patch(facecolor=_paler(GREY), edgecolor=INK, linewidth=0.4, label="other classes"))
    return handles


def _mark_handles(surface: Surface) -> list[Any]:
    style = {"color": "black", "markeredgecolor": "white", "linestyle": "none", "markersize": 9}
    handles: list[Any] = [
        Line2D([], [], marker=marker, label=name, **style)  # type: ignore[arg-type]
        for marker, name in zip(MARKERS, surface.marks, strict=False)
    ]
    if not surface.inside.all():
        handles.append(Patch(facecolor="white", edgecolor=INK, hatch="////", linewidth=0.4, label="outside the pixel range"))
    return handles


def _line_handles(lines: Any) -> list[Any]:
    handles = [Line2D([], [], color="black", linestyle=(0, (4, 3)), linewidth=1.0, label="end point of the direction")]
    if any(line.crossings for line in lines):
        dot = {"color": "white", "markeredgecolor": "black", "linestyle": "none", "markersize": 5.5}
        handles.append(Line2D([], [], marker="o", label="crossing", **dot))  # type: ignore[arg-type]
    if not all(line.inside.all() for line in lines):
        handles.append(Line2D([], [], color="black", linestyle=":", linewidth=1.3, label="outside the pixel range"))
    return handles


def _placed(surface: Surface) -> dict[str, Any]:
    """Returns the position of a map as arguments of `imshow`; its pixels are centred on the points."""
    a, b = (float(c[1] - c[0]) / 2 for c in (surface.across, surface.up))
    left, right, low, high = surface.across[0] - a, surface.across[-1] + a, surface.up[0] - b, surface.up[-1] + b
    return {"origin": "lower", "extent": (left, right, low, high), "aspect": "equal"}


def _smooth(surface: Surface) -> dict[str, Any]:
    return {"interpolation": "bilinear", **_placed(surface)}


def _along(axis: str) -> str:
    """Returns the label of an axis in two lines."""
    first, comma, rest = axis.partition(", ")
    return f"L2 distance {first},\n{rest}" if comma else f"L2 distance\n{axis}"


def _name(text: str) -> str:
    """Returns the name of a class for a legend: shortened, with `$` escaped so that it is not parsed as mathematics."""
    short = text if len(text) <= 16 else f"{text[:15].rstrip()}…"
    return short.replace("$", r"\$")


def _paler(colour: str) -> tuple[float, float, float]:
    red, green, blue = (PALE + (1 - PALE) * part for part in to_rgb(colour))
    return red, green, blue
