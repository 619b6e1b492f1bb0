"""cell_space: every setting builds a network that trains, and invalid settings raise an error."""

import itertools
import math
import random
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_spaces import OPERATIONS, cell_space, darts, robnet
from search_spaces.cells.cell_space import assemble, layers_with_reductions, staged_layers
from search_spaces.cells.skeleton import Cell, Reduction
from search_spaces.cells.topology import all_pairs


@pytest.fixture(autouse=True)
def repeatable():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def scaled(channels, stride):
    """A custom operation: one scale per channel."""
    return nn.Conv2d(channels, channels, 1, stride, groups=channels, bias=False)


def trains(space, architecture, shape=(3, 8, 8)):
    """Returns whether one step of gradient descent on a few images decreases the loss."""
    torch.manual_seed(0)
    network = space.build(architecture, shape, 5).train()
    x, y = torch.rand(8, *shape), torch.arange(8) % 5
    before = F.cross_entropy(network(x), y)
    before.backward()
    parameters = [p for p in network.parameters() if p.grad is not None]
    with torch.no_grad():
        norm = torch.cat([p.grad.flatten() for p in parameters]).norm()
        for parameter in parameters:
            parameter -= 0.001 * parameter.grad / norm
        return bool(F.cross_entropy(network(x), y) < before)


def test_a_custom_space():
    space = cell_space(
        "mine",
        nodes=4,
        operations=["none", "skip", "sepconv3x3", scaled, "skip+conv1x1"],
        channels=4,
        cells_per_stage=1,
        stages=2,
    )
    assert space.name == "mine"
    assert space.size == 5**6
    assert space.choices["edge01"].values == ("none", "skip", "sepconv3x3", "scaled", "skip+conv1x1")
    assert space.operations == ("skip", "sepconv3x3", "scaled", "conv1x1")
    full = dict.fromkeys(space.choices, "scaled")
    for value in ("scaled", "skip+conv1x1", "sepconv3x3"):
        assert trains(space, full | {"edge03": value})
    network = space.build(full, (3, 8, 8), 5)
    edges = [edge for cell in network.modules() if isinstance(cell, Cell) for edge in cell.edges.values()]
    assert [tuple(edge.weight.shape) for edge in edges] == [(4, 1, 1, 1)] * 6 + [(8, 1, 1, 1)] * 6
    assert space.draw(full) is not None


def test_joined_operations_are_added():
    space = cell_space(nodes=2, operations=["skip+conv1x1", scaled], channels=3, cells_per_stage=1, stages=1)
    (cell,) = (m for m in space.build({"edge01": "skip+conv1x1"}, (3, 4, 4), 5).eval() if isinstance(m, Cell))
    x = torch.randn(2, 3, 4, 4)
    skip, conv = cell.edges.values()
    assert torch.equal(skip(x), x)
    assert torch.allclose(cell(x), x + conv(x))


def test_custom_operations_are_assumed_to_have_weights():
    """Two equal custom operations on one input are not merged. They count as neither vanishing nor linear."""
    space = cell_space(operations=["none", "skip", scaled, "avgpool3x3"], channels=2)
    empty = dict.fromkeys(space.choices, "none")

    def same(first, second):
        return space.key(empty | first) == space.key(empty | second)

    once = {"edge02": "skip", "edge13": "scaled", "edge23": "scaled"}
    assert not same({"edge01": "scaled", "edge13": "scaled"}, {"edge13": "scaled"})
    assert not same({"edge03": "scaled", "edge13": "scaled"}, {"edge03": "scaled"})
    assert not same({"edge01": "skip", **once}, {"edge03": "scaled"})
    assert same({"edge01": "skip", "edge13": "scaled"}, {"edge03": "scaled"})
    assert same({"edge01": "scaled", "edge13": "avgpool3x3"}, {"edge02": "scaled", "edge23": "avgpool3x3"})


