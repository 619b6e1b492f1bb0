"""Layout of the drawing of a cell. Lengths are in points (1/72 inch).

The layout has columns from left to right. The inputs are in the first column, and each other node is in the column after its
last source. Between two columns of nodes is a column of labels. A line has a separate slot in every column that it passes,
and it bends only between columns. So it crosses no node and no label of another line.

Source: Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of Hierarchical System Structures", IEEE Transactions on
Systems, Man, and Cybernetics 11(2), 1981. Their method chooses the column of each node, then an order in each column with
few crossings, then the positions.
"""

from __future__ import annotations

import itertools
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from search_spaces.operations import OPERATIONS

if TYPE_CHECKING:
    from search_spaces.graph import CellGraph

# One colour per operation, in the order of OPERATIONS without none and skip. The k x k convolutions share a hue, darker for
# larger kernels.
COLOURS = (
    *(
        "#a15c00",
        "#c2410c",
        "#9a3412",
        "#7c2d12",
        "#7a6a00",
        "#4d7c0f",
        "#0e7490",
        "#155e75",
        "#be185d",
        "#0f766e",
        "#115e59",
    ),
    *("#7e22ce", "#581c87", "#1d4ed8", "#1e3a8a", "#172554", "#a21caf", "#701a75", "#15803d", "#166534", "#14532d"),
)
SKIP_COLOUR, OUTPUT_COLOUR = "#5f6670", "#a3a9b1"
LABEL_FONT_SIZE, NODE_FONT_SIZE = 8.0, 9.0
NODE_RADIUS, MIN_GAP = 12.0, 6.0


@final
@dataclass(frozen=True)
class Line:
    """A line between two nodes: an arrow with a label for operations, or a line without a label to the output."""

    source: int
    target: int
    label: str = ""
    colour: str = OUTPUT_COLOUR
    dashed: bool = False
    width: float = 0.8


@final
@dataclass(frozen=True)
class Slot:
    """A position in a column. It holds a node, or a line that passes and may have its label there."""

    column: int
    node: int | None
    line: int | None
    width: float = 0.0
    height: float = 0.0

    @property
    def round(self) -> bool:
        """Whether the slot is a circle instead of a box."""
        return self.node is not None and self.width == self.height == 2 * NODE_RADIUS


@final
@dataclass(frozen=True)
class CellLayout:
    """Layout of a cell.

    Attributes:
        names: Text in each node. If the output concatenates several nodes or is an input, it has a separate box, the last.
        lines: Lines between the nodes.
        routes: Slots that each line passes, from its source to its target.
        x: Horizontal centre of each column.
        widths: Width of each column.
        y: Vertical centre of each slot; larger is higher.
        connected: Whether there is a path from an input to the output.
    """

    names: list[str]
    lines: list[Line]
    routes: list[list[Slot]]
    x: list[float]
    widths: list[float]
    y: dict[Slot, float]
    connected: bool


def layout_cell(graph: CellGraph) -> CellLayout:
    """Returns the layout of a cell."""
    names = _names(graph)
    boxed = len(names) > graph.inputs + len(graph.nodes)
    lines = _lines(graph, len(names) - 1 if boxed else None)
    columns = [2 * layer for layer in _layers(graph, lines, names)]
    nodes = [
        Slot(column, node, None, *_box_size(name)) for node, (column, name) in enumerate(zip(columns, names, strict=True))
    ]
    routes = _routes(lines, nodes)
    order = _order(nodes, routes)
    y = _slot_heights(order, routes)
    widths = [max((slot.width for slot in column), default=0.0) for column in order]
    x = [widths[0] / 2]
    for column in range(1, len(widths)):
        bend = max(
            (abs(y[a] - y[b]) for route in routes for a, b in itertools.pairwise(route) if b.column == column), default=0
        )
        x.append(x[-1] + (widths[column - 1] + widths[column]) / 2 + min(max(16.0, 0.45 * bend), 44.0))
    return CellLayout(names, lines, routes, x, widths, y, graph.connected)


def _names(graph: CellGraph) -> list[str]:
    names = ["input"] if graph.inputs == 1 else [f"input {i}" for i in range(graph.inputs)]
    names += [str(node) for node in range(graph.inputs, graph.inputs + len(graph.nodes))]
    if len(graph.outputs) == 1 and graph.outputs[0] >= graph.inputs:
        names[graph.outputs[0]] = "output"
        return names
    return [*names, "output"]


