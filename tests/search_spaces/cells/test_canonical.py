"""The canonical form of cells against an independent oracle that hashes the expression of each cell."""

import functools
import hashlib
import itertools
import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.cells.canonical import canonical_cell
from search_spaces.cells.expression import Expression, single_term, terms_in
from search_spaces.cells.skeleton import Cell
from search_spaces.cells.topology import all_pairs, edge_list, two_inputs
from search_spaces.graph import CellGraph
from search_spaces.operations import OPERATIONS

WEIGHTLESS, LINEAR = {"avgpool3x3", "maxpool3x3", "blurpool3x3"}, {"avgpool3x3", "blurpool3x3"}

TOPOLOGIES = {
    "all pairs to the last": (all_pairs(4), ("none", "skip", "avgpool3x3", "conv1x1")),
    "all pairs, nothing cut": (all_pairs(4), ("skip", "avgpool3x3", "conv1x1")),
    "all pairs, all nodes": (all_pairs(5, inputs=2, output="all"), ("none", "skip")),
    "all pairs, sets": (all_pairs(4, inputs=2, output="all"), ("none", "skip", "conv1x1", "skip+conv1x1")),
    "all pairs, unused nodes": (all_pairs(4, inputs=1, output="unused"), ("none", "skip", "conv1x1")),
    "two distinct, all nodes": (two_inputs(5, output="all"), ("none", "skip", "conv1x1")),
    "two, unused nodes": (two_inputs(5, output="unused", distinct=False), ("skip", "conv1x1")),
    "two, the last": (two_inputs(4, inputs=1, output="last", distinct=False), ("none", "skip", "conv1x1")),
    "edges": (edge_list([(0, 1), (0, 2), (1, 3), (2, 3), (1, 2)]), ("none", "skip", "maxpool3x3", "conv1x1")),
}


def architectures(topology, operations):
    choices = topology.choices(operations)
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*(c.values for c in choices.values()))]


def fingerprint(graph):
    """Returns a key of the expression of a cell, by colour refinement of its terms. Equal expressions have equal keys.

    In each round, the colour of a term is updated with the colours of its arguments and of the terms that use it.
    """
    arguments, kinds, constants, sums = {}, {}, set(), [(("x", i),) for i in range(graph.inputs)]
    kinds |= {("x", i): f"input {i}" for i in range(graph.inputs)}
    arguments |= {("x", i): () for i in range(graph.inputs)}
    for node, summands in enumerate(graph.nodes, start=graph.inputs):
        terms = []
        for number, (operation, source) in enumerate(summands):
            strided = graph.strided and source < graph.inputs
            if operation == "skip" and not strided:
                terms += sums[source]
                continue
            if operation in WEIGHTLESS:
                constant = [t for t in sums[source] if t in constants]
                rest = [t for t in sums[source] if t not in constants]
                # Pooling does not change spatial constants, and average pooling is linear.
                terms += constant
                for of in [(t,) for t in rest] if operation in LINEAR else [tuple(sorted(rest, key=repr))] if rest else []:
                    term = (operation, strided, of)
                    kinds[term], arguments[term] = f"{operation} {strided}", of
                    terms.append(term)
                continue
            term = ("own", node, number)
            kinds[term], arguments[term] = f"{operation} {strided}", sums[source]
            if all(t in constants for t in sums[source]) and (operation == "conv1x1" or not sums[source]):
                constants.add(term)
            terms.append(term)
        sums.append(tuple(terms))
    outputs = [sums[node] for node in graph.outputs]
    live, new = set(), [term for sum_ in outputs for term in sum_]
    while new:
        term = new.pop()
        if term not in live:
            live.add(term)
            new += arguments[term]
    colours = {term: kinds[term] for term in live}
    for _ in range(2 * len(graph.nodes) + 2):
        refined = {}
        for term in live:
            users = sorted(
                f"{colours[user]} {arguments[user].count(term)} {sorted(colours[a] for a in arguments[user])}"
                for user in live
                if term in arguments[user]
            )
            leaves = sorted(f"{o.count(term)} {sorted(colours[t] for t in o)}" for o in outputs if term in o)
            refined[term] = json.dumps([colours[term], sorted(colours[a] for a in arguments[term]), users, leaves])
        before = len({*colours.values()})
        colours = {term: hashlib.sha256(text.encode()).hexdigest()[:16] for term, text in refined.items()}
        if len({*colours.values()}) == before:
            break  # The refinement is stable. Equivalent cells need the same number of rounds.
    return json.dumps([sorted(colours.values()), sorted(sorted(colours[t] for t in o) for o in outputs)])


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_form_is_the_first_of_its_class(name, strided):
    """The canonical form of a cell is the first cell, in the order of choices, with the same fingerprint."""
    topology, operations = TOPOLOGIES[name]
    every = architectures(topology, operations)
    first, seen = {}, {}
    for values in every:
        graph = topology.graph(values, strided=strided)
        seen[json.dumps(values)] = first.setdefault(fingerprint(graph), values)
    classes = len(first)
    assert 1 < classes < len(every)
    sample = every if len(every) < 300 else random.Random(0).sample(every, 300)
    for values in sample:
        graph = topology.graph(values, strided=strided)
        form = topology.choice_values(canonical_cell(topology, operations, graph))
        assert form == seen[json.dumps(values)], values