SETTINGS = [
    {"inputs": inputs, "topology": topology, "output": output, "cells": cells}
    for inputs, topology, output, cells in itertools.product(
        (1, 2), ("all_pairs", "two_inputs", "edges"), ("last", "all", "unused"), ("shared", "normal_reduction", "each")
    )
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: "-".join(map(str, setting.values())))
def test_every_setting_builds_and_trains(setting):
    inputs, cells = setting["inputs"], setting["cells"]
    if setting["topology"] == "edges":
        setting = setting | {"topology": [(0, 1), (0, 2), (1, 2), (2, 3)] if inputs == 1 else [(0, 2), (1, 2), (2, 3)]}
    space = cell_space(
        nodes=4,
        operations=["skip", "conv1x1", "skip+maxpool3x3"],
        channels=2,
        cells_per_stage=1,
        stages=3,
        **setting,
    )
    # Without residual blocks between stages, two of the cells halve the resolution.
    layers = {"shared": 1, "normal_reduction": 2, "each": 5}[cells]
    graphs = space.graphs(space.at(0))
    assert len(graphs) == layers
    per_cell = len(space.choices) // layers
    assert len(space.choices) == layers * per_cell
    strided = [graph.strided for graph in graphs.values()]
    assert (
        strided
        == {
            "shared": [inputs == 2],
            "normal_reduction": [False, True],
            "each": [False, True, False, True, False],
        }[cells]
    )
    generator = random.Random(0)
    for architecture in (space.at(0), space.sample(generator)):
        assert trains(space, architecture, (3, 8, 5))


@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("cells", ["shared", "normal_reduction", "each"])
def test_stages_halve_the_resolution_and_double_the_channels(inputs, cells):
    space = cell_space(inputs=inputs, cells=cells, output="all", channels=2, cells_per_stage=2, stages=3)
    network, shapes = space.build(dict.fromkeys(space.choices, "conv3x3"), (3, 9, 12), 5), []
    for layer in network.modules():
        if isinstance(layer, Cell | Reduction):
            layer.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    network(torch.rand(2, 3, 9, 12))
    own = 4 - inputs
    stages = [[(own * c, h, w)] * 2 for c, h, w in ((2, 9, 12), (4, 5, 6), (8, 3, 3))]
    # Between stages, a residual block returns the channels of one node, and a cell those of all its nodes.
    halvings = [(c if inputs == 1 and cells == "shared" else own * c, h, w) for c, h, w in ((4, 5, 6), (8, 3, 3))]
    assert shapes == [*stages[0], halvings[0], *stages[1], halvings[1], *stages[2]]


@pytest.mark.parametrize("topology", ["all_pairs", "two_inputs"])
@pytest.mark.parametrize("nodes", [2, 3, 12])
def test_cells_of_few_and_many_nodes(topology, nodes):
    space = cell_space(
        nodes=nodes, topology=topology, operations=["skip", "conv1x1"], channels=2, cells_per_stage=1, stages=1
    )
    pairs = math.prod(max(1, math.comb(k, 2)) for k in range(1, nodes)) if topology == "two_inputs" else 1
    edges = 2 * (nodes - 1) if topology == "two_inputs" else math.comb(nodes, 2)
    assert space.size == pairs * 2**edges
    architecture = space.sample(random.Random(0))
    assert len(space.graphs(architecture)[""].edges()) == edges
    assert trains(space, architecture)


def test_cells_of_one_name_have_one_architecture_and_weights_of_their_own():
    space = cell_space(cells="normal_reduction", channels=2, cells_per_stage=2, stages=2, operations=["conv1x1", "conv3x3"])
    architecture = {name: "conv1x1" if name.startswith("normal") else "conv3x3" for name in space.choices}
    network = space.build(architecture, (3, 8, 8), 5)
    cells = [m for m in network if isinstance(m, Cell)]
    kernels = [[edge[1].kernel_size for edge in cell.edges.values()] for cell in cells]
    assert kernels == [[(1, 1)] * 6, [(1, 1)] * 6, [(3, 3)] * 6, [(1, 1)] * 6, [(1, 1)] * 6]
    # Operations on the input of the cell that halves the resolution have a stride.
    assert [edge[1].stride[0] for edge in cells[2].edges.values()] == [2, 2, 1, 2, 1, 1]
    assert len({id(p) for p in network.parameters()}) == len(list(network.parameters()))
    assert not torch.equal(cells[0].edges["edge01"][1].weight, cells[1].edges["edge01"][1].weight)


