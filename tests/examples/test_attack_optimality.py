"""The benchmark of optimality: its counting network, its areas, and the stored tables."""

import copy
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from evaluators import L2, PGD, Linf, radii
from evaluators.norms import L1

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "examples" / "results"
NAMES = ("cifar_networks", "counted_network", "optimality_attacks", "optimality")


@pytest.fixture(scope="module")
def benchmark():
    """The modules of the benchmark, by name. They import each other as scripts do."""
    folder = str(ROOT / "tests" / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield {name: __import__(name) for name in NAMES}
    finally:
        sys.path.remove(folder)
        for name in NAMES:
            sys.modules.pop(name, None)


@pytest.fixture
def counted(benchmark, linear, images):
    """A factory of counted linear networks: the network, images near the middle of the pixel range, and labels."""

    def make(norm, budget=1000, count=6, classes=2):
        network, x = linear(classes), images(count, low=0.45, high=0.55)
        with torch.no_grad():
            y = network(x).argmax(1)
        return benchmark["counted_network"].CountedNetwork(network, x, y, norm, budget).eval(), x, y

    return make


def boundary_steps(network, x, y):
    """Returns the steps from images to the boundary of a linear network of two classes that are shortest in L2, (N, D)."""
    weight = network[1].weight.detach()
    slope = weight[1 - y] - weight[y]
    logits = network(x).detach()
    gap = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])).squeeze(1)
    return (gap / slope.square().sum(1))[:, None] * slope


def test_an_attack_of_20_steps_costs_20_gradients(counted):
    network, x, y = counted(Linf())
    radii(network, x, y, PGD(steps=20, random_start=False), [1e-6], batch_size=len(x))
    # The clean logits, 20 forward and 20 backward passes, and the logits at the end.
    assert network.passes.tolist() == [1 + 2 * 20 + 1] * len(x)


def test_each_backward_pass_of_one_graph_counts(counted):
    network, x, _ = counted(L2(), classes=3)
    points = x.clone().requires_grad_()
    logits = network(points)
    for label in range(3):
        torch.autograd.grad(logits[:, label].sum(), points, retain_graph=True)
    assert network.passes.tolist() == [4] * len(x)
    with torch.no_grad():
        network(x)
    assert network.passes.tolist() == [5] * len(x)


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()], ids=lambda norm: norm.name)
def test_the_smallest_misclassified_point_is_kept(norm, counted):
    network, x, y = counted(norm)
    steps = boundary_steps(network.network, x, y).view_as(x)
    for share in (3.0, 1.01, 0.99, 2.0):
        network(x + share * steps)
    torch.testing.assert_close(network.sizes, norm.size(1.01 * steps).double(), rtol=1e-4, atol=0)


def test_points_outside_the_pixel_range_are_not_kept(counted):
    network, x, y = counted(L2())
    outside = x + boundary_steps(network.network, x, y).view_as(x) * 1.5
    outside[:, 0, 0, 0] = 1.001
    assert (network(outside).argmax(1) != y).any()
    assert network.sizes.isinf().all()


def test_nothing_is_kept_after_the_budget_and_the_attack_is_stopped(counted, benchmark):
    network, x, y = counted(L2(), budget=3)
    for _ in range(3):
        network(x.detach())
    crossed = x + 1.5 * boundary_steps(network.network, x, y).view_as(x)
    with pytest.raises(benchmark["counted_network"].BudgetSpentError):
        network(crossed)
    assert network.sizes.isinf().all()


def test_calls_with_fewer_points_count_for_their_images(counted):
    network, x, y = counted(L2())
    chosen = torch.tensor([1, 4, 5])
    network((x + 1.5 * boundary_steps(network.network, x, y).view_as(x))[chosen])
    assert network.passes.tolist() == [0, 1, 0, 0, 1, 1]
    assert network.sizes.isfinite().tolist() == [False, True, False, False, True, True]
    with pytest.raises(ValueError, match=re.escape("must keep the order of the images, got points near the images [4, 1]")):
        network(x[[4, 1]])


def test_a_counted_network_is_not_copied(counted):
    with pytest.raises(TypeError, match="cannot be copied, because passes of the copy would not be counted"):
        copy.deepcopy(counted(L2())[0])


def test_a_stopped_attack_leaves_what_it_found(benchmark, counted):
    network, x, y = counted(L2())
    steps = boundary_steps(network.network, x, y).view_as(x)

    def attack(net, x, y):
        for share in (2.0, 1.5, 1.2):
            net(x + share * steps)

    measured = benchmark["optimality"].measure(attack, network.network, x, y, L2(), budget=2)
    assert measured["radii"] == pytest.approx(L2().size(1.5 * steps).tolist(), rel=1e-3)
    assert measured["passes"] == [2] * len(x)


def test_areas_by_hand(benchmark):
    shares, largest = benchmark["optimality"].optimalities(
        {"near": [1.0, 2.0, 4.0], "far": [2.0, None, 4.0], "none": [None] * 3}
    )
    assert largest == 4.0
    # The best curve has an area of (3 + 2 + 0) / 3, the second one of (2 + 0 + 0) / 3.
    assert shares == {"near": 1.0, "far": pytest.approx(2 / 5), "none": 0.0}


def test_attacks_that_lack_images_or_a_network_are_left_out(benchmark):
    both, one = {"radii": [1.0, 2.0], "passes": [3, 5], "seconds": 1.0}, {"radii": [1.0], "passes": [3], "seconds": 1.0}
    stored = {"measured": {"l2/normal": {"ours/FMN": both, "foolbox/FMN": both, "ours/DDN": both}}}
    stored["measured"]["l2/adversarial"] = {"ours/FMN": both, "foolbox/FMN": one}
    assert benchmark["optimality"].rows(stored, "l2") == [("FMN", "ours", 1.0, 1.0, 1.0, 4.0, 2.0)]


def test_the_stored_tables_are_those_of_the_stored_radii(benchmark):
    stored = json.loads((RESULTS / "attack_optimality.json").read_text(encoding="utf-8"))
    text = (RESULTS / "attack_optimality.md").read_text(encoding="utf-8")
    for norm in ("linf", "l2", "l1"):
        assert benchmark["optimality"].markdown(stored, norm) in text
        best = benchmark["optimality"].rows(stored, norm)
        assert next(row for row in best if row[1] == "ours")[-3] >= best[0][-3] - 0.005
    for part in stored["measured"].values():
        for one in part.values():
            assert max(one["passes"]) <= stored["settings"]["budget"]
            assert all(size is None or 0 < size < math.inf for size in one["radii"])