@pytest.mark.slow
def test_classes_of_cell201_are_those_of_another_algorithm():
    """There are 5,554 fingerprints, and all cells with the same fingerprint have the same canonical form."""
    topology, operations = all_pairs(4), ("none", "skip", "avgpool3x3", "conv1x1", "conv3x3")
    forms = {}
    for values in architectures(topology, operations):
        graph = topology.graph(values)
        forms.setdefault(fingerprint(graph), set()).add(canonical_cell(topology, operations, graph))
    assert len(forms) == 5554
    assert all(len(forms_of_class) == 1 for forms_of_class in forms.values())


def tied(cell):
    """Sets equal weights for all operations of one name, so that the order of nodes has no effect."""
    with torch.no_grad():
        for value in cell.state_dict().values():
            if value.is_floating_point():
                generator = torch.Generator().manual_seed(value.numel() + 7 * value.ndim)
                value.copy_(torch.rand(value.shape, generator=generator) - 0.3)
        for name, value in cell.state_dict().items():
            if "running_var" in name:
                value.abs_().add_(0.5)
    return cell.eval()


def outputs_of(graph, channels=4):
    x = [torch.randn(1, channels, 6, 6, generator=torch.Generator().manual_seed(i)) for i in range(graph.inputs)]
    with torch.no_grad():
        outputs = tied(Cell(graph, OPERATIONS, channels))(*x)
    # The order of concatenated nodes does not matter.
    return sorted(outputs.split(channels, 1), key=lambda part: [round(v, 3) for v in part.flatten()[:8].tolist()])


SPACES = {
    "darts": (
        two_inputs(6, output="all"),
        ("none", "skip", "avgpool3x3", "maxpool3x3", "dilconv3x3", "sepconv3x3"),
    ),
    "nasnet": (two_inputs(7, output="unused", distinct=False), ("skip", "avgpool3x3", "conv1x1", "sepconv3x3")),
    "robnet": (all_pairs(6, inputs=2, output="all"), ("none", "skip", "sepconv3x3", "skip+sepconv3x3")),
    "last": (all_pairs(5), ("none", "skip", "blurpool3x3", "conv1x1", "conv3x3")),
}


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_form_computes_the_same(name, strided, seed):
    topology, operations = SPACES[name]
    generator = random.Random(seed)
    values = {key: generator.choice(choice.values) for key, choice in topology.choices(operations).items()}
    graph = topology.graph(values, strided=strided)
    form = topology.choice_values(canonical_cell(topology, operations, graph))
    again = topology.graph(form, strided=strided)
    assert topology.choice_values(canonical_cell(topology, operations, again)) == form
    for a, b in zip(outputs_of(graph), outputs_of(again), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max().clamp(min=1)))


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_form_does_not_depend_on_the_order_of_nodes_and_inputs(name, seed):
    """Permutes nodes that do not feed each other, and the summands of each node."""
    topology, operations = SPACES[name]
    generator = random.Random(seed)
    values = {key: generator.choice(choice.values) for key, choice in topology.choices(operations).items()}
    graph = topology.graph(values)
    places = turned_places(graph, topology, generator)
    turned = CellGraph(
        graph.inputs,
        tuple(
            tuple((operation, places[source]) for operation, source in generator.sample(summands, len(summands)))
            for _, summands in sorted(
                (places[node], summands) for node, summands in enumerate(graph.nodes, start=graph.inputs)
            )
        ),
        tuple(sorted(places[node] for node in graph.outputs)),
    )
    assert canonical_cell(topology, operations, turned) == canonical_cell(topology, operations, graph)


def turned_places(graph, topology, generator):
    """Returns a new index for every node, above those of its sources. The last node keeps its index if it is the output."""
    feeds = {n: {s for _, s in summands} for n, summands in enumerate(graph.nodes, start=graph.inputs)}
    fixed = [max(feeds)] if topology.output == "last" else []
    order, left = list(range(graph.inputs)), [node for node in feeds if node not in fixed]
    while left:
        ready = [node for node in left if feeds[node] <= set(order)]
        order.append(generator.choice(ready))
        left.remove(order[-1])
    return {node: place for place, node in enumerate(order + fixed)}


def test_a_cell_beyond_the_search_limit_has_no_form():
    """A cell that can be written with thousands of different sums of average poolings exceeds the search limit."""
    topology, operations = two_inputs(7, output="unused", distinct=False), ("skip", "avgpool3x3", "conv1x1")
    pairs = {3: "1,2", 4: "1,3", 5: "3,4", 6: "1,5"}
    values = {"node2_inputs": "0,1"} | {f"node{node}_inputs": pair for node, pair in pairs.items()}
    values |= {f"node{node}_op{k}": "avgpool3x3" for node in range(2, 7) for k in (1, 2)}
    assert canonical_cell(topology, operations, topology.graph(values)) is None


