"""Drawings of cells and chains as matplotlib figures. Lengths are in points (1/72 inch)."""

from __future__ import annotations

import itertools
import math
import textwrap
from typing import TYPE_CHECKING

from search_spaces.drawing.layout import (
    LABEL_FONT_SIZE,
    NODE_FONT_SIZE,
    NODE_RADIUS,
    SKIP_COLOUR,
    CellLayout,
    Line,
    Slot,
    layout_cell,
    text_width,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path

    from search_spaces.graph import CellGraph

NO_PATH = "no path from input to output"
INK_COLOUR, WARNING_COLOUR = "#333a42", "#b2394b"
TITLE_FONT_SIZE, MARGIN = 10.0, 14.0
# If two columns of panels would be wider than this, up to four panels are drawn in one column.
MAX_WIDTH = 1000.0


def draw_cells(graphs: Mapping[str, CellGraph]) -> Figure:
    """Returns a figure with one panel per cell. If there are several cells, their names are the titles.

    A dashed arrow is a skip. A thick arrow is the sum of several operations. A grey line leads to the output.

    Args:
        graphs: Graphs of the cells, by name.
    """
    from matplotlib.figure import Figure

    panels = [(_title(name, graph) if len(graphs) > 1 else "", layout_cell(graph)) for name, graph in graphs.items()]
    sizes = [_panel_size(title, layout) for title, layout in panels]
    widths = [max(width for width, _ in sizes[column::2]) for column in range(min(2, len(sizes)))]
    if sum(widths) > MAX_WIDTH and len(panels) <= 4:
        widths = [max(widths)]
    columns = len(widths)
    heights = [max(height for _, height in sizes[i : i + columns]) for i in range(0, len(sizes), columns)]
    figure = Figure(figsize=(sum(widths) / 72, sum(heights) / 72), facecolor="white")
    for number, (title, layout) in enumerate(panels):
        row, column = divmod(number, columns)
        axes = _add_axes(figure, sum(widths[:column]), sum(heights[row + 1 :]), widths[column], heights[row])
        _draw_cell(axes, title, layout)
    return figure


def draw_chain(boxes: Sequence[str]) -> Figure:
    """Returns a figure of a chain of labelled boxes with arrows between them, five boxes in a row."""
    from matplotlib.figure import Figure
    from matplotlib.path import Path

    labels = ["\n".join(textwrap.fill(line, 22) for line in label.split("\n")) for label in boxes]
    rows = [labels[i : i + 5] for i in range(0, len(labels), 5)]
    width = max((text_width(label, NODE_FONT_SIZE) for label in labels), default=0.0) + 20
    height = max((label.count("\n") + 1 for label in labels), default=0) * 1.3 * NODE_FONT_SIZE + 18
    step, drop = width + 30, height + 30
    size = (max(map(len, rows), default=0) * step - 30 + 2 * MARGIN, len(rows) * drop - 30 + 2 * MARGIN)
    figure = Figure(figsize=(max(size[0], 1) / 72, max(size[1], 1) / 72), facecolor="white")
    axes = _add_axes(figure, 0, 0, *size)
    centres = [
        (MARGIN + width / 2 + column * step, size[1] - MARGIN - height / 2 - row * drop)
        for row, labels_of_row in enumerate(rows)
        for column in range(len(labels_of_row))
    ]
    for label, (x, y) in zip(labels, centres, strict=True):
        _draw_box(axes, x, y, width, height, label)
    for (x, y), (next_x, next_y) in itertools.pairwise(centres):
        if y == next_y:
            corners = [(x + width / 2, y), (next_x - width / 2, y)]
        else:
            between = (y + next_y) / 2
            corners = [(x, y - height / 2), (x, between), (next_x, between), (next_x, next_y + height / 2)]
        _draw_arrow(axes, Path(corners), Line(0, 0, colour=SKIP_COLOUR, width=1.3))
    return figure


def _title(name: str, graph: CellGraph) -> str:
    return f"{name} (halves the resolution)" if graph.strided else name


def _panel_size(title: str, layout: CellLayout) -> tuple[float, float]:
    """Returns the width and height of a panel, in points."""
    width = layout.x[-1] + layout.widths[-1] / 2
    if title:
        width = max(width, text_width(title, TITLE_FONT_SIZE) * 1.15)
    if not layout.connected:
        width = max(width, text_width(NO_PATH, NODE_FONT_SIZE))
    low, high = _extent(layout)
    return width + 2 * MARGIN, high - low + 2 * MARGIN + (0 if layout.connected else NODE_FONT_SIZE + 10) + (
        TITLE_FONT_SIZE + 8 if title else 0
    )


def _extent(layout: CellLayout) -> tuple[float, float]:
    low = min(y - slot.height / 2 for slot, y in layout.y.items())
    return low, max(y + slot.height / 2 for slot, y in layout.y.items())


def _draw_cell(axes: Axes, title: str, layout: CellLayout) -> None:
    """Draws a cell into a panel: first the lines, then the labels on them and the nodes."""
    height = axes.get_ylim()[1]
    low, high = _extent(layout)
    top = height - MARGIN - (TITLE_FONT_SIZE + 8 if title else 0)
    x = [MARGIN + position for position in layout.x]
    y = {slot: position + top - high for slot, position in layout.y.items()}
    if title:
        axes.text(
            MARGIN, height - MARGIN, title, size=TITLE_FONT_SIZE, weight="bold", color=INK_COLOUR, va="top", parse_math=False
        )
    for line, path in zip(layout.lines, _paths(layout, x, y), strict=True):
        if line.label:
            _draw_arrow(axes, path, line)
        else:
            _draw_line(axes, path, line)
    for slot, position in y.items():
        if slot.line is not None and slot.width:
            line = layout.lines[slot.line]
            _draw_label(axes, x[slot.column], position, line.label, line.colour)
        elif slot.node is not None and slot.round:
            _draw_node(axes, x[slot.column], position, layout.names[slot.node])
        elif slot.node is not None:
            _draw_box(axes, x[slot.column], position, slot.width, slot.height, layout.names[slot.node])
    if not layout.connected:
        axes.text(MARGIN, top - (high - low) - 8, NO_PATH, size=NODE_FONT_SIZE, color=WARNING_COLOUR, va="top")


def _paths(layout: CellLayout, x: list[float], y: dict[Slot, float]) -> list[Path]:
    """Returns the curve of each line. It is horizontal within a column and bends between columns."""
    from matplotlib.path import Path

    starts, ends = _ports(layout.routes, y, 0), _ports(layout.routes, y, -1)
    paths = []
    for number, route in enumerate(layout.routes):
        flats = [(x[s.column] - layout.widths[s.column] / 2, x[s.column] + layout.widths[s.column] / 2, y[s]) for s in route]
        flats[0] = (0, x[route[0].column] + starts[number][0], y[route[0]] + starts[number][1])
        flats[-1] = (x[route[-1].column] - ends[number][0], 0, y[route[-1]] + ends[number][1])
        points, codes = [flats[0][1:]], [Path.MOVETO]
        for (_, left, y0), (right, flat_end, y1) in itertools.pairwise(flats):
            middle = (left + right) / 2
            points += [(middle, y0), (middle, y1), (right, y1)]
            codes += [Path.CURVE4] * 3
            if flat_end:
                points.append((flat_end, y1))
                codes.append(Path.LINETO)
        paths.append(Path(points, codes))
    return paths


def _ports(routes: list[list[Slot]], y: dict[Slot, float], end: int) -> dict[int, tuple[float, float]]:
    """Returns the point at which each line meets the node at one end, as (x, y) distances from the centre of the node.

    The lines are spread along the side of the node.

    Args:
        routes: Slots that each line passes.
        y: Centre of each slot.
        end: 0 for the source of each line, -1 for its target.
    """
    inner = 1 if end == 0 else -2
    touching: dict[Slot, list[int]] = {}
    for number, route in enumerate(routes):
        touching.setdefault(route[end], []).append(number)
    ports = {}
    for node, numbers in touching.items():
        numbers.sort(key=lambda number: y[routes[number][inner]])
        step = min(6.0, 1.5 * node.height / 2 / max(len(numbers) - 1, 1))
        for position, number in enumerate(numbers):
            offset = step * (position - (len(numbers) - 1) / 2)
            ports[number] = (math.sqrt(NODE_RADIUS**2 - offset**2) if node.round else node.width / 2, offset)
    return ports


def _add_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Returns axes at a position in the figure. One unit of their coordinates is one point."""
    whole_width, whole_height = (72 * inches for inches in figure.get_size_inches())
    axes = figure.add_axes((left / whole_width, bottom / whole_height, width / whole_width, height / whole_height))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return axes


def _draw_arrow(axes: Axes, path: Path, line: Line) -> None:
    from matplotlib.patches import FancyArrowPatch

    axes.add_patch(
        FancyArrowPatch(
            path=path,
            arrowstyle="-|>",
            mutation_scale=9,
            color=line.colour,
            linewidth=line.width,
            linestyle=(0, (4, 2.5)) if line.dashed else "solid",
        )
    )


def _draw_line(axes: Axes, path: Path, line: Line) -> None:
    from matplotlib.patches import PathPatch

    axes.add_patch(PathPatch(path, fill=False, edgecolor=line.colour, linewidth=line.width))


def _draw_label(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    box = {"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none"}
    axes.text(x, y, text, size=LABEL_FONT_SIZE, color=colour, ha="center", va="center_baseline", bbox=box, parse_math=False)


def _draw_node(axes: Axes, x: float, y: float, number: str) -> None:
    from matplotlib.patches import Circle

    axes.add_patch(Circle((x, y), NODE_RADIUS, facecolor="white", edgecolor=INK_COLOUR, linewidth=1.2, zorder=2))
    axes.text(x, y, number, size=NODE_FONT_SIZE, color=INK_COLOUR, ha="center", va="center")


def _draw_box(axes: Axes, x: float, y: float, width: float, height: float, text: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner, style = (x - width / 2, y - height / 2), "round,pad=0,rounding_size=6"
    axes.add_patch(
        FancyBboxPatch(corner, width, height, style, facecolor="white", edgecolor=INK_COLOUR, linewidth=1.2, zorder=2)
    )
    axes.text(x, y, text, size=NODE_FONT_SIZE, color=INK_COLOUR, ha="center", va="center", parse_math=False)
