"""Encodings: number of columns by formula, decoding, and paths against brute force."""

import itertools
import random

import numpy as np
import pytest

from search_spaces import (
    OPERATIONS,
    CellGraph,
    Choice,
    SearchSpace,
    cell201,
    cell_space,
    darts,
    macro,
    mlp,
    nasnet,
    one_hot,
    one_hot_names,
    path_encoding,
    robnet,
)

SPACES_OF_CELLS = [cell201(), darts(), nasnet(), robnet(layers=3), robnet(layers=3, shared=False)]
MIXED = SearchSpace(name="mixed", choices={"a": Choice(1, True, 1.0, "1", None), "b": Choice(False, 0)}, build=mlp().build)


def samples(space, count=30, seed=0):
    generator = random.Random(seed)
    return [space.sample(generator) for _ in range(count)]


def cell(**edges):
    """Returns an architecture of cell201 with `none` on all other edges."""
    return dict.fromkeys(cell201().choices, "none") | edges


def sequences(operations, longest):
    """Returns all sequences of 1 to `longest` operations, ordered by length and then lexicographically."""
    return [s for length in range(1, longest + 1) for s in itertools.product(operations, repeat=length)]


class TestOneHot:
    @pytest.mark.parametrize("space", [*SPACES_OF_CELLS, macro(), mlp(), MIXED], ids=lambda s: s.name)
    def test_it_can_be_decoded(self, space):
        architectures = samples(space)
        encoded = one_hot(space, architectures)
        assert encoded.shape == (30, sum(len(choice.values) for choice in space.choices.values()))
        assert encoded.dtype == np.float64
        assert set(encoded.flat) == {0.0, 1.0}
        for row, architecture in zip(encoded, architectures, strict=True):
            read, start = {}, 0
            for name, choice in space.choices.items():
                (place,) = np.flatnonzero(row[start : start + len(choice.values)])
                read[name] = choice.values[place]
                start += len(choice.values)
            assert repr(read) == repr(architecture)  # repr distinguishes 1, 1.0 and True.

    def test_the_order_of_the_names_does_not_matter(self):
        (architecture,) = samples(macro(), 1)
        turned = dict(reversed(architecture.items()))
        assert (one_hot(macro(), [turned]) == one_hot(macro(), [architecture])).all()

    def test_names_are_those_of_the_columns(self):
        space, architecture = cell201(), cell(edge03="skip")
        names = one_hot_names(space)
        assert names[:2] == ["edge01=none", "edge01=skip"]
        assert [names[column] for column in np.flatnonzero(one_hot(space, [architecture])[0])] == [
            f"{name}={value}" for name, value in architecture.items()
        ]

    def test_no_architectures_have_no_rows(self):
        assert one_hot(cell201(), []).shape == (0, 30)

    def test_what_is_no_architecture_is_refused(self):
        with pytest.raises(ValueError, match=r"cell201: .*'edge03' must be one of .*'conv9x9'"):
            one_hot(cell201(), [cell(edge03="conv9x9")])