def _lines(graph: CellGraph, output: int | None) -> list[Line]:
    """Returns an arrow for each pair of connected nodes, followed by the lines to the box of the output."""
    joined: dict[tuple[int, int], list[str]] = {}
    for source, node, operation in graph.edges():
        joined.setdefault((source, node), []).append(operation)
    arrows = [
        Line(
            *ends,
            " +\n".join(operations),
            _colour(operations),
            set(operations) == {"skip"},
            1.3 if len(operations) == 1 else 2.2,
        )
        for ends, operations in joined.items()
    ]
    return arrows if output is None else arrows + [Line(node, output) for node in graph.outputs]


def _colour(operations: list[str]) -> str:
    """Returns the colour of the last operation of an arrow, in the order of OPERATIONS, then custom operations."""
    table = [name for name in OPERATIONS if name not in ("none", "skip")]
    # A custom operation gets a colour from the hash of its name.
    places = [table.index(name) if name in table else zlib.crc32(name.encode()) for name in operations if name != "skip"]
    return COLOURS[max(places) % len(COLOURS)] if places else SKIP_COLOUR


def _layers(graph: CellGraph, lines: list[Line], names: list[str]) -> list[int]:
    """Returns the layer of each node: 0 for inputs, otherwise one more than the last layer of its sources.

    If no line leaves the output, the output is in a layer after all other nodes.
    """
    layers = [0] * len(names)
    for node in range(graph.inputs, len(names)):
        layers[node] = 1 + max((layers[line.source] for line in lines if line.target == node), default=0)
    output = names.index("output")
    if all(line.source != output for line in lines):
        layers[output] = 1 + max(layer for node, layer in enumerate(layers) if node != output)
    return layers


def _routes(lines: list[Line], nodes: list[Slot]) -> list[list[Slot]]:
    """Returns the slots of every line. A line's label is in the column on its way that has the fewest labels so far."""
    crowd: dict[int, int] = {}
    routes: list[list[Slot]] = [[] for _ in lines]
    # The shortest lines have the fewest columns for their label, so they come first.
    for number in sorted(range(len(lines)), key=lambda n: nodes[lines[n].target].column - nodes[lines[n].source].column):
        line = lines[number]
        start, end = nodes[line.source], nodes[line.target]
        between = range(start.column + 1, end.column)
        chosen = min(between[::2], key=lambda column: crowd.get(column, 0)) if line.label else None
        routes[number].append(start)
        for column in between:
            size = _label_size(line.label) if column == chosen else (0.0, 0.0)
            routes[number].append(Slot(column, None, number, *size))
        routes[number].append(end)
        if chosen is not None:
            crowd[chosen] = crowd.get(chosen, 0) + 1
    return routes


def _order(nodes: list[Slot], routes: list[list[Slot]]) -> list[list[Slot]]:
    """Returns the slots of each column, in an order with few crossings (by the barycentres of their neighbours)."""
    columns: list[list[Slot]] = [[] for _ in range(1 + max(slot.column for slot in nodes))]
    for slot in dict.fromkeys([*nodes, *itertools.chain(*routes)]):
        columns[slot.column].append(slot)
    links = list(dict.fromkeys(pair for route in routes for pair in itertools.pairwise(route)))
    best, fewest = columns, _crossings(columns, links)
    for sweep in range(24):
        forward = sweep % 2 == 0
        # Half of the sweeps reverse ties, because either order may have fewer crossings.
        columns = [column[::-1] if sweep % 4 >= 2 else list(column) for column in columns]
        for number in range(len(columns)) if forward else reversed(range(len(columns))):
            position = {slot: i for column in columns for i, slot in enumerate(column)}
            neighbours: dict[Slot, list[int]] = {}
            for a, b in links:
                neighbours.setdefault(b if forward else a, []).append(position[a if forward else b])
            columns[number].sort(
                key=lambda slot: sum(neighbours[slot]) / len(neighbours[slot]) if slot in neighbours else position[slot]
            )
        crossings = _crossings(columns, links)
        if crossings < fewest:
            best, fewest = columns, crossings
    return best


