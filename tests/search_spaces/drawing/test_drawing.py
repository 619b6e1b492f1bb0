"""Drawings: complete, readable and deterministic."""

import io
import itertools
import random
import re
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path
from matplotlib.text import Text

from nas.plots.style import STYLE, to_svg
from search_spaces import OPERATIONS, CellGraph, cell201, cell_space, darts, nasnet, robnet
from search_spaces.drawing.figures import NO_PATH, WARNING_COLOUR, draw_cells, draw_chain
from search_spaces.drawing.layout import COLOURS, SKIP_COLOUR, separate

SPACES = [cell201(), darts(), nasnet(), robnet()]


def cell(*nodes, inputs=1, outputs=None, strided=False):
    return CellGraph(inputs, nodes, (inputs + len(nodes) - 1,) if outputs is None else outputs, strided)


def of(kind, axes):
    return [patch for patch in axes.patches if type(patch) is kind]


def texts(axes):
    return [text.get_text().replace("\n", " ") for text in axes.texts]


def saved(figure, fonttype="none"):
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": fonttype, "svg.hashsalt": "salt"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def svg_texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def labels_of(graph):
    """Returns the label of each pair of connected nodes."""
    joined = {}
    for source, node, operation in graph.edges():
        joined.setdefault((source, node), []).append(operation)
    return [" + ".join(operations) for operations in joined.values()]


def samples(space, count, seed=0):
    generator = random.Random(seed)
    return [space.sample(generator) for _ in range(count)]


def overlap(first, second, slack=0.5):
    return (
        min(first.x1, second.x1) - max(first.x0, second.x0) > slack
        and min(first.y1, second.y1) - max(first.y0, second.y0) > slack
    )


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_a_cell_is_drawn_whole(space):
    for architecture in samples(space, 12):
        graphs, figure = space.graphs(architecture), space.draw(architecture)
        assert len(figure.axes) == len(graphs)
        for graph, axes in zip(graphs.values(), figure.axes, strict=True):
            labels, drawn_texts = labels_of(graph), texts(axes)
            inputs = ["input"] if graph.inputs == 1 else ["input 0", "input 1"]
            inner = [str(i) for i in range(graph.inputs, graph.inputs + len(graph.nodes)) if graph.outputs != (i,)]
            rest = [text for text in drawn_texts if text not in (NO_PATH, "normal", "reduction (halves the resolution)")]
            assert sorted(rest) == sorted([*labels, *inputs, *inner, "output"])
            assert len(of(FancyArrowPatch, axes)) == len(labels)
            assert len(of(Circle, axes)) == len(inner)
            assert len(of(FancyBboxPatch, axes)) == len(inputs) + 1
            # If several nodes are outputs, each of them has a line to the output box.
            assert len(of(PathPatch, axes)) == (len(graph.outputs) if len(graph.outputs) > 1 else 0)
            assert (NO_PATH in drawn_texts) == (not graph.paths())


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_text_lies_on_no_text_and_on_no_node_but_its_own(space):
    """A renderer measures the boxes of texts and nodes, for 6 random architectures of each space."""
    for architecture in samples(space, 6, seed=1):
        figure = space.draw(architecture)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        frame = figure.bbox
        for axes in figure.axes:
            boxes = [text.get_window_extent(renderer) for text in axes.texts]
            nodes = [patch.get_window_extent(renderer) for kind in (Circle, FancyBboxPatch) for patch in of(kind, axes)]
            for first, second in [*itertools.combinations(boxes, 2), *itertools.combinations(nodes, 2)]:
                assert not overlap(first, second), architecture
            for text, box in zip(axes.texts, boxes, strict=True):
                around = [node for node in nodes if overlap(box, node)]
                inside = [n for n in around if n.x0 <= box.x0 and box.x1 <= n.x1 and n.y0 <= box.y0 and box.y1 <= n.y1]
                assert around == inside
                assert len(around) == bool(re.fullmatch(r"\d+|input( \d)?|output", text.get_text()))
            for box in (*boxes, *nodes):
                assert frame.x0 <= box.x0 < box.x1 <= frame.x1
                assert frame.y0 <= box.y0 < box.y1 <= frame.y1


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_lines_run_round_nodes_and_round_labels_of_others(space):
    for architecture in samples(space, 8, seed=2):
        graphs, figure = space.graphs(architecture), space.draw(architecture)
        renderer = FigureCanvasAgg(figure).get_renderer()
        for graph, axes in zip(graphs.values(), figure.axes, strict=True):
            back = axes.transData.inverted()
            labels = [t for t in axes.texts if t.get_text().replace("\n", " ") in set(labels_of(graph))]
            places = [back.transform_bbox(label.get_window_extent(renderer)) for label in labels]
            arrows = of(FancyArrowPatch, axes)
            passed = []
            for line in (*arrows, *of(PathPatch, axes)):
                path = line._path_original if isinstance(line, FancyArrowPatch) else line.get_path()
                # Each segment of a curve is divided into 20 parts.
                points = Path(path.to_polygons(closed_only=False)[0]).interpolated(20).vertices
                middle = points[1:-1]
                for node in of(Circle, axes):
                    assert min(((middle - node.center) ** 2).sum(1)) > (node.radius - 1) ** 2
                hit = [i for i, b in enumerate(places) if any(b.contains(*p) for p in points)]
                assert len(hit) == (line in arrows)
                passed += hit
            # Each label is on its line and has the same colour.
            assert sorted(passed) == list(range(len(labels)))
            assert [mpl.colors.to_hex(a.get_edgecolor()) for a in arrows] == [
                labels[i].get_color() for i in passed[: len(arrows)]
            ]


