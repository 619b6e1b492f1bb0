"""Topologies: the number of choices by formula, and the conversion from values to a cell and back."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.cells.topology import Topology, all_pairs, edge_list, edge_name, two_inputs
from search_spaces.graph import CellGraph

OPERATIONS = ("none", "skip", "a", "b", "a+b", "skip+a")
OUTPUTS = ("last", "all", "unused")


@st.composite
def topologies(draw):
    inputs, output = draw(st.integers(1, 2)), draw(st.sampled_from(OUTPUTS))
    nodes = inputs + draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["all_pairs", "two_inputs", "edges"]))
    if kind == "all_pairs":
        return all_pairs(nodes, inputs, output)
    if kind == "two_inputs":
        return two_inputs(nodes, inputs, output, distinct=draw(st.booleans()))
    feeding = [draw(st.sets(st.integers(0, node - 1), min_size=1)) for node in range(inputs, nodes)]
    # Every node that feeds no other node is made to feed the last one.
    feeding[-1] |= set(range(nodes - 1)) - set().union(*feeding)
    edges = [(source, node) for node, sources in enumerate(feeding, start=inputs) for source in sources]
    return edge_list(draw(st.permutations(edges)), inputs, output)


@st.composite
def node_choices(draw):
    topology, choices_of_nodes = draw(topologies()), []
    for alternatives in topology.sources:
        chosen = draw(st.integers(0, len(alternatives) - 1))
        operations = [draw(st.sampled_from(OPERATIONS)) for _ in alternatives[chosen]]
        choices_of_nodes.append((chosen, tuple(operations)))
    return topology, choices_of_nodes


@given(node_choices())
def test_graphs_have_the_chosen_operations(case):
    topology, choices_of_nodes = case
    values, choices = topology.choice_values(choices_of_nodes), topology.choices(OPERATIONS)
    assert list(values) == list(choices)
    assert all(value in choices[name].values for name, value in values.items())
    graph = topology.graph(values)
    assert (graph.inputs, len(graph.nodes)) == (topology.inputs, topology.nodes - topology.inputs)
    for summands, alternatives, (chosen, operations) in zip(graph.nodes, topology.sources, choices_of_nodes, strict=True):
        assert list(summands) == [
            (part, source)
            for source, operation in zip(alternatives[chosen], operations, strict=True)
            for part in operation.split("+")
            if part != "none"
        ]


@given(topologies(), st.integers(0, 10**9))
def test_values_are_recovered_from_the_choices_of_nodes(topology, seed):
    """Random values are converted to the choices of each node, and back to the same values."""
    choices, generator = topology.choices(OPERATIONS), random.Random(seed)
    values = {name: generator.choice(choice.values) for name, choice in choices.items()}
    choices_of_nodes = []
    for node, alternatives in enumerate(topology.sources, start=topology.inputs):
        texts = [",".join(map(str, sources)) for sources in alternatives]
        chosen = texts.index(values[f"node{node}_inputs"]) if len(texts) > 1 else 0
        choices_of_nodes.append((chosen, tuple(values[name] for name in topology.names(node, chosen))))
    assert topology.choice_values(choices_of_nodes) == values


@given(node_choices(), st.booleans())
def test_outputs(case, strided):
    topology, choices_of_nodes = case
    graph = topology.graph(topology.choice_values(choices_of_nodes), strided=strided)
    assert graph.strided == strided
    own = list(range(topology.inputs, topology.nodes))
    feeding = {source for source, _, _ in graph.edges()}
    wanted = {"last": own[-1:], "all": own, "unused": [node for node in own if node not in feeding]}[topology.output]
    assert list(graph.outputs) == wanted
    assert graph.outputs


@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("nodes", [3, 4, 7])
def test_all_pairs_has_an_edge_to_each_node_from_each_before(nodes, inputs):
    topology = all_pairs(nodes, inputs)
    choices = topology.choices(OPERATIONS)
    pairs = [(i, j) for j in range(inputs, nodes) for i in range(j)]
    assert list(choices) == [f"edge{i}{j}" for i, j in pairs]
    assert len(choices) == math.comb(nodes, 2) - math.comb(inputs, 2)
    assert all(choice.values == OPERATIONS for choice in choices.values())
    assert not topology.picks
    assert two_inputs(2, 1).picks
    full = topology.graph(dict.fromkeys(choices, "a"))
    assert full == CellGraph(
        inputs, tuple(tuple(("a", i) for i in range(j)) for j in range(inputs, nodes)), (nodes - 1,)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "inputs", "distinct", "pairs"),
    [
        (6, 2, True, [1, 3, 6, 10]),  # darts
        (7, 2, False, [3, 6, 10, 15, 21]),  # nasnet
        (5, 1, True, [1, 1, 3, 6]),  # the first node uses its only input twice
        (4, 1, False, [1, 3, 6]),
        (3, 2, True, [1]),
    ],
)
def test_number_of_pairs_of_two_inputs(nodes, inputs, distinct, pairs):
    topology = two_inputs(nodes, inputs, distinct=distinct)
    choices = topology.choices(OPERATIONS)
    picked = [len(choice.values) for name, choice in choices.items() if name.endswith("_inputs")]
    # A node with only one pair has no choice.
    assert picked == [count for count in pairs if count > 1]
    assert [len(alternatives) for alternatives in topology.sources] == pairs
    assert math.prod(len(choice.values) for choice in choices.values()) == math.prod(pairs) * 6 ** (2 * (nodes - inputs))
    for node, alternatives in enumerate(topology.sources, start=inputs):
        # Unordered pairs of k nodes without repetition: k (k - 1) / 2.
        assert all(a <= b < node for a, b in alternatives)
        assert len(set(alternatives)) == len(alternatives)
        if node > 1:
            assert len(alternatives) == math.comb(node, 2) + (0 if distinct else node)
            assert any(a == b for a, b in alternatives) == (not distinct)


def test_values_of_two_inputs():
    topology = two_inputs(5, 2, "all")
    assert {name: choice.values for name, choice in topology.choices(("skip", "a")).items()} == {
        "node2_op1": ("skip", "a"),
        "node2_op2": ("skip", "a"),
        "node3_inputs": ("0,1", "0,2", "1,2"),
        "node3_op1": ("skip", "a"),
        "node3_op2": ("skip", "a"),
        "node4_inputs": ("0,1", "0,2", "0,3", "1,2", "1,3", "2,3"),
        "node4_op1": ("skip", "a"),
        "node4_op2": ("skip", "a"),
    }
    values = {"node2_op1": "a", "node2_op2": "skip", "node3_inputs": "1,2", "node3_op1": "skip", "node3_op2": "a"}
    values |= {"node4_inputs": "0,3", "node4_op1": "a", "node4_op2": "a"}
    assert topology.graph(values) == CellGraph(
        2, ((("a", 0), ("skip", 1)), (("skip", 1), ("a", 2)), (("a", 0), ("a", 3))), (2, 3, 4)
    )


def test_edges_may_come_in_any_order():
    edges = [(0, 1), (1, 2), (0, 3), (2, 3)]
    all_orders = {edge_list(order) for order in itertools.permutations(edges)}
    assert all_orders == {Topology(1, (((0,),), ((1,),), ((0, 2),)))}
    assert list(edge_list(edges).choices(("a",))) == ["edge01", "edge12", "edge03", "edge23"]


def test_nodes_that_feed_no_other_may_be_outputs():
    for output, outputs in (("all", (1, 2)), ("unused", (1, 2))):
        assert edge_list([(0, 1), (0, 2)], 1, output).graph({"edge01": "a", "edge02": "a"}).outputs == outputs


def test_all_edges_are_all_pairs():
    for inputs in (1, 2):
        assert edge_list([(i, j) for j in range(inputs, 5) for i in range(j)], inputs) == all_pairs(5, inputs)


@pytest.mark.parametrize(
    "make",
    [
        lambda nodes: all_pairs(nodes),
        lambda nodes: two_inputs(nodes, output="last"),
        lambda nodes: edge_list([(i, j) for i, j in itertools.pairwise(range(nodes))]),
    ],
)
def test_choices_of_cells_of_more_than_ten_nodes_have_names_of_their_own(make):
    for nodes in (10, 11, 13):
        topology = make(nodes)
        names = [topology.names(node, 0) for node in range(topology.inputs, nodes)]
        flat = list(itertools.chain(*names))
        assert len(set(flat)) == len(flat)
        graph = topology.graph(dict.fromkeys(flat, "a") | {
            f"node{node}_inputs": "0,1" for node in range(topology.inputs, nodes)
        })  # fmt: skip
        assert len(graph.edges()) == len(flat)


def test_names_of_edges():
    assert [edge_name(0, 9, 10), edge_name(0, 9, 11), edge_name(1, 10, 11)] == ["edge09", "edge0_9", "edge1_10"]
    # Without the underscore, these two names would be equal.
    assert edge_name(1, 11, 112) != edge_name(11, 1, 112)
    assert list(all_pairs(3).choices(("a",))) == ["edge01", "edge02", "edge12"]
    assert "edge10_11" in all_pairs(12).choices(("a",))


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: all_pairs(4, 3), ("1 or 2 inputs", "got 3")),
        (lambda: all_pairs(4, 0), ("1 or 2 inputs", "got 0")),
        (lambda: all_pairs(1), ("at least one node",)),
        (lambda: all_pairs(2, 2), ("at least one node",)),
        (lambda: two_inputs(2), ("at least one node",)),
        (lambda: edge_list([]), ("at least one node",)),
        (lambda: all_pairs(4, output="first"), ("output", "last, all, unused", "got 'first'")),
        (lambda: edge_list([(1, 1)]), ("edge", "to a later", "got [1, 1]")),
        (lambda: edge_list([(0, 1), (2, 1)]), ("edge", "to a later", "got [2, 1]")),
        (lambda: edge_list([(0, 1)], 2), ("edge", "not an input", "got [0, 1]")),
        (lambda: edge_list([(-1, 1)]), ("edge", "got [-1, 1]")),
        (lambda: edge_list([(0, 1), (0, 1)]), ("[0, 1]", "twice")),
        (lambda: edge_list([(0, 1), (1, 3)]), ("nothing feeds", "node 2")),
        (lambda: edge_list([(0, 3)], 2), ("nothing feeds", "node 2")),
        (lambda: edge_list([(0, 1), (0, 2)]), ("node 1", "feeds no other")),
        (lambda: edge_list([(0, 2), (2, 3)], 2, "unused"), ("node 1", "feeds no other")),
        (lambda: Topology(1, ((),)), ("nothing feeds", "node 1")),
        (lambda: Topology(1, (((),),)), ("nothing feeds", "node 1")),
        (lambda: Topology(1, (((0,),), ((2,),))), ("node 2", "0 to 1", "got 2")),
        (lambda: Topology(2, (((0, -1),),)), ("node 2", "0 to 1", "got -1")),
    ],
)
def test_impossible_topologies_are_refused(make, parts):
    with pytest.raises(ValueError) as error:
        make()
    assert all(part in str(error.value) for part in parts), str(error.value)
