"""darts: its size, and the network around the cells, against the paper and the authors' code."""

import random

import pytest
import torch

from search_spaces import darts
from search_spaces.cells.skeleton import Cell, Reduction
from search_spaces.operations import FactorisedReduce


@pytest.fixture(autouse=True)
def repeatable():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def cells_of(network):
    return [module for module in network.modules() if isinstance(module, Cell)]


def watched(network, shape=(3, 16, 16)):
    """Returns the output of the stem, and the inputs and the output of each cell, for one forward pass."""
    seen = []
    network.stem.register_forward_hook(lambda module, inputs, output: seen.append(output))
    for cell in network.cells:
        cell.register_forward_hook(lambda module, inputs, output: seen.append((inputs, output)))
    network(torch.rand(2, *shape))
    return seen[0], seen[1:]


def test_size():
    space = darts()
    assert space.size == (180 * 8**8) ** 2
    assert f"{space.size:.2e}" == "9.12e+18"
    assert f"{(180 * 7**8) ** 2:.2e}" == "1.08e+18"
    assert 180 == 1 * 3 * 6 * 10
    # A cell has eight operation choices and three input choices.
    assert len(space.choices) == 2 * (8 + 3)
    assert len(space.operations) == 7


def test_nodes_pick_two_different_earlier_nodes():
    space = darts()
    for cell in ("normal", "reduction"):
        assert f"{cell}_node2_inputs" not in space.choices
        for node in (3, 4, 5):
            pairs = [tuple(map(int, value.split(","))) for value in space.choices[f"{cell}_node{node}_inputs"].values]
            assert pairs == [(a, b) for a in range(node) for b in range(a + 1, node)]


def test_every_cell_sees_the_outputs_of_the_two_before_it():
    network = darts(2, 6).build(darts(2, 6).sample(random.Random(0)), (3, 16, 16), 10)
    stem, cells = watched(network)
    before = last = stem
    for inputs, output in cells:
        assert inputs[0] is before
        assert inputs[1] is last
        before, last = last, output


@pytest.mark.parametrize(("layers", "reductions"), [(3, [1, 2]), (8, [2, 5]), (20, [6, 13])])
def test_cells_after_a_third_and_two_thirds_halve_the_resolution_and_double_the_channels(layers, reductions):
    space = darts(3, layers)
    network = space.build(space.sample(random.Random(1)), (3, 18, 10), 10)
    stem, cells = watched(network, (3, 18, 10))
    # The stem has three times the channels of a node. The output of a cell has four times the channels of a
    # node, because it concatenates the four inner nodes.
    assert stem.shape == (2, 9, 18, 10)
    halvings = 0
    for number, (cell, (_, output)) in enumerate(zip(network.cells, cells, strict=True)):
        halvings += number in reductions
        assert cell.graph.strided == (number in reductions)
        assert output.shape == (2, 4 * 3 * 2**halvings, *((18, 10), (9, 5), (5, 3))[halvings])
        assert cell.graph.outputs == (2, 3, 4, 5)


def test_inputs_pass_a_convolution_and_after_a_reduction_the_older_input_is_halved():
    space = darts(2, 6)
    network = space.build(space.sample(random.Random(2)), (3, 16, 16), 10)
    kinds = [[type(layer).__name__ for layer in cell.preprocess] for cell in cells_of(network)]
    plain, halved = ["Sequential", "Sequential"], ["FactorisedReduce", "Sequential"]
    assert kinds == [plain, plain, plain, halved, plain, halved]
    for cell in cells_of(network):
        for layer in cell.preprocess:
            if isinstance(layer, FactorisedReduce):
                assert layer.even.out_channels + layer.odd.out_channels == cell.channels
            else:
                assert [type(part).__name__ for part in layer] == ["ReLU", "Conv2d", "BatchNorm2d"]
                assert (layer[1].kernel_size, layer[1].out_channels) == ((1, 1), cell.channels)


def test_operations_on_the_inputs_of_a_reduction_cell_have_a_stride():
    space = darts(2, 3)
    architecture = {name: "sepconv3x3" if "_op" in name else space.choices[name].values[-1] for name in space.choices}
    architecture["reduction_node5_inputs"] = "1,4"
    cell = cells_of(space.build(architecture, (3, 8, 8), 10))[1]
    assert {name: edge[1].stride[0] for name, edge in cell.edges.items()} == {
        "edge02": 2,
        "edge12": 2,
        "edge13": 2,
        "edge23": 1,
        "edge24": 1,
        "edge34": 1,
        "edge15": 2,
        "edge45": 1,
    }


def test_there_are_no_residual_blocks_and_one_stem():
    network = darts(2, 5).build(darts(2, 5).at(0), (3, 8, 8), 7)
    assert [name for name, _ in network.named_children()] == ["stem", "cells", "head"]
    assert not any(isinstance(module, Reduction) for module in network.modules())
    assert [type(layer).__name__ for layer in network.stem] == ["Conv2d", "BatchNorm2d"]
    assert [type(layer).__name__ for layer in network.head] == ["AdaptiveAvgPool2d", "Flatten", "Linear"]
    assert network.head[2].out_features == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 0}, "^channels must be at least 1.*, got 0$"),
        ({"layers": 2}, "^layers must be at least 3.*, got 2$"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        darts(**settings)