def test_empty_cell_has_a_red_warning():
    space = cell201()
    axes = space.draw(dict.fromkeys(space.choices, "none")).axes[0]
    assert sorted(texts(axes)) == sorted(["input", "1", "2", "output", NO_PATH])
    assert next(text for text in axes.texts if text.get_text() == NO_PATH).get_color() == WARNING_COLOUR
    assert NO_PATH == "no path from input to output"
    assert not of(FancyArrowPatch, axes)


@pytest.mark.parametrize(
    ("graph", "dead"),
    [
        (cell((), (("skip", 1),)), True),  # from a node without sources
        (cell((("skip", 0),), ()), True),  # into a node that is not used
        (cell((("skip", 0),), (("skip", 1),)), False),
        (cell((("skip", 1),), (), inputs=2, outputs=(2, 3)), False),
        (cell((), (), inputs=2, outputs=(2, 3)), True),
        (cell((("skip", 0),), outputs=()), True),
        (cell((), outputs=(0,)), False),
    ],
)
def test_cell_without_a_path_to_the_output_has_a_warning(graph, dead):
    assert (NO_PATH in texts(draw_cells({"": graph}).axes[0])) == dead


def test_operations_on_one_edge_share_an_arrow():
    space = robnet()
    axes = space.draw(dict.fromkeys(space.choices, "skip+sepconv3x3")).axes[0]
    assert texts(axes).count("skip + sepconv3x3") == len(of(FancyArrowPatch, axes)) == 14
    axes = draw_cells({"": cell((("conv3x3", 0), ("se", 0), ("conv3x3", 0)))}).axes[0]
    assert texts(axes).count("conv3x3 + se + conv3x3") == len(of(FancyArrowPatch, axes)) == 1


def test_single_output_is_a_node_and_several_have_a_box():
    one = draw_cells({"": cell((("skip", 0),), (("skip", 1),))}).axes[0]
    assert sorted(t for t in texts(one) if t != "skip") == ["1", "input", "output"]
    two = draw_cells({"": cell((("skip", 0),), (("skip", 1),), outputs=(1, 2))}).axes[0]
    assert sorted(t for t in texts(two) if t != "skip") == ["1", "2", "input", "output"]
    assert len(of(PathPatch, two)) == 2


def test_output_is_rightmost_and_inputs_leftmost_and_arrows_lead_right():
    for space in SPACES:
        for architecture in samples(space, 5):
            for axes in space.draw(architecture).axes:
                at = {text.get_text(): text.get_position()[0] for text in axes.texts}
                numbered = [x for name, x in at.items() if name.isdigit()]
                inputs = [x for name, x in at.items() if name.startswith("input")]
                assert max(inputs) < min(numbered)
                assert max(numbered) < at["output"]
                for arrow in of(FancyArrowPatch, axes):
                    xs = arrow._path_original.vertices[:, 0]
                    assert all(a <= b for a, b in itertools.pairwise(xs))


