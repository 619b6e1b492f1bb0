"""Builder for cell-based search spaces: topology, operations, shared or separate cells, and the network around the cells.

    SPACE = cell_space(nodes=4, operations=["none", "skip", "sepconv3x3", my_operation], channels=16)

The spaces of the literature use the same functions (cell201.py, darts.py, nasnet.py, robnet.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from torch import nn

from search_spaces.cells.canonical import canonical_cell
from search_spaces.cells.custom_operations import read_operations, try_operation
from search_spaces.cells.skeleton import Cell, TwoInputNetwork, single_input_network
from search_spaces.cells.topology import Output, Topology, all_pairs, edge_list, two_inputs
from search_spaces.drawing.figures import draw_cells
from search_spaces.operations import OPERATIONS, VANISHING, Operation
from search_spaces.space import Architecture, SearchSpace, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from search_spaces.graph import CellGraph

CellSharing = Literal["shared", "normal_reduction", "each"]
TopologyKind = Literal["all_pairs", "two_inputs"]
# A layer is a cell or a residual block that halves the resolution. A cell is written as a pair: its name, and whether it
# halves the resolution. The block is written as None.
# Cells with the same name share one architecture. The name is the prefix of the names of the choices.
Layer = tuple[str, bool] | None


def cell_space(
    name: str = "cells",
    *,
    nodes: int = 4,
    inputs: int = 1,
    topology: TopologyKind | list[tuple[int, int]] = "all_pairs",
    output: Output = "last",
    operations: list[str | Operation] = ["none", "skip", "avgpool3x3", "conv1x1", "conv3x3"],  # noqa: B006 (only read)
    cells: CellSharing = "shared",
    channels: int = 16,
    cells_per_stage: int = 2,
    stages: int = 3,
) -> SearchSpace:
    """Returns a cell-based search space.

    Args:
        name: Name of the space.
        nodes: Number of nodes of a cell, inputs included.
        inputs: Number of inputs of a cell: 1 (the output of the previous cell) or 2 (the outputs of the previous two).
        topology: all_pairs (an edge from every node to every later one), two_inputs (two edges from earlier nodes to every
            node), or a list of edges [from, to]. The inputs are the first nodes.
        output: Nodes that are concatenated into the output: last (the last node), all (all nodes except the inputs), or
            unused (all nodes that feed no other node).
        operations: Possible values of an edge, from the weakest to the strongest: names of OPERATIONS, several names joined
            by + (their sum), or functions of (channels, stride) that return a module.
        cells: Cells that are searched: shared (one cell for the whole network), normal_reduction (one cell that keeps the
            resolution and one that halves it), or each (every cell separately).
        channels: Number of channels of the first stage. Each later stage has twice as many at half the resolution.
        cells_per_stage: Number of cells in each stage.
        stages: Number of stages. Between two stages is a residual block if cells have one input and share their
            architecture, otherwise a cell that halves the resolution.

    Raises:
        ValueError: A setting is out of range, an operation is unknown, or an edge is impossible.

    Example:
        >>> from search_spaces import cell_space
        >>> space = cell_space(nodes=3, operations=["none", "skip", "conv3x3"])
        >>> space.size
        27
        >>> space.at(5)
        {'edge01': 'none', 'edge02': 'skip', 'edge12': 'conv3x3'}
    """
    for setting, value in {
        "nodes": nodes,
        "channels": channels,
        "cells_per_stage": cells_per_stage,
        "stages": stages,
    }.items():
        if value < 1:
            raise ValueError(f"{setting} must be at least 1, got {value}")
    if cells not in get_args(CellSharing):
        raise ValueError(f"cells must be one of {', '.join(get_args(CellSharing))}, got {cells!r}")
    names, custom = read_operations(operations)
    if not set(names) - {"none"}:
        raise ValueError(f"operations must hold at least one other than 'none', got {names}")
    return assemble(
        name,
        topology=_topology(topology, nodes, inputs, output),
        operations=names,
        custom=custom,
        layers=staged_layers([cells_per_stage] * stages, cells, blocks=inputs == 1 and cells == "shared"),
        channels=channels,
    )


def staged_layers(cells: Sequence[int], sharing: CellSharing, *, blocks: bool = False) -> list[Layer]:
    """Returns the layers of a network in stages, with a layer that halves the resolution between two stages.

    Args:
        cells: Number of cells in each stage.
        sharing: Cells that are searched, as in `cell_space`.
        blocks: Whether a residual block halves the resolution (None in the result) instead of a cell.

    Raises:
        ValueError: A stage has no cell, or there is no stage.
    """
    if not cells or min(cells) < 1:
        raise ValueError(f"there must be at least one stage, and at least one cell in each, got {list(cells)}")
    strides: list[bool | None] = []
    for stage, count in enumerate(cells):
        strides += ([None if blocks else True] if stage else []) + [False] * count
    return [None if s is None else (_cell_name(sharing, number, s), s) for number, s in enumerate(strides, start=1)]


def layers_with_reductions(count: int, sharing: CellSharing) -> list[Layer]:
    """Returns `count` cells. The cells at one third and at two thirds of the depth halve the resolution.

    Raises:
        ValueError: The count is below 3.
    """
    if count < 3:
        raise ValueError(f"layers must be at least 3, because two of them halve the resolution, got {count}")
    reductions = (count // 3, 2 * count // 3)
    return [(_cell_name(sharing, number + 1, number in reductions), number in reductions) for number in range(count)]


def _cell_name(sharing: CellSharing, number: int, halves: bool) -> str:
    if sharing == "each":
        return f"cell{number:02d}"
    if sharing == "normal_reduction":
        return "reduction" if halves else "normal"
    return ""


def assemble(
    name: str,
    *,
    topology: Topology,
    operations: Sequence[str],
    layers: Sequence[Layer],
    channels: int,
    custom: Mapping[str, Operation] | None = None,
    affine: bool = True,
    remedy: str = "use fewer stages",
) -> SearchSpace:
    """Returns the search space of the networks with these layers.

    Args:
        name: Name of the space.
        topology: Topology of every cell.
        operations: Possible values of an edge: names of operations, or `a+b` for the sum of the operations a and b.
        layers: Cells and residual blocks, in order.
        channels: Number of channels of the nodes of the first cell.
        custom: Custom operations, by name.
        remedy: End of the error message for images that are too small for the number of halvings.
        affine: Whether batch norm in cells has a learned scale and shift.

    Raises:
        ValueError: channels is below 1, or a custom operation cannot be used.
    """
    if channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}")
    # Batch norm without a learned shift maps zeros to zeros, and so do all built-in convolutions with it.
    vanishing = VANISHING if affine else VANISHING | (OPERATIONS.keys() - {"skip"})
    names, operations_by_name = tuple(operations), {**OPERATIONS, **(custom or {})}
    # A shared cell is used with and without a stride. The canonical form uses the graph with the stride, because fewer cells
    # are equivalent with it.
    strided: dict[str, bool] = {}
    for layer in layers:
        if layer is not None:
            strided[layer[0]] = strided.get(layer[0], False) or layer[1]
    for operation_name, operation in (custom or {}).items():
        # A cell that halves the resolution has twice as many channels as the cells before it.
        for stride in (1, 2) if any(strided.values()) else (1,):
            try_operation(operation_name, operation, stride * channels, stride)
    table = topology.choices(names)
    choices = {_choice_name(cell, operation_name): choice for cell in strided for operation_name, choice in table.items()}
    reductions = sum(layer is None or layer[1] for layer in layers)

    def cell_values(architecture: Architecture, cell: str) -> dict[str, Value]:
        return {operation_name: architecture[_choice_name(cell, operation_name)] for operation_name in table}

    def graphs(architecture: Architecture) -> dict[str, CellGraph]:
        return {cell: topology.graph(cell_values(architecture, cell), strided=stride) for cell, stride in strided.items()}

    def canonical(architecture: Architecture) -> dict[str, Value]:
        form = dict(architecture)
        for cell, graph in graphs(architecture).items():
            node_choices = canonical_cell(topology, names, graph, vanishing)
            if node_choices is not None:
                form |= {
                    _choice_name(cell, operation_name): value
                    for operation_name, value in topology.choice_values(node_choices).items()
                }
        return {name: form[name] for name in choices}

    def build(architecture: Architecture, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        smallest = 2**reductions
        if min(input_shape[1:]) < smallest:
            raise ValueError(
                f"images must be at least {smallest} x {smallest} pixels to be halved {reductions} times, "
                f"got {input_shape[1]} x {input_shape[2]}; {remedy}"
            )
        network = [
            None if layer is None else topology.graph(cell_values(architecture, layer[0]), strided=layer[1])
            for layer in layers
        ]
        module: nn.Module
        if topology.inputs == 1:
            module = single_input_network(network, operations_by_name, channels, input_shape, num_classes)
        else:
            cells = [cell for cell in network if cell is not None]
            module = TwoInputNetwork(cells, operations_by_name, channels, input_shape, num_classes)
        if not affine:
            _only_normalise(module)
        return module

    return SearchSpace(
        name=name,
        choices=choices,
        build=build,
        canonical=canonical,
        draw=lambda architecture: draw_cells(graphs(architecture)),
        graphs=graphs,
        operations=tuple(dict.fromkeys(part for value in names for part in value.split("+") if part != "none")),
    )


def _only_normalise(network: nn.Module) -> None:
    """Removes the learned scale and shift of batch norm in the cells of a network."""
    for cell in network.modules():
        for module in cell.modules() if isinstance(cell, Cell) else ():
            if isinstance(module, nn.BatchNorm2d):
                module.affine = False
                module.register_parameter("weight", None)
                module.register_parameter("bias", None)


def _choice_name(cell: str, key: str) -> str:
    return f"{cell}_{key}" if cell else key


def _topology(topology: TopologyKind | list[tuple[int, int]], nodes: int, inputs: int, output: Output) -> Topology:
    kinds: dict[str, Callable[[int, int, Output], Topology]] = {"all_pairs": all_pairs, "two_inputs": two_inputs}
    if isinstance(topology, str):
        if topology not in kinds:
            raise ValueError(f"topology must be all_pairs, two_inputs or a list of edges, got {topology!r}")
        return kinds[topology](nodes, inputs, output)
    return edge_list([(i, j) for i, j in topology], inputs, output)
