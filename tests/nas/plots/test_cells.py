"""Drawings of architectures are deterministic. If a space cannot draw, the run completes without drawings."""

import pytest
from matplotlib.figure import Figure

from nas.bundle.verify import verify
from nas.errors import RunError
from nas.pipeline.search import search
from nas.plots.cells import draw
from search_spaces import Choice, SearchSpace, cell201, macro

pytestmark = pytest.mark.usefixtures("no_surfaces")

SPACE = """
import dataclasses

from search_spaces import SearchSpace, cell201


PLAIN = cell201(4, 1, 1)


def own(drawing: str = "") -> SearchSpace:
    def draw(architecture):
        if drawing == "raises":
            raise KeyError("no such edge")
        architecture.clear()  # `draw` gets a copy.
        return drawing

    return dataclasses.replace(PLAIN, name="own", draw=draw)
"""


def space_that_draws(draw):
    return SearchSpace(name="mine", choices={"a": Choice(1, 2)}, build=cell201().build, draw=draw)


@pytest.mark.parametrize("space", [cell201(), macro()], ids=lambda space: space.name)
def test_the_same_architecture_gives_the_same_file(space):
    svg, png = (draw(space, space.at(7), form) for form in ("svg", "png"))
    assert svg.startswith(b"<svg")
    assert png.startswith(b"\x89PNG")
    assert (svg, png) == tuple(draw(space, space.at(7), form) for form in ("svg", "png"))
    assert svg != draw(space, space.at(8))


def test_a_space_without_a_drawing_has_none():
    assert draw(space_that_draws(None), {"a": 1}) is None


def unreadable(architecture):
    figure = Figure()
    figure.text(0, 0, r"$\nosuchsymbol$")
    return figure


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        (str, r"TypeError: .*Figure, got str"),
        (lambda architecture: None, r"TypeError: .*Figure, got NoneType"),
        (lambda architecture: architecture["b"], r"KeyError: 'b'"),
        (unreadable, r"ValueError: .*"),
    ],
)
def test_what_cannot_be_drawn_names_the_space_and_the_remedy(drawing, message):
    with pytest.raises(RunError, match=rf"^mine .*drawn.*: {message}; .*`draw` of its SearchSpace$"):
        draw(space_that_draws(drawing), {"a": 1})


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        pytest.param(
            "text",
            "own cannot be drawn: TypeError: draw must return a matplotlib Figure, got str; fix the `draw` of its",
            marks=pytest.mark.slow,
        ),
        ("raises", "own cannot be drawn: KeyError: 'no such edge'; fix the `draw` of its SearchSpace"),
    ],
)
def test_a_run_completes_without_a_drawing(tiny, tmp_path, drawing, message):
    (tmp_path / "own.py").write_text(SPACE, encoding="utf-8")
    space = f"space={{name: '{tmp_path}/own.py:own', drawing: {drawing}}}"
    smallest = ["search.trials=1", "search.random_trials=1", "training.epochs=1", "finalists.epochs=1"]
    run = search(tiny(space, "finalists.references=false", *smallest), tmp_path / "run")
    (bundle,) = run.bundles
    assert len(bundle.stored.architecture) == 6
    assert all(outcome.passed for outcome in verify(bundle.folder, trust=True))
    assert not (bundle.folder / "plots" / "cell.svg").exists()
    card = (bundle.folder / "README.md").read_text(encoding="utf-8")
    assert f"No drawing: {message}" in card
    assert "plots/cell.svg" not in card
    assert f"No drawing: {message}" in run.folder.report.read_text(encoding="utf-8").replace("&#39;", "'")