def colours_of(*operations):
    graph = cell(*(((operation, i),) for i, operation in enumerate(operations)))
    axes = draw_cells({"": graph}).axes[0]
    colours = {text.get_text().replace("\n", " "): text.get_color() for text in axes.texts}
    return [colours[operation] for operation in operations]


def test_an_operation_has_one_colour_in_all_drawings():
    names = [name for name in OPERATIONS if name not in ("none", "skip")]
    together = colours_of(*names)
    assert together == [colours_of(name)[0] for name in names] == list(COLOURS[: len(names)])
    assert len(set(together)) == len(names)
    assert colours_of("mine", "conv3x3") == colours_of("conv3x3", "mine")[::-1]
    assert colours_of("mine")[0] in COLOURS


def test_skips_are_dashed_and_grey():
    axes = draw_cells({"": cell((("skip", 0), ("skip", 0)), (("skip", 1), ("conv3x3", 1)), (("se", 2),))}).axes[0]
    assert [arrow.get_linestyle() != "solid" for arrow in of(FancyArrowPatch, axes)] == [True, False, False]
    assert colours_of("skip") == [SKIP_COLOUR]


@pytest.mark.parametrize("colour", [*COLOURS, SKIP_COLOUR, WARNING_COLOUR])
def test_colours_are_readable_on_white(colour):
    """The contrast is at least 4.5 to 1, as WCAG 2.1 requires for text."""
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in mpl.colors.to_rgb(colour)]
    luminance = sum(weight * v for weight, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    assert 1.05 / (luminance + 0.05) >= 4.5


def test_text_is_of_seven_points_at_least():
    for figure in (nasnet().draw(samples(nasnet(), 1)[0]), draw_chain(["a"])):
        assert min(text.get_size() for text in figure.findobj(Text) if text.get_text()) >= 7


def test_several_cells_have_their_names_as_titles():
    drawn_texts = texts(darts().draw(samples(darts(), 1)[0]).axes[1])
    assert "reduction (halves the resolution)" in drawn_texts
    one = cell((("skip", 0),), strided=True)
    assert not {"only", "only (halves the resolution)"} & set(texts(draw_cells({"only": one}).axes[0]))


@pytest.mark.parametrize(("layers", "columns"), [(20, 2), (3, 1)])
def test_there_is_a_panel_for_each_cell_in_at_most_two_columns(layers, columns):
    space = robnet(shared=False, layers=layers)
    full = dict.fromkeys(space.choices, "skip+sepconv3x3")
    figure = space.draw(full)
    assert len(figure.axes) == layers
    for number, axes in enumerate(figure.axes, start=1):
        assert f"cell{number:02d}" in " ".join(texts(axes))
    corners = [tuple(axes.get_position().p0) for axes in figure.axes]
    assert len({round(x, 6) for x, _ in corners}) == columns
    for first, second in itertools.combinations(figure.axes, 2):
        assert not overlap(first.get_position(), second.get_position(), slack=1e-6)
    # The panels are in reading order: from left to right, then downwards.
    assert corners == sorted(corners, key=lambda corner: (-round(corner[1], 6), corner[0]))


@pytest.mark.parametrize("fonttype", ["none", "path"])
def test_equal_cells_give_equal_bytes(fonttype):
    for space in SPACES:
        architecture = samples(space, 1)[0]
        assert saved(space.draw(architecture), fonttype) == saved(space.draw(dict(architecture)), fonttype)


@pytest.mark.parametrize("name", ["<script>", "a & b", 'quo"te', "]]>", "it's", "--", "$x$", "a_b^c", "é"])
def test_names_are_text_and_nothing_else(name):
    graphs = {name: cell(((name, 0),)), "b": cell((("skip", 0),))}
    for svg in (saved(draw_cells(graphs)), saved(draw_chain([name, "b"]))):
        assert name in svg_texts(svg)
        assert "<script>" not in svg
    assert svg_texts(saved(draw_cells(graphs))).count(name) == 2
    # The report draws letters as paths.
    with mpl.rc_context(STYLE):
        svg = to_svg(draw_cells(graphs))
    ElementTree.fromstring(svg)
    assert "<script>" not in svg


def test_size_of_the_file_is_that_of_the_picture():
    figure = cell201().draw(samples(cell201(), 1)[0])
    root = ElementTree.fromstring(to_svg(figure))
    width, height = figure.get_size_inches() * 72
    assert root.get("viewBox").split()[:2] == ["0", "0"]
    assert [float(root.get(side)[:-2]) for side in ("width", "height")] == pytest.approx([width, height], abs=1e-3)


@pytest.mark.parametrize("nodes", [2, 3, 8, 12])
def test_cells_of_any_size_draw(nodes):
    space = cell_space(nodes=nodes, inputs=1, operations=["none", "conv3x3"])
    figure = space.draw(dict.fromkeys(space.choices, "conv3x3"))
    assert len(of(FancyArrowPatch, figure.axes[0])) == nodes * (nodes - 1) // 2


def test_drawing_changes_no_settings_and_does_not_import_pyplot():
    code = """
import sys
import search_spaces
assert "matplotlib" not in sys.modules
import matplotlib
def settings():  # Reading the backend selects one and imports pyplot.
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
before = settings()
space = search_spaces.cell201()
space.draw(space.at(9999))
search_spaces.drawing.figures.draw_chain(["a", "b"])
assert settings() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


class TestChain:
    def test_there_is_a_box_for_each_label_and_an_arrow_between(self):
        axes = draw_chain(["one", "2", "three"]).axes[0]
        assert texts(axes) == ["one", "2", "three"]
        assert len(of(FancyBboxPatch, axes)) == 3
        assert len(of(FancyArrowPatch, axes)) == 2

    @pytest.mark.parametrize("count", [1, 5, 6, 13])
    def test_text_is_inside_its_box_and_boxes_are_apart(self, count):
        figure = draw_chain(
            ["a rather long label, which takes more than one line", *("b" * (i + 1) for i in range(count - 1))]
        )
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        axes, renderer = figure.axes[0], canvas.get_renderer()
        boxes = [patch.get_window_extent(renderer) for patch in of(FancyBboxPatch, axes)]
        assert len(boxes) == len(of(FancyArrowPatch, axes)) + 1 == count
        assert not any(overlap(first, second) for first, second in itertools.combinations(boxes, 2))
        for text, box in zip(axes.texts, boxes, strict=True):
            inner = text.get_window_extent(renderer)
            assert box.x0 < inner.x0 < inner.x1 < box.x1
            assert box.y0 < inner.y0 < inner.y1 < box.y1
        assert all(figure.bbox.x0 <= b.x0 and b.x1 <= figure.bbox.x1 for b in boxes)
        assert all(figure.bbox.y0 <= b.y0 and b.y1 <= figure.bbox.y1 for b in boxes)

    def test_long_labels_are_wrapped_and_lines_are_kept(self):
        words, lines = draw_chain(["a rather long label, which takes more", "two\nlines"]).axes[0].texts
        assert words.get_text() == "a rather long label,\nwhich takes more"
        assert lines.get_text() == "two\nlines"


def test_separated_positions_are_nearest_to_their_targets():
    """`separate` solves a least-squares problem with minimum gaps. The oracle is a general solver of SciPy."""
    from scipy.optimize import minimize

    generator = random.Random(0)
    for count in (1, 2, 5, 9):
        targets = [generator.uniform(-30, 30) for _ in range(count)]
        weights = [generator.uniform(0.5, 8) for _ in range(count)]
        gaps = [generator.uniform(1, 12) for _ in range(count - 1)]
        positions = separate(targets, weights, gaps)
        assert all(a - b >= gap - 1e-9 for (a, b), gap in zip(itertools.pairwise(positions), gaps, strict=True))

        def cost(y, targets=targets, weights=weights):
            return sum(w * (a - b) ** 2 for w, a, b in zip(weights, y, targets, strict=True))

        apart = [{"type": "ineq", "fun": lambda y, i=i, gaps=gaps: y[i] - y[i + 1] - gaps[i]} for i in range(count - 1)]
        start = [-20.0 * i for i in range(count)]
        best = minimize(cost, start, constraints=apart, method="SLSQP", options={"ftol": 1e-12, "maxiter": 500})
        assert positions == pytest.approx(list(best.x), abs=1e-3)
