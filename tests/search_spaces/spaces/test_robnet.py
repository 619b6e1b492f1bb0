"""robnet: its sizes, sets of operations on edges, and batch norm without scale and shift."""

import random

import pytest
import torch
from torch import nn

from search_spaces import darts, robnet
from search_spaces.cells.skeleton import Cell


@pytest.fixture(autouse=True)
def repeatable():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def test_size():
    assert robnet().size == 4**14 == 268_435_456
    assert robnet(layers=3, shared=False).size == 4 ** (14 * 3)
    assert robnet(layers=20, shared=False).size == 4 ** (14 * 20)
    assert robnet().operations == ("skip", "sepconv3x3")


def test_there_is_an_edge_from_every_node_to_every_later_one():
    edges = [f"edge{i}{j}" for j in range(2, 6) for i in range(j)]
    assert list(robnet().choices) == edges
    assert len(edges) == 14
    assert list(robnet(layers=3, shared=False).choices) == [f"cell0{n}_{edge}" for n in (1, 2, 3) for edge in edges]


def test_sets_of_operations_are_added():
    space = robnet(2, 3)
    empty = dict.fromkeys(space.choices, "none")
    network = space.build(empty | {"edge02": "skip+sepconv3x3"}, (3, 8, 8), 10).eval()
    cell = network.cells[0]
    cell.preprocess[0] = cell.preprocess[1] = nn.Identity()
    x, zeros = torch.rand(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    skip, conv = cell.edges.values()
    assert torch.allclose(cell(x, x), torch.cat([skip(x) + conv(x), zeros, zeros, zeros], 1))
    assert torch.equal(skip(x), x)


@pytest.mark.parametrize("shared", [True, False])
def test_batch_norm_in_cells_only_normalises(shared):
    space = robnet(2, 4, shared)
    network = space.build(space.sample(random.Random(0)), (3, 8, 8), 10)
    inside = {id(m) for cell in network.modules() if isinstance(cell, Cell) for m in cell.modules()}
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) > 10
    for norm in norms:
        assert norm.affine == (norm.weight is not None) == (norm.bias is not None) == (id(norm) not in inside)
    # Only the batch norm of the stem has a scale and a shift.
    assert sum(norm.affine for norm in norms) == 1
    # The running statistics are kept.
    assert all(norm.track_running_stats for norm in norms)


def test_batch_norm_of_other_spaces_scales_and_shifts():
    network = darts(2, 3).build(darts(2, 3).sample(random.Random(0)), (3, 8, 8), 10)
    assert all(norm.affine for norm in network.modules() if isinstance(norm, nn.BatchNorm2d))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("layers", "halving"), [(3, [1, 2]), (8, [2, 5])])
def test_cells_after_a_third_and_two_thirds_halve_the_resolution(shared, layers, halving):
    space = robnet(2, layers, shared)
    network = space.build(space.sample(random.Random(0)), (3, 8, 8), 10)
    assert [number for number, cell in enumerate(network.cells) if cell.graph.strided] == halving
    channels = [2 * 2 ** sum(h <= number for h in halving) for number in range(layers)]
    assert [cell.channels for cell in network.cells] == channels
    assert all(cell.graph.outputs == (2, 3, 4, 5) for cell in network.cells)
    assert network.head[2].in_features == 4 * 8


def test_cells_share_their_architecture_or_have_each_their_own():
    shared, free = robnet(2, 3), robnet(2, 3, shared=False)
    generator = random.Random(0)
    network = shared.build(shared.sample(generator), (3, 8, 8), 10)
    assert len({cell.graph.nodes for cell in network.cells}) == 1
    architecture = free.sample(generator)
    network = free.build(architecture, (3, 8, 8), 10)
    for number, cell in enumerate(network.cells, start=1):
        own = {name[7:]: value for name, value in architecture.items() if name.startswith(f"cell0{number}_")}
        assert cell.graph.nodes == shared.graphs(own)[""].nodes
    assert len({cell.graph.nodes for cell in network.cells}) == 3


@pytest.mark.parametrize(("settings", "message"), [({"channels": 0}, "channels must"), ({"layers": 2}, "layers must")])
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{message} be at least "):
        robnet(**settings)


def test_a_node_without_inputs_has_no_effect():
    """Without the shift of batch norm, a convolution of zeros is zero, also after training."""
    space = robnet(4, 3)
    live = dict.fromkeys(space.choices, "sepconv3x3") | {"edge02": "none", "edge12": "none"}
    cut = live | {"edge23": "none", "edge24": "none", "edge25": "none"}
    assert space.canonical(live) == space.canonical(cut)
    assert space.canonical(live) != space.canonical(live | {"edge02": "skip"})
    networks = []
    for architecture in (live, cut):
        torch.manual_seed(0)
        network = space.build(architecture, (3, 8, 8), 5)
        for value in network.parameters():
            torch.nn.init.uniform_(value, 0.1, 0.1 + 1e-6)
        for seed in range(3):
            network.train()(torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(seed)))
        networks.append(network.eval())
    x = torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(networks[0](x), networks[1](x), atol=1e-5)
