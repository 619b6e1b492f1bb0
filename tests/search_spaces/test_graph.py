"""CellGraph: edges and paths, against a recursive enumeration of all paths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.graph import CellGraph


@st.composite
def graphs(draw):
    inputs = draw(st.integers(1, 2))
    nodes = []
    for node in range(inputs, inputs + draw(st.integers(1, 4))):
        summand = st.tuples(st.sampled_from("abc"), st.integers(0, node - 1))
        nodes.append(tuple(draw(st.lists(summand, max_size=3))))
    outputs = draw(st.sets(st.integers(inputs, inputs + len(nodes) - 1), min_size=1))
    return CellGraph(inputs, tuple(nodes), tuple(sorted(outputs)))


def walks(graph, node):
    """Returns every path from an input to a node, by recursion from the node."""
    if node < graph.inputs:
        return [(node,)]
    return [(*walk, operation) for source, to, operation in graph.edges() if to == node for walk in walks(graph, source)]


@given(graphs())
def test_edges_are_all_operations_by_node(graph):
    assert len(graph.edges()) == sum(map(len, graph.nodes))
    rebuilt = [[] for _ in graph.nodes]
    for source, node, operation in graph.edges():
        rebuilt[node - graph.inputs].append((operation, source))
    assert tuple(map(tuple, rebuilt)) == graph.nodes
    assert [node for _, node, _ in graph.edges()] == sorted(node for _, node, _ in graph.edges())


@given(graphs(), st.sampled_from([None, 0, 1, 2, 3]))
def test_paths_are_those_of_a_recursion_from_the_outputs(graph, longest):
    every = {walk for node in graph.outputs for walk in walks(graph, node)}
    assert graph.paths(longest) == {walk for walk in every if longest is None or len(walk) - 1 <= longest}


@pytest.mark.parametrize(("nodes", "paths"), [(2, 1), (5, 8), (10, 256)])
def test_number_of_paths(nodes, paths):
    """If every node feeds each later one, a path visits any subset of the inner nodes: 2 ** (nodes - 2) paths."""
    graph = CellGraph(1, tuple(tuple((f"{i}{j}", i) for i in range(j)) for j in range(1, nodes)), (nodes - 1,))
    assert len(graph.paths()) == paths == 2 ** (nodes - 2)


def test_paths_with_equal_operations_are_one_path():
    graph = CellGraph(1, ((("a", 0),), (("a", 0),), (("b", 1), ("b", 2))), (3,))
    assert graph.paths() == {(0, "a", "b")}
    assert CellGraph(1, ((), (("a", 1),)), (2,)).paths() == set()


def test_connected_where_there_is_a_path():
    """A convolution of zeros is a constant, not a path."""
    for nodes, outputs, wanted in (
        (((("skip", 0),), (("conv1x1", 1),)), (2,), True),
        (((), (("conv1x1", 1),)), (2,), False),
        (((("skip", 0),), ()), (2,), False),
        (((("skip", 0),), ()), (1, 2), True),
    ):
        graph = CellGraph(1, nodes, outputs)
        assert graph.connected is wanted is bool(graph.paths())
