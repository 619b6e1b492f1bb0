"""nasnet: its size, and the structure of cells and stages in the paper."""

import itertools
import random

import pytest
import torch

from search_spaces import nasnet
from search_spaces.cells.skeleton import Cell


@pytest.fixture(autouse=True)
def repeatable():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def test_size():
    space = nasnet()
    assert space.size == (56_700 * 13**10) ** 2
    assert 56_700 == 3 * 6 * 10 * 15 * 21
    assert f"{space.size:.2e}" == "6.11e+31"
    # Each of five blocks has one choice of inputs and two of operations.
    assert len(space.choices) == 2 * 5 * 3
    assert len(space.operations) == 13
    for cell, node in itertools.product(("normal", "reduction"), range(2, 7)):
        pairs = list(itertools.combinations_with_replacement(range(node), 2))
        assert space.choices[f"{cell}_node{node}_inputs"].values == tuple(f"{a},{b}" for a, b in pairs)


def test_two_operations_may_have_one_input():
    space = nasnet()
    architecture = {name: choice.values[0] for name, choice in space.choices.items()}
    assert architecture["normal_node6_inputs"] == "0,0"
    assert space.graphs(architecture)["normal"].nodes == ((("skip", 0), ("skip", 0)),) * 5
    # Each block adds the first input to itself.
    (cell, *_) = (m for m in space.build(architecture, (3, 8, 8), 10).modules() if isinstance(m, Cell))
    cell.preprocess[0] = cell.preprocess[1] = torch.nn.Identity()
    x = torch.rand(1, 16, 4, 4)
    assert torch.equal(cell(x, x + 1), 2 * torch.cat([x] * 5, 1))


def test_blocks_that_feed_no_other_are_the_output():
    space = nasnet(2, 1, 2)
    generator, widths = random.Random(0), set()
    for _ in range(12):
        architecture = space.sample(generator)
        network = space.build(architecture, (3, 8, 8), 10)
        channel_counts = []
        for cell in network.cells:
            cell.register_forward_hook(
                lambda module, inputs, output, channel_counts=channel_counts: channel_counts.append(output.shape[1])
            )
        assert network(torch.rand(2, 3, 8, 8)).shape == (2, 10)
        for cell, name, width in zip(network.cells, ("normal", "reduction", "normal"), channel_counts, strict=True):
            picked = [architecture[f"{name}_node{node}_inputs"].split(",") for node in range(2, 7)]
            unused = [node for node in range(2, 7) if str(node) not in itertools.chain(*picked)]
            assert list(cell.graph.outputs) == unused
            assert width == len(unused) * cell.channels
            widths.add(len(unused))
    assert len(widths) >= 3


@pytest.mark.parametrize(("per_stage", "stages"), [(1, 1), (2, 2), (1, 3), (3, 2)])
def test_stages_of_normal_cells_with_a_reduction_cell_between(per_stage, stages):
    space = nasnet(2, per_stage, stages)
    network = space.build(space.sample(random.Random(0)), (3, 16, 16), 10)
    kinds = ["reduction" if cell.graph.strided else "normal" for cell in network.cells]
    assert kinds == (["normal"] * per_stage + ["reduction"]) * (stages - 1) + ["normal"] * per_stage
    channels = [cell.channels for cell in network.cells]
    assert channels == [2 * 2 ** sum(k == "reduction" for k in kinds[: i + 1]) for i in range(len(kinds))]


def test_with_one_stage_there_is_no_reduction_cell():
    assert set(nasnet(2, 1, 1).graphs(nasnet(2, 1, 1).at(0))) == {"normal"}


@pytest.mark.parametrize("setting", ["channels", "cells_per_stage", "stages"])
def test_settings_below_1_are_refused(setting):
    with pytest.raises(ValueError, match="at least"):
        nasnet(**{setting: 0})