class TestRules:
    topology, operations = all_pairs(4), ("none", "skip", "avgpool3x3", "conv1x1", "se")

    def form(self, **edges):
        values = dict.fromkeys(self.topology.choices(self.operations), "none") | edges
        values_of_form = self.topology.choice_values(
            canonical_cell(self.topology, self.operations, self.topology.graph(values))
        )
        return {edge: operation for edge, operation in values_of_form.items() if operation != "none"}

    def test_operations_that_reach_no_output_are_removed(self):
        assert self.form(edge01="conv1x1", edge12="conv1x1", edge03="skip") == {"edge03": "skip"}

    def test_vanishing_operations_without_input_are_removed(self):
        for operation in ("skip", "avgpool3x3", "se"):
            assert self.form(edge13=operation, edge03="skip") == {"edge03": "skip"}

    def test_a_convolution_without_input_is_a_constant_and_stays(self):
        assert self.form(edge13="conv1x1", edge03="skip") != {"edge03": "skip"}

    def test_poolings_of_one_sum_are_one_and_convolutions_are_two(self):
        pooled_twice = self.form(edge01="avgpool3x3", edge02="avgpool3x3", edge13="conv1x1", edge23="conv1x1")
        pooled_once = self.form(edge01="avgpool3x3", edge12="skip", edge13="conv1x1", edge23="conv1x1")
        assert pooled_twice == pooled_once
        two = self.form(edge01="conv1x1", edge02="conv1x1", edge13="avgpool3x3", edge23="avgpool3x3")
        one = self.form(edge01="conv1x1", edge12="skip", edge13="avgpool3x3", edge23="avgpool3x3")
        assert two != one

    def test_skips_with_a_stride_have_weights(self):
        topology, operations = two_inputs(4, output="all"), ("none", "skip", "conv1x1")
        twice = {"node2_op1": "skip", "node2_op2": "none", "node3_inputs": "0,1", "node3_op1": "skip", "node3_op2": "none"}
        once_ = {"node2_op1": "skip", "node2_op2": "none", "node3_inputs": "0,2", "node3_op1": "none", "node3_op2": "skip"}
        forms = {
            strided: [canonical_cell(topology, operations, topology.graph(v, strided=strided)) for v in (twice, once_)]
            for strided in (False, True)
        }
        assert forms[False][0] == forms[False][1]
        assert forms[True][0] != forms[True][1]

    def test_the_inputs_of_a_cell_keep_their_places(self):
        topology, operations = all_pairs(3, inputs=2), ("none", "skip", "conv1x1")
        forms = {
            canonical_cell(topology, operations, topology.graph({"edge02": a, "edge12": b}))
            for a, b in (("skip", "conv1x1"), ("conv1x1", "skip"))
        }
        assert len(forms) == 2

    def test_a_sum_can_hold_a_term_many_times(self):
        nodes = 12
        chain = CellGraph(1, tuple((("skip", n), ("skip", n)) for n in range(nodes)), (nodes,))
        assert Expression(chain).outputs == {2**nodes * single_term(0): 1}
        assert terms_in(2**nodes * single_term(0) + single_term(3)) == [0, 3]


@functools.cache
def literature_string(cell):
    """Returns the string with which NAS-Bench-201 identifies cells. An edge with `none` stays in its sum as `#`."""
    nodes = ["0"]
    for node in range(1, 4):
        terms = []
        for source in range(node):
            operation = cell[(0, 1, 3)[node - 1] + source]
            if operation == "none" or nodes[source] == "#":
                terms.append("#")
            else:
                terms.append(nodes[source] if operation == "skip" else f"({nodes[source]})@{operation}")
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]


def test_the_published_count_of_cell201_comes_from_another_rule():
    """There are 6,466 strings. They count the `none` edges of a sum, and do not show whether equal terms share weights."""
    operations = ("none", "skip", "avgpool3x3", "conv1x1", "conv3x3")
    cells = list(itertools.product(operations, repeat=6))
    strings = {cell: literature_string(cell) for cell in cells}
    assert len(set(strings.values())) == 6466
    # The canonical forms of these two cells differ.
    topology = all_pairs(4)
    names = list(topology.choices(operations))
    order = ["edge01", "edge02", "edge12", "edge03", "edge13", "edge23"]
    assert names == order
    cut = ("skip", "none", "conv1x1", "none", "none", "conv1x1")
    uncut = ("skip", "none", "none", "none", "none", "none")
    first, second = (
        canonical_cell(topology, operations, topology.graph(dict(zip(names, cell, strict=True)))) for cell in (cut, uncut)
    )
    assert first != second
