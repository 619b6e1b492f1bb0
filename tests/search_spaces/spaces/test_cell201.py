"""cell201 against the published table of NAS-Bench-201, and its canonical form against the functions of the cells."""

import csv
import functools
import gzip
import itertools
import random

import pytest
import torch

from evaluators import macs, parameters
from search_spaces.cells.skeleton import Cell
from search_spaces.operations import OPERATIONS
from search_spaces.spaces.cell201 import EDGE_OPERATIONS, cell201

NAMES = {
    "none": "none",
    "skip_connect": "skip",
    "avg_pool_3x3": "avgpool3x3",
    "nor_conv_1x1": "conv1x1",
    "nor_conv_3x3": "conv3x3",
}
EDGES = {"edge01": (0, 1), "edge02": (0, 2), "edge12": (1, 2), "edge03": (0, 3), "edge13": (1, 3), "edge23": (2, 3)}
SPACE = cell201()
EMPTY = dict.fromkeys(EDGES, "none")


@pytest.fixture(autouse=True)
def repeatable():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def cells():
    return [dict(zip(EDGES, operations, strict=True)) for operations in itertools.product(EDGE_OPERATIONS, repeat=6)]


@functools.cache
def all_forms():
    """Returns a mapping from every cell to its canonical form, both as tuples."""
    return {tuple(cell.values()): tuple(SPACE.canonical(cell).values()) for cell in cells()}


def parsed(text):
    """Returns the architecture of a string such as |skip_connect~0|+|none~0|none~1|+|none~0|none~1|none~2|."""
    architecture = {}
    for node, arriving in enumerate(text.split("+"), start=1):
        for edge in arriving.strip("|").split("|"):
            operation, source = edge.split("~")
            architecture[f"edge{source}{node}"] = NAMES[operation]
    return architecture


def live(architecture):
    """Returns the edges on a path to the output that have a nonzero input or are convolutions."""
    forward, backward = {0}, {3}
    for edge, (i, j) in sorted(EDGES.items(), key=lambda item: item[1][1]):
        # A convolution of zeros is a learned constant, which is nonzero.
        if architecture[edge] != "none" and (i in forward or architecture[edge].startswith("conv")):
            forward.add(j)
    for edge, (i, j) in sorted(EDGES.items(), key=lambda item: -item[1][0]):
        if architecture[edge] != "none" and j in backward:
            backward.add(i)
    return {e for e, (i, j) in EDGES.items() if architecture[e] != "none" and j in backward
            and (i in forward or architecture[e].startswith("conv"))}  # fmt: skip


