"""cell201: the cell of NAS-Bench-201.

Four nodes, 0 the input and 3 the output; each of the six edges i -> j (i < j) carries one of five operations, and a node
is the sum of what arrives. 5**6 = 15,625 cells.

Source: Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020,
arXiv:2001.00326. With 16 channels, 5 cells a stage and 3 stages it is their network, parameter for parameter.
"""

from __future__ import annotations

import functools
import itertools
import operator
from typing import final

from torch import Tensor, nn

from search_spaces.drawing import draw_cell
from search_spaces.operations import OPERATIONS, relu_conv_bn
from search_spaces.space import Architecture, Choice, SearchSpace, Value

NODES = 4
EDGES = {"edge01": (0, 1), "edge02": (0, 2), "edge12": (1, 2), "edge03": (0, 3), "edge13": (1, 3), "edge23": (2, 3)}
# From the least to the most that an edge can do: a canonical cell is the first of its class in this order.
EDGE_OPERATIONS = ("none", "skip", "avgpool3x3", "conv1x1", "conv3x3")
CHOICES = {edge: Choice(*EDGE_OPERATIONS) for edge in EDGES}


@final
class Cell(nn.Module):
    """One cell: (N, C, H, W) to the same shape."""

    def __init__(self, architecture: Architecture, channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleDict({edge: OPERATIONS[str(architecture[edge])](channels) for edge in EDGES})

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output node."""
        nodes = [x]
        for node in range(1, NODES):
            arriving = [self.edges[edge](nodes[i]) for edge, (i, j) in EDGES.items() if j == node]
            nodes.append(functools.reduce(operator.add, arriving))
        return nodes[-1]


@final
class Reduction(nn.Module):
    """The residual block between stages: (N, C, H, W) to (N, 2C, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            relu_conv_bn(channels, 2 * channels, 3, stride=2), relu_conv_bn(2 * channels, 2 * channels, 3)
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, stride=2, ceil_mode=True), nn.Conv2d(channels, 2 * channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns the branch plus the shortcut."""
        return self.branch(x) + self.shortcut(x)  # type: ignore[no-any-return]


def cell201(channels: int = 16, cells_per_stage: int = 5, stages: int = 3) -> SearchSpace:
    """Returns the space of NAS-Bench-201's cells.

    Args:
        channels: Channels of the first stage; each later stage has twice as many at half the resolution.
        cells_per_stage: Cells in each stage, all of one architecture.
        stages: Number of stages; images must be at least 2**(stages - 1) pixels wide and high.

    Raises:
        ValueError: one of them is below 1.
    """
    for setting, value in {"channels": channels, "cells_per_stage": cells_per_stage, "stages": stages}.items():
        if value < 1:
            raise ValueError(f"{setting} must be at least 1, got {value}")

    def build(architecture: Architecture, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        smallest = 2 ** (stages - 1)
        if min(input_shape[1:]) < smallest:
            raise ValueError(
                f"images must be at least {smallest} x {smallest} pixels for {stages} stages, "
                f"got {input_shape[1]} x {input_shape[2]}; use fewer stages"
            )
        stem = nn.Sequential(nn.Conv2d(input_shape[0], channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        body: list[nn.Module] = []
        width = channels
        for stage in range(stages):
            if stage > 0:
                body.append(Reduction(width))
                width *= 2
            body += [Cell(architecture, width) for _ in range(cells_per_stage)]
        head = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)
        )
        return nn.Sequential(stem, *body, head)

    return SearchSpace(name="cell201", choices=CHOICES, build=build, canonical=canonical, draw=draw)


def canonical(architecture: Architecture) -> dict[str, Value]:
    """Returns the first cell, in the order of the table, whose output is the same expression of its input.

    The expression knows that sums have no order, that a skip passes its node on, that pooling nothing gives nothing, and
    that operations that reach no output do not matter. It tells two convolutions of one input, which have weights of their
    own, from one convolution that is used twice; and a convolution of nothing from nothing, for through its batch norm such
    an edge is a learned constant.
    """
    operations = tuple(str(architecture[edge]) for edge in EDGES)
    return dict(zip(EDGES, _representatives()[_expression(operations)], strict=True))


def _expression(operations: tuple[str, ...]) -> tuple[int, ...]:
    """Returns a key of the output as an expression of the input, equal for cells that differ only in how they write it.

    The expression is a graph: a term for the input, for each convolution, and for each pooling of a sum, with the sum of
    terms that it is applied to. Its key is made by colour refinement: a term's colour is hashed from its operation, the
    colours of its arguments and those of its users, until it says where in the graph the term stands.
    """
    arguments: dict[str, tuple[str, ...]] = {"x": ()}
    kinds = {"x": -1}
    nodes: list[tuple[str, ...]] = [("x",)]
    for node in range(1, NODES):
        terms: list[str] = []
        for (edge, (i, j)), operation in zip(EDGES.items(), operations, strict=True):
            if j != node or operation == "none" or (operation == "avgpool3x3" and not nodes[i]):
                continue
            if operation == "skip":
                terms += nodes[i]
                continue
            # A pooling has no weights, so poolings of one sum are one term; a convolution is a term by itself.
            term = f"pool({'+'.join(sorted(nodes[i]))})" if operation == "avgpool3x3" else edge
            arguments[term], kinds[term] = nodes[i], EDGE_OPERATIONS.index(operation)
            terms.append(term)
        nodes.append(tuple(terms))
    output = nodes[-1]
    live, new = set(output), list(output)
    while new:
        fresh = [a for a in arguments[new.pop()] if a not in live]
        live.update(fresh)
        new += fresh
    colours = {term: hash((kinds[term], output.count(term))) for term in live}
    for _ in range(NODES):
        users: dict[str, list[int]] = {term: [] for term in live}
        for term in live:
            for argument in arguments[term]:
                users[argument].append(colours[term])
        refined = {
            t: hash((colours[t], tuple(sorted(colours[a] for a in arguments[t])), tuple(sorted(users[t])))) for t in live
        }
        colours = refined
    return tuple(sorted(colours.values()))


@functools.cache
def _representatives() -> dict[tuple[int, ...], tuple[str, ...]]:
    """Returns the first cell of every class by its expression: one pass over all 15,625 cells, once a process."""
    first: dict[tuple[int, ...], tuple[str, ...]] = {}
    for operations in itertools.product(EDGE_OPERATIONS, repeat=len(EDGES)):
        first.setdefault(_expression(operations), operations)
    return first


def draw(architecture: Architecture) -> str:
    """Returns the cell as SVG text."""
    edges = [(i, j, str(architecture[edge])) for edge, (i, j) in EDGES.items()]
    return draw_cell(["input", "1", "2", "output"], [edge for edge in edges if edge[2] != "none"])
