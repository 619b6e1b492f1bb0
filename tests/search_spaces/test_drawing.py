"""Drawings: XML that holds what was drawn, inside its frame."""

import random
import re
from xml.etree import ElementTree

import pytest

from search_spaces import cell201, macro
from search_spaces.drawing import draw_cell, draw_chain

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def arcs(svg):
    """Returns the paths that end in an arrow: one an edge, without the head of the arrow itself."""
    return [p for p in ElementTree.fromstring(svg).iter(f"{SVG}path") if p.get("marker-end")]


def test_every_operation_but_none_is_in_the_drawing_of_a_cell():
    space, generator = cell201(), random.Random(0)
    for architecture in [space.sample(generator) for _ in range(40)]:
        svg = space.draw(architecture)
        operations = sorted(operation for operation in architecture.values() if operation != "none")
        found = texts(svg)
        assert sorted(found) == sorted([*operations, "input", "1", "2", "output"])
        assert len(arcs(svg)) == len(operations)


def test_empty_cell_says_so():
    svg = cell201().draw(dict.fromkeys(cell201().choices, "none"))
    assert "no edge: the output is constant" in texts(svg)
    assert not arcs(svg)


@pytest.mark.parametrize("name", ["<script>", "a & b", 'quo"te', "]]>", "it's", "日本"])
def test_names_are_escaped(name):
    svg = draw_cell([name, "b"], [(0, 1, name)])
    assert texts(svg).count(name) == 2
    assert texts(draw_chain([name, "b"])) == [name, "b"]
    assert "<script>" not in svg


def test_operations_have_colours_of_their_own_and_a_skip_is_dashed():
    edges = [(0, 1, "a"), (0, 2, "b"), (1, 2, "a"), (0, 3, "skip"), (2, 3, "c")]
    paths = arcs(draw_cell(["0", "1", "2", "3"], edges))
    colours = [path.get("stroke") for path in paths]
    assert colours[0] == colours[2]
    assert len(set(colours)) == 4
    assert [path.get("stroke-dasharray") is not None for path in paths] == [False, False, False, True, False]


def test_more_operations_than_colours_still_draw():
    svg = draw_cell([str(i) for i in range(12)], [(i, i + 1, f"op{i}") for i in range(11)])
    assert len(arcs(svg)) == 11


@pytest.mark.parametrize("nodes", [2, 3, 4, 6])
def test_everything_is_inside_the_frame(nodes):
    edges = [(i, j, f"op{i}{j}") for i in range(nodes) for j in range(i + 1, nodes)]
    root = ElementTree.fromstring(draw_cell([str(i) for i in range(nodes)], edges))
    _, _, width, height = (float(v) for v in root.get("viewBox").split())
    for element in root.iter():
        if element.tag in (f"{SVG}text", f"{SVG}circle"):
            x, y = (float(element.get(a) or element.get(f"c{a}")) for a in "xy")
            assert 0 <= x <= width
            assert 8 <= y <= height
    for path in arcs(draw_cell([str(i) for i in range(nodes)], edges)):
        numbers = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", path.get("d"))]
        assert all(0 <= x <= width for x in numbers[::2])
        ends = (numbers[1], numbers[-1])
        # A cubic curve stays between its ends and three quarters of the way to its two control points.
        highest = 0.25 * min(ends) + 0.75 * min(numbers[1::2])
        assert highest >= 0
        assert max(numbers[1::2]) <= height


def test_labels_of_a_full_cell_do_not_lie_on_each_other():
    root = ElementTree.fromstring(cell201().draw(dict.fromkeys(cell201().choices, "conv3x3")))
    places = [(float(t.get("x")), float(t.get("y"))) for t in root.iter(f"{SVG}text") if t.text == "conv3x3"]
    for n, (x, y) in enumerate(places):
        for other_x, other_y in places[:n]:
            assert abs(x - other_x) > 55 or abs(y - other_y) > 12


def test_chain_has_a_box_for_each_label_and_arrows_between():
    svg = draw_chain(["one", "two", "three"])
    assert texts(svg) == ["one", "two", "three"]
    assert len(arcs(svg)) == 2
    assert len(list(ElementTree.fromstring(svg).iter(f"{SVG}rect"))) == 3


@pytest.mark.parametrize("space", [cell201(), macro()])
def test_drawings_say_their_size(space):
    root = ElementTree.fromstring(space.draw(space.at(space.size - 1)))
    assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