class TestLayers:
    def test_stages_of_cells_with_halvings_between(self):
        assert staged_layers([2, 1], "shared") == [("", False), ("", False), ("", True), ("", False)]
        assert staged_layers([1, 2], "shared", blocks=True) == [("", False), None, ("", False), ("", False)]
        assert staged_layers([1, 1, 1], "normal_reduction") == [
            ("normal", False),
            ("reduction", True),
            ("normal", False),
            ("reduction", True),
            ("normal", False),
        ]
        assert staged_layers([1, 1], "each") == [("cell01", False), ("cell02", True), ("cell03", False)]
        assert staged_layers([1, 1], "each", blocks=True) == [("cell01", False), None, ("cell03", False)]
        assert staged_layers([3], "normal_reduction") == [("normal", False)] * 3

    def test_cells_after_a_third_and_two_thirds_halve_the_resolution(self):
        assert layers_with_reductions(3, "shared") == [("", False), ("", True), ("", True)]
        assert layers_with_reductions(5, "normal_reduction") == [
            ("normal", False),
            ("reduction", True),
            ("normal", False),
            ("reduction", True),
            ("normal", False),
        ]
        assert layers_with_reductions(4, "each") == [
            ("cell01", False),
            ("cell02", True),
            ("cell03", True),
            ("cell04", False),
        ]
        assert [i for i, (_, halves) in enumerate(layers_with_reductions(8, "shared")) if halves] == [2, 5]
        assert [i for i, (_, halves) in enumerate(layers_with_reductions(20, "shared")) if halves] == [6, 13]

    @pytest.mark.parametrize("count", [2, 0, -1])
    def test_too_few_layers_are_refused(self, count):
        with pytest.raises(ValueError, match=f"^layers must be at least 3.*, got {count}$"):
            layers_with_reductions(count, "shared")

    @pytest.mark.parametrize("stages", [[], [0], [2, 0, 1], [-1]])
    def test_stages_without_cells_are_refused(self, stages):
        with pytest.raises(ValueError, match=f"stage.* cell .*got {re.escape(str(stages))}$"):
            staged_layers(stages, "shared")


def conv3x3(channels, stride):
    return nn.Conv2d(channels, channels, 3, stride, 1)


class TestRefused:
    @pytest.mark.parametrize(
        ("settings", "parts"),
        [
            ({"operations": ["skip", "sepconv3"]}, ("unknown operation 'sepconv3'", "'sepconv3x3'?")),
            ({"operations": ["skip+conv2x2"]}, ("unknown operation 'conv2x2'", "'conv7x7'?")),
            ({"operations": ["wavelet"]}, ("unknown operation 'wavelet'", ", ".join(OPERATIONS))),
            ({"operations": ["skip+"]}, ("unknown operation ''", ", ".join(OPERATIONS))),
            ({"operations": [conv3x3]}, ("(channels, stride)", f"got {conv3x3!r}")),
            ({"operations": [3]}, ("(channels, stride)", "got 3")),
            ({"operations": [nn.Conv2d(1, 1, 1)]}, ("(channels, stride)", f"got {nn.Conv2d(1, 1, 1)!r}")),
            ({"operations": ["skip", "skip"]}, ("name", "'skip' twice")),
            ({"operations": [scaled, scaled]}, ("name", "'scaled' twice")),
            ({"nodes": 0}, ("nodes must be at least 1", "got 0")),
            ({"channels": 0}, ("channels must be at least 1", "got 0")),
            ({"cells_per_stage": -1}, ("cells_per_stage must be at least 1", "got -1")),
            ({"stages": 0}, ("stages must be at least 1", "got 0")),
            ({"nodes": 1}, ("at least one node",)),
            ({"nodes": 2, "inputs": 2}, ("at least one node",)),
            ({"inputs": 3}, ("1 or 2 inputs", "got 3")),
            ({"cells": "all"}, ("cells", "shared, normal_reduction, each", "got 'all'")),
            ({"output": "first"}, ("output", "last, all, unused", "got 'first'")),
            ({"topology": "ring"}, ("topology", "all_pairs, two_inputs", "got 'ring'")),
            ({"topology": [[1, 0]]}, ("edge", "to a later", "got [1, 0]")),
            ({"topology": [[0, 1], [0, 1]]}, ("[0, 1]", "twice")),
            ({"topology": [[0, 1], [1, 3]]}, ("nothing feeds", "node 2")),
            ({"topology": []}, ("at least one node",)),
        ],
    )
    def test_settings(self, settings, parts):
        with pytest.raises(ValueError) as error:
            cell_space(**settings)
        assert all(part in str(error.value) for part in parts), str(error.value)

    def test_functions_without_a_name(self):
        with pytest.raises(ValueError, match=r"operation .*OPERATIONS.*<lambda> at 0x"):
            cell_space(operations=["skip", lambda channels, stride: nn.Identity()])

    @pytest.mark.parametrize("inputs", [1, 2])
    @pytest.mark.parametrize("shape", [(3, 3, 8), (3, 8, 3), (1, 1, 1)])
    def test_images_that_are_too_small(self, inputs, shape):
        space = cell_space(inputs=inputs, channels=2, cells_per_stage=1, stages=3)
        with pytest.raises(ValueError) as error:
            space.build(space.at(0), shape, 5)
        parts = ("4 x 4 pixels", "2 times", f"got {shape[1]} x {shape[2]}", "stages")
        assert all(part in str(error.value) for part in parts), str(error.value)
        assert space.build(space.at(1), (3, 4, 5), 5)(torch.rand(2, 3, 4, 5)).shape == (2, 5)

    def test_no_channels_at_all(self):
        with pytest.raises(ValueError, match=r"^channels must be at least 1, got 0$"):
            assemble("mine", topology=all_pairs(3), operations=["skip"], layers=[("", False)], channels=0)


