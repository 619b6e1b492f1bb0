"""Network skeletons: stem, cells and head.

There are two skeletons. Cells with one input form stages with a residual block between them (Dong and Yang, NAS-Bench-201,
arXiv:2001.00326). Cells with two inputs take the outputs of the previous two cells, and some of them halve the resolution
(Zoph et al., NASNet, arXiv:1707.07012, in the form of Liu et al., DARTS, arXiv:1806.09055).
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from search_spaces.cells.topology import edge_name
from search_spaces.operations import FactorisedReduce, Operation, relu_conv_bn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from search_spaces.graph import CellGraph


@final
class Cell(nn.Module):
    """Module of one cell. It maps the inputs (N, C, H, W) to the concatenated output nodes.

    Args:
        graph: Computation graph of the cell.
        operations: Operations by name.
        channels: Number of channels of every node.
        preprocess: One module per input, which maps it to `channels` channels; empty if the inputs have `channels` already.
    """

    def __init__(
        self, graph: CellGraph, operations: Mapping[str, Operation], channels: int, preprocess: Sequence[nn.Module] = ()
    ) -> None:
        super().__init__()
        self.graph, self.channels = graph, channels
        self.preprocess = nn.ModuleList(preprocess)
        self.edges = nn.ModuleDict()
        # For each node except the inputs: the (name, source node) pairs of its edges.
        self.incoming: list[list[tuple[str, int]]] = [[] for _ in graph.nodes]
        nodes = graph.inputs + len(graph.nodes)
        for source, node, operation in graph.edges():
            name = edge_name(source, node, nodes)
            parallel = sum(edge == name or edge.startswith(f"{name}_") for edge in self.edges)
            name = f"{name}_{parallel + 1}" if parallel else name
            stride = 2 if graph.strided and source < graph.inputs else 1
            self.edges[name] = operations[operation](channels, stride)
            self.incoming[node - graph.inputs].append((name, source))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Returns the output, (N, channels * output nodes, H, W); (..., ceil(H/2), ceil(W/2)) if the cell is strided."""
        nodes = [layer(x) for layer, x in zip(self.preprocess, inputs, strict=True)] if self.preprocess else list(inputs)
        stride = 2 if self.graph.strided else 1
        for incoming in self.incoming:
            terms = [self.edges[name](nodes[source]) for name, source in incoming]
            nodes.append(
                functools.reduce(operator.add, terms) if terms else torch.zeros_like(nodes[0][:, :, ::stride, ::stride])
            )
        outputs = [nodes[node] for node in self.graph.outputs]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)


@final
class Reduction(nn.Module):
    """Residual block between stages. It maps (N, in, H, W) to (N, out, ceil(H/2), ceil(W/2))."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(relu_conv_bn(in_channels, channels, 3, stride=2), relu_conv_bn(channels, channels, 3))
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, stride=2, ceil_mode=True), nn.Conv2d(in_channels, channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns the branch plus the shortcut."""
        return self.branch(x) + self.shortcut(x)  # type: ignore[no-any-return]


def stem(in_channels: int, channels: int) -> nn.Sequential:
    """Returns the stem, which maps images (N, in, H, W) to (N, channels, H, W)."""
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))


def single_input_network(
    cells: Sequence[CellGraph | None],
    operations: Mapping[str, Operation],
    channels: int,
    input_shape: tuple[int, int, int],
    num_classes: int,
) -> nn.Sequential:
    """Returns a chain of cells with one input each, which maps images (N, C, H, W) to logits (N, K).

    Args:
        cells: Cells in order; None is a residual block that halves the resolution. Each layer that halves the resolution
            doubles the number of channels.
        operations: Operations by name.
        channels: Number of channels of the nodes of the first cell.
        input_shape: Shape (C, H, W) of one image.
        num_classes: Number of classes K.
    """
    body: list[nn.Module] = [stem(input_shape[0], channels)]
    width = channels
    for graph in cells:
        if graph is None or graph.strided:
            channels *= 2
        if graph is None:
            body.append(Reduction(width, channels))
            width = channels
            continue
        preprocess = [] if width == channels else [relu_conv_bn(width, channels, 1)]
        body.append(Cell(graph, operations, channels, preprocess))
        width = channels * len(graph.outputs)
    head = nn.Sequential(
        nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)
    )
    return nn.Sequential(*body, head)


@final
class TwoInputNetwork(nn.Module):
    """Network of cells that take the outputs of the previous two cells. It maps images (N, C, H, W) to logits (N, K).

    A cell that halves the resolution has twice as many channels as the cells before it. Both inputs of a cell need the same
    resolution and the channels of the cell. So each input passes a 1x1 convolution or a `FactorisedReduce` first.

    Args:
        cells: Cells in order.
        operations: Operations by name.
        channels: Number of channels of the nodes of the first cell.
        input_shape: Shape (C, H, W) of one image.
        num_classes: Number of classes K.
        stem_multiplier: Channels of the stem, as a multiple of `channels`.
    """

    def __init__(
        self,
        cells: Sequence[CellGraph],
        operations: Mapping[str, Operation],
        channels: int,
        input_shape: tuple[int, int, int],
        num_classes: int,
        stem_multiplier: int = 3,
    ) -> None:
        super().__init__()
        previous = last = stem_multiplier * channels
        self.stem = stem(input_shape[0], last)
        self.cells = nn.ModuleList()
        halved = False
        for graph in cells:
            channels *= 2 if graph.strided else 1
            reduce_previous = FactorisedReduce(previous, channels) if halved else relu_conv_bn(previous, channels, 1)
            self.cells.append(Cell(graph, operations, channels, [reduce_previous, relu_conv_bn(last, channels, 1)]))
            previous, last, halved = last, channels * len(graph.outputs), graph.strided
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits (N, K)."""
        previous = last = self.stem(x)
        for cell in self.cells:
            previous, last = last, cell(previous, last)
        return self.head(last)  # type: ignore[no-any-return]