class TestPathEncoding:
    @pytest.mark.parametrize(
        ("space", "cells", "inputs", "operations"),
        list(zip(SPACES_OF_CELLS, (1, 2, 2, 1, 3), (1, 2, 2, 2, 2), (4, 7, 13, 2, 2), strict=True)),
        ids=lambda value: getattr(value, "name", None),
    )
    @pytest.mark.parametrize("longest", [1, 2, 3])
    def test_columns_by_the_formula(self, space, cells, inputs, operations, longest):
        encoded = path_encoding(space, samples(space), longest)
        assert encoded.shape == (30, cells * inputs * sum(operations**length for length in range(1, longest + 1)))
        assert encoded.dtype == np.float64
        assert set(encoded.flat) == {0.0, 1.0}
        assert path_encoding(space, [], longest).shape == (0, encoded.shape[1])

    def test_the_default_of_darts_is_that_of_the_docstring(self):
        assert path_encoding(darts(), samples(darts(), 1)).shape == (1, 1596)

    def test_operations_are_single_ones_without_none(self):
        assert robnet(layers=3).operations == ("skip", "sepconv3x3")
        assert set(nasnet().operations) <= set(OPERATIONS)
        assert cell_space(operations=["conv3x3+se", "none", "se"], stages=1).operations == ("conv3x3", "se")
        assert macro().operations == ()

    @pytest.mark.parametrize("longest", [1, 2, 3, 4])
    def test_cell201_is_as_by_brute_force(self, longest):
        """Compares the encoding with the four possible paths of the cell."""
        space = cell201()
        ways = [["03"], ["01", "13"], ["02", "23"], ["01", "12", "23"]]
        columns = sequences(space.operations, longest)
        for architecture in samples(space, 200):
            there = {tuple(architecture[f"edge{edge}"] for edge in way) for way in ways}
            wanted = [float(sequence in there) for sequence in columns]
            assert path_encoding(space, [architecture], longest)[0].tolist() == wanted

    @pytest.mark.parametrize("space", SPACES_OF_CELLS, ids=lambda s: s.name)
    def test_every_cell_and_input_has_columns_of_its_own(self, space):
        """Compares the encoding with paths from a recursion that starts at the outputs."""

        def back(graph, node):
            if node < graph.inputs:
                return {(node,)}
            return {(*way, op) for op, source in graph.nodes[node - graph.inputs] for way in back(graph, source)}

        for architecture in samples(space, 10):
            wanted = []
            for graph in space.graphs(architecture).values():
                there = set().union(*(back(graph, node) for node in graph.outputs))
                for source in range(graph.inputs):
                    wanted += [float((source, *sequence) in there) for sequence in sequences(space.operations, 3)]
            assert path_encoding(space, [architecture])[0].tolist() == wanted

    def test_unused_operations_do_not_change_the_encoding(self):
        first = cell(edge03="conv3x3", edge01="skip")
        second = cell(edge03="conv3x3", edge02="conv1x1", edge12="avgpool3x3")
        assert cell201().key(first) == cell201().key(second)
        encoded = path_encoding(cell201(), [first, second])
        assert (encoded[0] == encoded[1]).all()
        assert encoded[0].sum() == 1

    def test_longer_paths_are_left_out(self):
        chain = cell(edge01="conv3x3", edge12="conv1x1", edge23="skip")
        assert path_encoding(cell201(), [chain], 2).sum() == 0
        assert path_encoding(cell201(), [chain], 3).sum() == 1

    def test_most_functions_have_different_encodings(self):
        space = cell201()
        architectures = {space.key(a): space.canonical(a) for a in samples(space, 400)}
        encoded = path_encoding(space, list(architectures.values()))
        assert len(np.unique(encoded, axis=0)) > 0.8 * len(architectures)

    def test_custom_operations_have_columns(self):
        def wave(channels, stride):
            return OPERATIONS["conv3x3"](channels, stride)

        space = cell_space(nodes=2, operations=["none", "skip", wave], stages=1)
        assert path_encoding(space, [{"edge01": "wave"}], 1).tolist() == [[0.0, 1.0]]

    @pytest.mark.parametrize("space", [macro(), mlp(), MIXED], ids=lambda s: s.name)
    def test_other_spaces_are_refused_with_the_remedy(self, space):
        with pytest.raises(ValueError, match=rf"^{space.name} has no cells.*one_hot"):
            path_encoding(space, samples(space))

    @pytest.mark.parametrize("longest", [0, -1])
    def test_longest_below_one_is_refused(self, longest):
        with pytest.raises(ValueError, match=rf"^max_length must be at least 1, got {longest}$"):
            path_encoding(cell201(), [], longest)

    def test_what_is_no_architecture_is_refused(self):
        with pytest.raises(ValueError, match="unknown choice 'edge04'; did you mean"):
            path_encoding(cell201(), [cell(edge04="skip")])


class TestPaths:
    def test_a_maximum_length_keeps_all_shorter_paths(self):
        for architecture in samples(nasnet(), 20):
            for graph in nasnet().graphs(architecture).values():
                for longest in range(6):
                    wanted = {path for path in graph.paths() if len(path) <= longest + 1}
                    assert graph.paths(longest) == wanted

    def test_short_paths_of_large_cells_are_fast(self):
        """60 nodes with two edges from the previous node give 2**60 paths of 60 operations each."""
        chain = [(("a", node), ("b", node)) for node in range(60)]
        last = (("a", 0), ("b", 60))
        graph = CellGraph(1, (*chain, last), (61,))
        assert graph.paths(3) == {(0, "a")}