def no_module(channels, stride):
    return torch.relu


def needs_many(channels, stride):
    raise RuntimeError("at least 99 channels\nare needed")


def passes_stride_over(channels, stride):
    return nn.Conv2d(channels, channels, 3, padding=1)


def rounds_down(channels, stride):
    return nn.AvgPool2d(stride, stride)


def widens(channels, stride):
    return nn.Conv2d(channels, channels + 1, 1, stride)


def in_place(channels, stride):
    return nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 3, stride, 1))


@pytest.mark.parametrize(
    ("operation", "parts"),
    [
        (no_module, ("at stride 1", "4 channels", "TypeError", "torch.nn.Module", f"got {torch.relu!r}")),
        (needs_many, ("at stride 1", "4 channels", "RuntimeError: at least 99 channels")),
        (passes_stride_over, ("at stride 2", "(N, C, ceil(H/2), ceil(W/2))", "got (2, 8, 9, 6) for (2, 8, 9, 6)")),
        (rounds_down, ("at stride 2", "(N, C, ceil(H/2), ceil(W/2))", "got (2, 8, 4, 3) for (2, 8, 9, 6)")),
        (widens, ("at stride 1", "to (N, C, H, W)", "got (2, 5, 9, 6) for (2, 4, 9, 6)")),
        (in_place, ("at stride 1", "changes its input", "inplace=True")),
    ],
)
def test_custom_operations_that_break_a_cell_are_refused(operation, parts):
    with pytest.raises(ValueError) as error:
        cell_space(operations=["skip", operation], channels=4, cells="normal_reduction")
    assert f"operation '{operation.__name__}'" in str(error.value)
    # The message has only the first line of the operation's own error.
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_custom_operations_are_tried_at_a_stride_only_where_cells_have_one():
    cell_space(operations=["skip", passes_stride_over, rounds_down], channels=4)
    state = torch.random.get_rng_state()
    cell_space(operations=["skip", scaled], channels=4, inputs=2)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("operations", [["skip", "skip+none"], ["skip+skip"], ["conv1x1+skip", "skip+conv1x1"]])
def test_sets_with_a_repeated_operation_are_refused(operations):
    message = f"set of operations .*once.*, got '{re.escape(operations[-1])}'$"
    with pytest.raises(ValueError, match=message):
        cell_space(operations=operations)


def test_the_remedy_for_small_images_suits_the_space():
    for make in (darts, robnet):
        with pytest.raises(ValueError, match=r"2 times, got 3 x 3; .*larger images"):
            make(4, 3).build(make(4, 3).at(0), (3, 3, 3), 5)