def random_cell(architecture, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cell = Cell(SPACE.graphs(architecture)[""], OPERATIONS, 4).eval()
        for name, value in cell.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                # The values are random, so that the constants of batch norm have an effect. All but the kernels ("1.weight")
                # are positive, because variances must be positive.
                value.copy_(torch.rand(value.shape) + 0.1 if "1.weight" not in name else torch.randn(value.shape))
    return cell


def share(source, target, edges):
    """Copies the weights of edges, given a mapping from target edges to source edges."""
    for to, of in edges.items():
        if to in target.edges:
            target.edges[to].load_state_dict(source.edges[of].state_dict())


class TestTable:
    @pytest.fixture
    def table(self, shared_data):
        with gzip.open(shared_data / "nasbench201-robustness.csv.gz", "rt") as file:
            return {row["arch"]: (row["params_m"], row["flops_m"]) for row in csv.DictReader(file)}

    def test_size_is_that_of_the_table(self, table):
        assert cell201().size == 15625 == len(table)
        assert {tuple(parsed(text)[edge] for edge in EDGES) for text in table} == {tuple(c.values()) for c in cells()}

    def test_parameters_and_macs_are_exactly_those_of_the_table(self, table):
        """Tests a sample of the 9,445 cells whose numbers are in the table. The table rounds to three decimals."""
        known = self.known(table)
        self.compare(known, [known[0], known[-1], *random.Random(0).sample(known, 60)])

    @pytest.mark.slow
    def test_all_parameters_and_macs_are_exactly_those_of_the_table(self, table):
        known = self.known(table)
        assert len(known) == 9445
        self.compare(known, known)

    def known(self, table):
        return sorted((float(parameters), float(macs), text) for text, (parameters, macs) in table.items() if parameters)

    def compare(self, known, chosen):
        """Compares parameters, which depend on the convolutions alone, and MACs, which also depend on the poolings."""
        assert len(known) > 1000
        counts = {}
        for wanted, wanted_macs, text in chosen:
            architecture = parsed(text)
            kind = tuple(sorted(architecture.values()))
            if kind not in counts:
                network = SPACE.build(architecture, (3, 32, 32), 10)
                counts[kind] = parameters(network), macs(network, (3, 32, 32))
            assert round(counts[kind][0] / 1e6, 3) == wanted, text
            assert counts[kind][1] / 1e6 == pytest.approx(wanted_macs, rel=2e-4, abs=1e-3), text


class TestNetwork:
    def test_cell_is_a_sum_over_edges(self):
        operations = ("conv3x3", "skip", "conv1x1", "avgpool3x3", "skip", "conv3x3")
        architecture = dict(zip(EDGES, operations, strict=True))
        cell, x = random_cell(architecture), torch.randn(2, 4, 6, 6)
        node1 = cell.edges["edge01"](x)
        node2 = x + cell.edges["edge12"](node1)
        pooled = torch.empty_like(x)
        for row, column in itertools.product(range(6), repeat=2):
            window = x[:, :, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            pooled[:, :, row, column] = window.mean((2, 3))
        assert torch.allclose(cell(x), pooled + node1 + cell.edges["edge23"](node2), atol=1e-5)

    def test_convolutions_are_relu_convolution_batch_norm(self):
        for operation, kernel in (("conv1x1", 1), ("conv3x3", 3)):
            edge = random_cell(EMPTY | {"edge03": operation}).edges["edge03"]
            assert [type(layer).__name__ for layer in edge] == ["ReLU", "Conv2d", "BatchNorm2d"]
            assert edge[1].kernel_size == (kernel, kernel)
            assert edge[1].bias is None

    def test_empty_cell_returns_zeros(self):
        assert torch.equal(random_cell(EMPTY)(torch.randn(2, 4, 5, 5)), torch.zeros(2, 4, 5, 5))

    @pytest.mark.parametrize(("channels", "per_stage", "stages"), [(4, 1, 1), (4, 2, 2), (6, 1, 3)])
    def test_stages_double_the_channels_and_halve_the_resolution(self, channels, per_stage, stages):
        network = cell201(channels, per_stage, stages).build(EMPTY | {"edge03": "skip"}, (3, 16, 16), 10)
        shapes = []
        for layer in network:
            layer.register_forward_hook(
                lambda module, inputs, output: shapes.append((type(module).__name__, output.shape[1:]))
            )
        network(torch.rand(2, 3, 16, 16))
        expected = [("Sequential", (channels, 16, 16))]
        for stage in range(stages):
            shape = (channels * 2**stage, 16 // 2**stage, 16 // 2**stage)
            expected += [("Reduction", shape)] * (stage > 0) + [("Cell", shape)] * per_stage
        assert [(name, tuple(shape)) for name, shape in shapes] == [*expected, ("Sequential", (10,))]

    @pytest.mark.parametrize("setting", ["channels", "cells_per_stage", "stages"])
    @pytest.mark.parametrize("value", [0, -3])
    def test_settings_below_1_are_refused(self, setting, value):
        with pytest.raises(ValueError, match=f"^{setting} must be at least 1, got {value}$"):
            cell201(**{setting: value})

    @pytest.mark.parametrize(
        ("stages", "shape", "smallest"), [(3, (1, 3, 8), 4), (3, (1, 8, 3), 4), (2, (3, 1, 1), 2), (4, (1, 7, 7), 8)]
    )
    def test_images_too_small_are_refused(self, stages, shape, smallest):
        message = f"{smallest} x {smallest} pixels.* {stages - 1} times, got {shape[1]} x {shape[2]}; .*stages"
        with pytest.raises(ValueError, match=message):
            cell201(4, 1, stages).build(EMPTY, shape, 10)

    @pytest.mark.parametrize(("stages", "side"), [(1, 1), (2, 2), (3, 4), (3, 5), (3, 7)])
    def test_smallest_images_pass(self, stages, side):
        network = cell201(4, 1, stages).build(EMPTY | {"edge03": "conv3x3"}, (1, side, side), 10)
        assert network(torch.rand(2, 1, side, side)).shape == (2, 10)


class TestCanonical:
    @pytest.fixture
    def forms(self):
        return all_forms()

    def test_number_of_classes(self, forms):
        """The count equals the number of fingerprints, which are from another algorithm (test_canonical.py)."""
        assert len(set(forms.values())) == 5554

    def test_forms_are_their_own_and_the_first_of_their_class(self, forms):
        for cell, form in forms.items():
            assert forms[form] == form
            assert [EDGE_OPERATIONS.index(o) for o in form] <= [EDGE_OPERATIONS.index(o) for o in cell]

    def test_dead_edges_do_not_matter(self, forms):
        for architecture in random.Random(0).sample(cells(), 1500):
            erased = {e: operation if e in live(architecture) else "none" for e, operation in architecture.items()}
            assert forms[tuple(architecture.values())] == forms[tuple(erased.values())], architecture

    def test_forms_have_no_dead_edge(self, forms):
        for form in set(forms.values()):
            architecture = dict(zip(EDGES, form, strict=True))
            assert live(architecture) == {e for e, operation in architecture.items() if operation != "none"}

    def test_inner_nodes_without_an_edge_between_may_change_places(self, forms):
        turn = {
            "edge01": "edge02",
            "edge02": "edge01",
            "edge13": "edge23",
            "edge23": "edge13",
            "edge03": "edge03",
            "edge12": "edge12",
        }
        for architecture in cells():
            if architecture["edge12"] == "none":
                turned = {edge: architecture[turn[edge]] for edge in EDGES}
                assert forms[tuple(architecture.values())] == forms[tuple(turned.values())]

    def test_cells_that_differ_in_dead_edges_compute_the_same(self):
        x = torch.randn(2, 4, 6, 6)
        pairs = 0
        for architecture in random.Random(1).sample(cells(), 400):
            alive = live(architecture)
            erased = {e: operation if e in alive else "none" for e, operation in architecture.items()}
            if erased == architecture:
                continue
            first, second = random_cell(architecture), random_cell(erased, seed=1)
            share(first, second, {e: e for e in alive})
            assert torch.allclose(first(x), second(x), rtol=1e-4, atol=1e-4), architecture
            pairs += 1
        assert pairs > 50

    def test_cells_that_differ_in_the_order_of_nodes_compute_the_same(self):
        turn = {"edge01": "edge02", "edge02": "edge01", "edge13": "edge23", "edge23": "edge13", "edge03": "edge03"}
        x = torch.randn(2, 4, 6, 6)
        for architecture in random.Random(2).sample([c for c in cells() if c["edge12"] == "none"], 60):
            turned = {edge: architecture[turn.get(edge, edge)] for edge in EDGES}
            first, second = random_cell(architecture), random_cell(turned, seed=1)
            share(first, second, turn)
            assert torch.allclose(first(x), second(x), rtol=1e-4, atol=1e-4)

    def test_cells_of_one_class_compute_the_same_with_the_right_weights(self, forms):
        """Within each sampled class, some assignment of the convolutions of two cells makes their outputs equal."""
        x = torch.randn(2, 4, 6, 6)
        for cell in random.Random(3).sample(sorted(forms), 300):
            architecture, form = (dict(zip(EDGES, operations, strict=True)) for operations in (cell, forms[cell]))
            assert any_assignment_agrees(architecture, form, x), (architecture, form)

    def test_cells_of_one_class_have_equally_many_convolutions_that_matter(self, forms):
        for cell, form in forms.items():
            counts = []
            for operations in (cell, form):
                architecture = dict(zip(EDGES, operations, strict=True))
                counts.append(sorted(architecture[e] for e in live(architecture) if architecture[e].startswith("conv")))
            assert counts[0] == counts[1], (cell, form)

    def test_convolution_of_zeros_is_not_zero(self):
        constant = EMPTY | {"edge13": "conv1x1"}
        assert SPACE.canonical(constant) != SPACE.canonical(EMPTY)
        assert SPACE.canonical(EMPTY | {"edge13": "avgpool3x3"}) == EMPTY == SPACE.canonical(EMPTY | {"edge13": "skip"})

    @pytest.mark.slow
    def test_cells_of_other_classes_compute_other_functions(self, forms):
        """No assignment of the same random weights makes the outputs of two classes equal.

        If all convolutions of a kernel size have equal weights, the outputs of most classes already differ. The outputs of
        the other classes differ if each convolution has its own weights.
        """
        x = torch.randn(1, 4, 5, 5)
        by_output = {}
        for form in sorted(set(forms.values())):
            architecture = dict(zip(EDGES, form, strict=True))
            cell = random_cell(architecture)
            for edge, module in cell.edges.items():
                if architecture[edge].startswith("conv"):
                    module.load_state_dict(tied(architecture[edge]))
            with torch.no_grad():
                output = cell(x)
            by_output.setdefault(tuple((output / 10).round(decimals=2).flatten().tolist()[:40]), []).append(architecture)
        assert len(by_output) > 4000
        alike = [pair for group in by_output.values() for pair in itertools.combinations(group, 2)]
        assert alike
        for first, second in random.Random(5).sample(alike, 250):
            assert not any_assignment_agrees(first, second, x), (first, second)

    def test_one_operation_on_different_edges(self):
        for operation in ("avgpool3x3", "conv1x1", "conv3x3"):
            direct = EMPTY | {"edge03": operation}
            by_1 = EMPTY | {"edge01": operation, "edge13": "skip"}
            by_2 = EMPTY | {"edge01": "skip", "edge12": "skip", "edge23": operation}
            assert SPACE.canonical(direct) == SPACE.canonical(by_1) == SPACE.canonical(by_2)


@functools.cache
def tied(operation):
    """Returns the weights of a convolution that represents all convolutions with its kernel."""
    return random_cell(EMPTY | {"edge03": operation}, seed=9).edges["edge03"].state_dict()


def any_assignment_agrees(first, second, x):
    """Returns whether the second cell, with the convolutions of the first in some order, computes the same output."""
    of, to = ([e for e in EDGES if a[e].startswith("conv") and e in live(a)] for a in (first, second))
    one, two = random_cell(first), random_cell(second, seed=1)
    with torch.no_grad():
        wanted = one(x)
        for order in itertools.permutations(of, len(to)) if len(to) <= len(of) else ():
            if all(first[a] == second[b] for a, b in zip(order, to, strict=True)):
                share(one, two, dict(zip(to, order, strict=True)))
                if torch.allclose(two(x), wanted, rtol=1e-4, atol=1e-4):
                    return True
    return False