def _crossings(columns: list[list[Slot]], links: list[tuple[Slot, Slot]]) -> int:
    position = {slot: i for column in columns for i, slot in enumerate(column)}
    by_column: dict[int, list[tuple[int, int]]] = {}
    for a, b in links:
        by_column.setdefault(a.column, []).append((position[a], position[b]))
    return sum((a - c) * (b - d) < 0 for pairs in by_column.values() for (a, b), (c, d) in itertools.combinations(pairs, 2))


def _slot_heights(order: list[list[Slot]], routes: list[list[Slot]]) -> dict[Slot, float]:
    """Returns the vertical centre of every slot. Lines are as straight as the orders and sizes allow."""
    links: dict[Slot, list[tuple[Slot, float]]] = {}
    for a, b in dict.fromkeys(pair for route in routes for pair in itertools.pairwise(route)):
        # A bend far from both ends of a line has the largest weight, because it is the most visible.
        weight = 2.0 ** (3 * ((a.line is not None) and (b.line is not None)))
        links.setdefault(a, []).append((b, weight))
        links.setdefault(b, []).append((a, weight))
    y = {slot: -20.0 * (place - len(column) / 2) for column in order for place, slot in enumerate(column)}
    for _ in range(30):
        for column in filter(None, itertools.chain(order, reversed(order))):
            targets, weights = [], []
            for slot in column:
                neighbours = links.get(slot, [(slot, 1.0)])
                weights.append(sum(weight for _, weight in neighbours))
                targets.append(sum(y[other] * weight for other, weight in neighbours) / weights[-1])
            gaps = [(a.height + b.height) / 2 + MIN_GAP for a, b in itertools.pairwise(column)]
            y.update(zip(column, separate(targets, weights, gaps), strict=True))
    for _ in range(4):
        for route in routes:
            _straighten(route[1:-1], order, y)
    return y


def _straighten(slots: list[Slot], order: list[list[Slot]], y: dict[Slot, float]) -> None:
    """Moves consecutive slots of a line to one height. Each such run is as long as the neighbouring slots allow."""
    run: list[Slot] = []
    low, high = -math.inf, math.inf
    for slot in [*slots, None]:
        if slot is not None:
            column = order[slot.column]
            position = column.index(slot)
            above = min((y[s] - (s.height + slot.height) / 2 - MIN_GAP for s in column[:position]), default=math.inf)
            below = max((y[s] + (s.height + slot.height) / 2 + MIN_GAP for s in column[position + 1 :]), default=-math.inf)
            if not run or max(low, below) <= min(high, above):
                run, low, high = [*run, slot], max(low, below), min(high, above)
                continue
        level = sorted((low, sum(y[s] for s in run) / len(run), high))[1]
        y.update(dict.fromkeys(run, level))
        if slot is not None:
            run, low, high = [slot], below, above


def separate(targets: list[float], weights: list[float], gaps: list[float]) -> list[float]:
    """Returns the positions (N,) nearest to the targets, in weighted squared distance, that keep at least the given gaps.

    Args:
        targets: Target positions (N,), from the top.
        weights: Weight of each squared distance (N,).
        gaps: Minimum distance between two neighbours (N - 1,).
    """
    offsets = [0.0, *itertools.accumulate(gaps)]
    # With the gaps removed, this is a decreasing isotonic regression: neighbours in the wrong order are pooled.
    pools: list[tuple[float, float, int]] = []
    for wish, weight, offset in zip(targets, weights, offsets, strict=True):
        mean, total, count = wish + offset, weight, 1
        while pools and pools[-1][0] < mean:
            other, more, members = pools.pop()
            mean = (mean * total + other * more) / (total + more)
            total, count = total + more, count + members
        pools.append((mean, total, count))
    means = [mean for mean, _, count in pools for _ in range(count)]
    return [mean - offset for mean, offset in zip(means, offsets, strict=True)]


def _box_size(name: str) -> tuple[float, float]:
    return (2 * NODE_RADIUS, 2 * NODE_RADIUS) if name.isdigit() else (text_width(name, NODE_FONT_SIZE) + 14, 22.0)


def _label_size(label: str) -> tuple[float, float]:
    return text_width(label, LABEL_FONT_SIZE) + 6, 1.2 * LABEL_FONT_SIZE * (label.count("\n") + 1) + 3


def text_width(text: str, size: float) -> float:
    """Returns the width of the longest line of a text, in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    return max(float(text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]) for line in text.split("\n"))
