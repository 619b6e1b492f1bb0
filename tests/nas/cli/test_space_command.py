"""`hardcell space`: summary, drawings, checks and error messages."""

import json
import re

import pytest
import yaml

from nas.analysis.spaces import find_space, quartiles, random_architectures, summarise
from nas.cli.space_tables import format_size, grouped
from search_spaces import Choice, SearchSpace, cell201

SOURCE = """
import torch
from matplotlib.figure import Figure
from torch import nn

from search_spaces import Choice, SearchSpace

CHOICES = {"width": Choice(4, 6), "kernel": Choice(1, 3), "path": Choice(True, False)}


class Cut(nn.Module):
    def forward(self, x):
        return 0 * x


def build(architecture, input_shape, num_classes):
    if min(input_shape[1:]) < 4:
        raise ValueError("images must be at least 4 x 4 pixels\\nand a second line")
    width = architecture["width"]
    return nn.Sequential(
        nn.Conv2d(input_shape[0], width, architecture["kernel"], padding=architecture["kernel"] // 2),
        nn.ReLU() if architecture["path"] else Cut(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, num_classes),
    )


def canonical(architecture):
    return dict(architecture) if architecture["path"] else {**architecture, "kernel": 1}


def figure(architecture):
    drawn = Figure(figsize=(2, 1))
    drawn.text(0.1, 0.5, str(architecture["width"]))
    return drawn


def wrong(architecture):
    return {**architecture, "path": True}


def numbers(architecture, input_shape, num_classes):
    "Needs the values of the weights, which do not exist on the meta device."
    network = build(architecture, input_shape, num_classes)
    float(network[0].weight.sum())
    return network


def fails(architecture):
    raise RuntimeError("no paper left")


SPACE = SearchSpace(name="mine", choices=CHOICES, build=build, canonical=canonical, draw=figure)
PLAIN = SearchSpace(name="plain", choices=CHOICES, build=build, canonical=canonical)
WRONG = SearchSpace(name="wrong", choices=CHOICES, build=build, canonical=wrong)
NUMBERS = SearchSpace(name="numbers", choices=CHOICES, build=numbers, canonical=canonical)
TEXT = SearchSpace(name="text", choices=CHOICES, build=build, draw=str)
FAILS = SearchSpace(name="fails", choices=CHOICES, build=build, draw=fails)
UNCANONICAL = SearchSpace(name="uncanonical", choices=CHOICES, build=build, canonical=fails)


def made(width: int = 4) -> SearchSpace:
    return SearchSpace(name=f"made{width}", choices=CHOICES, build=build, canonical=canonical)
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


@pytest.fixture
def refused(cli):
    """Runs `hardcell space`, which must fail with exit code 2, one line on stderr and no stdout. Returns the line."""

    def run(*arguments):
        code, out, err = cli("space", *arguments)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        return err

    return run


def test_a_summary(mine, cli):
    code, out, err = cli("space", f"{mine}:SPACE", "--input", "3,8,8", "--classes", "5")
    assert (code, err) == (0, "")
    assert out.startswith("mine: 8 architectures\n")
    assert re.search(r"width +│ 4, 6 ", out)
    assert re.search(r"path +│ true, false ", out)
    assert "all 8 architectures, images of 3 x 8 x 8, 5 classes" in out
    assert re.search(r"parameters │ 41 +│", out)  # Convolution 3 * 4 + 4, linear 4 * 5 + 5.
    assert "4 of 8 (50%) have no path from the image to the logits" in out
    assert re.search(r"2 of 8 \(25%\) are .* by the canonical form", out)
    assert "latency" not in out


def test_a_summary_as_json(mine, cli):
    code, out, _ = cli("space", f"{mine}:SPACE", "--input", "3,8,8", "--classes", 5, "--json", "--latency")
    record = json.loads(out)
    assert code == 0
    assert (record["name"], record["size"], record["architectures"]) == ("mine", 8, 8)
    assert record["choices"] == {"width": [4, 6], "kernel": [1, 3], "path": [True, False]}
    wanted = sorted(3 * width * kernel**2 + width + 5 * width + 5 for width in (4, 6) for kernel in (1, 3) for _ in range(2))
    assert record["costs"]["parameters"] == quartiles(wanted)
    assert record["costs"]["parameters"]["min"] == 41
    assert (record["disconnected"], record["duplicates"]) == (0.5, 0.25)
    assert (record["input"], record["classes"], record["drawings"]) == ([3, 8, 8], 5, [])
    assert 0 < record["costs"]["latency"]["min"] <= record["costs"]["latency"]["max"] < 1


def test_large_images_use_the_meta_device_where_that_is_possible(mine):
    """On the meta device, a layer that multiplies by zero counts as a path. NUMBERS cannot be built on this device."""
    for name in ("SPACE", "NUMBERS"):
        space = find_space(f"{mine}:{name}")
        architectures = random_architectures(space, 8, 0)
        large = summarise(space, architectures, (3, 72, 72), 5)
        assert large.costs["parameters"] == summarise(space, architectures, (3, 8, 8), 5).costs["parameters"]
        assert large.disconnected == (0 if name == "SPACE" else 4)
        assert large.costs["MACs"][0] > 80 * summarise(space, architectures, (3, 8, 8), 5).costs["MACs"][0] / 2


def test_the_seed_and_the_number_of_architectures():
    space = cell201(4, 1, 1)
    first, second = (random_architectures(space, 20, seed) for seed in (0, 1))
    assert (len(first), len(second)) == (20, 20)
    assert first != second
    assert first == random_architectures(space, 20, 0)


def test_cells_cut_off_are_counted():
    space = cell201(4, 1, 1)
    nothing = dict.fromkeys(space.choices, "none")
    summary = summarise(space, [nothing, {**nothing, "edge03": "skip"}, {**nothing, "edge01": "skip"}], (3, 8, 8), 10)
    assert (summary.disconnected, summary.duplicates) == (2, 1)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (1, "1 architecture"),
        (15_625, "15,625 architectures"),
        (9_119_789_245_425_254_400, "9,119,789,245,425,254,400 architectures (9.12e18)"),
        (10**30, "1.00e30 architectures"),
        (4**1000, "1.15e602 architectures"),
    ],
)
def test_sizes(size, text):
    assert format_size(size) == text


def test_choices_of_the_same_values_stand_in_one_row():
    choices = {f"op{i}": Choice("none", "skip") for i in range(16)} | {
        "inputs": Choice("0,1", "0,2"),
        "last": Choice(1, "1", None),
    }
    assert grouped(choices) == [
        ("op0 … op15 (16 choices)", "none, skip"),
        ("inputs", "0,1; 0,2"),
        ("last", "1, '1', null"),
    ]


def test_options_of_the_space_and_the_space_of_a_config(mine, cli, tmp_path):
    code, out, _ = cli("space", f"{mine}:made", "--set", "width=6", "--input", "3,8,8")
    assert (code, out.splitlines()[0]) == (0, "made6: 8 architectures")
    config = tmp_path / "search.yaml"
    config.write_text(yaml.safe_dump({"space": {"name": "mine.py:made", "width": 5}}), encoding="utf-8")
    assert cli("space", config, "--input", "3,8,8")[1].startswith("made5: ")
    assert cli("space", config, "--input", "3,8,8", "--set", "width=7")[1].startswith("made7: ")


def test_drawings(mine, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("space", f"{mine}:SPACE", "--input", "3,8,8", "--draw", "cell.svg", "--count", 3)
    assert (code, err) == (0, "")
    assert out.splitlines()[-3:] == [f"drawing: cell-{number}.svg" for number in (1, 2, 3)]
    first = [(tmp_path / f"cell-{number}.svg").read_bytes() for number in (1, 2, 3)]
    assert all(b"<svg" in text for text in first)
    _, out, _ = cli("space", f"{mine}:SPACE", "--input", "3,8,8", "--draw", "cell.svg", "--count", 3, "--json")
    assert json.loads(out)["drawings"] == ["cell-1.svg", "cell-2.svg", "cell-3.svg"]
    assert [(tmp_path / f"cell-{number}.svg").read_bytes() for number in (1, 2, 3)] == first
    cli("space", f"{mine}:SPACE", "--input", "3,8,8", "--draw", "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    # The space has only eight architectures.
    assert "drawing: all-8.svg" in cli("space", f"{mine}:SPACE", "--input", "3,8,8", "--draw", "all.svg", "--count", 9)[1]
    assert not (tmp_path / "all-9.svg").exists()


def test_checks_that_pass(mine, cli):
    code, out, err = cli("space", f"{mine}:SPACE", "--check", "--input", "3,12,8", "--samples", 4)
    assert (code, err) == (0, "")
    assert "✗" not in out
    assert re.search(r"✓ │ canonical equal functions +│ 2 architectures .*\b8\b", out)
    assert re.search(r"✓ │ round trip +│ JSON, YAML; 4 architectures", out)


def test_checks_that_fail_show_the_architecture_and_exit_2(mine, cli):
    code, out, err = cli("space", f"{mine}:WRONG", "--check", "--input", "3,12,8", "--samples", 4)
    assert (code, err) == (2, "")
    assert re.search(r"✗ │ canonical equal functions +│ .*another function", out)
    text = out.split("canonical equal functions fails with this architecture:\n")[1].split("\n\n")[0]
    shown = yaml.safe_load("\n".join(line for line in text.splitlines() if line.startswith("  ")))
    assert shown["path"] is False
    assert set(shown) == {"width", "kernel", "path"}
    assert "choice 'path' never changes the canonical form" in out


def test_a_hint_is_shown_and_is_no_failure(mine, cli):
    mine.write_text(
        mine.read_text()
        + """
def blind(architecture, input_shape, num_classes):
    kernel = architecture["kernel"] if architecture["path"] else 1
    return build({**architecture, "kernel": kernel}, input_shape, num_classes)


LOOSE = SearchSpace(name="loose", choices=CHOICES, build=blind)
"""
    )
    arguments = ("space", f"{mine}:LOOSE", "--check", "--input", "3,12,8", "--samples", 8)
    code, out, err = cli(*arguments)
    assert (code, err) == (0, "")
    assert re.search(r"! │ canonical complete +│ a canonical form is missing: .*'kernel' changes nothing", out)
    record = json.loads(cli(*arguments, "--json")[1])
    assert [check["check"] for check in record["checks"] if check["hint"]] == ["canonical_complete"]
    assert record["passed"]


def test_checks_as_json(mine, cli):
    code, out, _ = cli("space", f"{mine}:WRONG", "--check", "--input", "3,12,8", "--samples", 4, "--json")
    record = json.loads(out)
    assert (code, record["passed"], record["name"]) == (2, False, "wrong")
    failed = {check["check"]: check for check in record["checks"] if check["passed"] is not True}
    assert list(failed) == ["canonical_equal_functions", "reachable"]
    assert failed["canonical_equal_functions"]["architecture"]["path"] is False
    assert failed["reachable"]["message"].startswith("choice 'path'")


def test_input_and_classes_are_those_of_the_checks(mine, cli):
    code, out, _ = cli("space", f"{mine}:SPACE", "--check", "--input", "2,3,8", "--classes", 3, "--samples", 2)
    assert code == 2
    assert re.search(r"\(2, 3, 8\) raises ValueError: images must be at least 4 x 4 pixels", out)
    assert "not tried: no sampled network can be built" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cell21"], "space must be one of .*, or FILE.py:NAME, got 'cell21'; did you mean 'cell201'?"),
        (["cell201", "--set", "chanels=8"], "--set: unknown key space.chanels; did you mean 'channels'?"),
        (["darts", "--set", "channels=many"], "--set: space.channels must be int, got 'many'"),
        (["cell201", "--set", "channels=0"], "--set: space is refused: channels must be at least 1, got 0"),
        (["cell201", "--set", "channels"], "--set must be KEY=VALUE, got 'channels'"),
        (
            ["cell201", "--input", "32,32"],
            "--input must be C,H,W, three positive integers such as 3,32,32, got '32,32'",
        ),
        (["cell201", "--input", "3,0,32"], "--input must be C,H,W, .* got '3,0,32'"),
        (["cell201", "--input", "a,b,c"], "--input must be C,H,W, .* got 'a,b,c'"),
        (
            ["cell201", "--input", "3,2,2"],
            "cell201 fails on images of 3 x 2 x 2: ValueError: images must be at least 4 x 4",
        ),
        (["cell201", "--draw", "cell.pdf"], "--draw must name a file that ends in .svg or .png, got 'cell.pdf'"),
        (["cell201", "--draw", "nowhere/cell.svg"], "--draw nowhere/cell.svg: there is no folder nowhere"),
        (["cell201", "--count", "2"], "--count is the number of drawings; give --draw FILE"),
        (["nothing.py:SPACE"], "space .*nothing.py does not exist"),
        (["nothing.yaml"], "nothing.yaml: cannot be read"),
        (["no_such_module:SPACE"], "module 'no_such_module' does not import: ModuleNotFoundError"),
    ],
)
def test_what_is_refused(arguments, message, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(message.replace("?", r"\?"), refused(*arguments))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("NONE", [], "mine.py has no 'NONE'"),
        ("CHOICES", [], "must be a SearchSpace, or a function that returns one"),
        ("SPACE", ["--set", "width=3"], "--set: unknown key space.width"),
        ("PLAIN", ["--draw", "a.svg"], "plain has no drawing; give its SearchSpace a `draw`"),
        (
            "TEXT",
            ["--draw", "a.svg"],
            "text cannot be drawn: TypeError: draw must return a matplotlib Figure, got str; fix the `draw` of its Sear",
        ),
        (
            "FAILS",
            ["--draw", "a.png"],
            "fails cannot be drawn: RuntimeError: no paper left; fix the `draw` of its SearchSpace",
        ),
        ("UNCANONICAL", [], "uncanonical has no canonical form: RuntimeError: no paper left"),
        (
            "SPACE",
            ["--input", "3,3,8"],
            "ValueError: images must be at least 4 x 4 pixels (architecture width: 4, kernel: 1,",
        ),
    ],
)
def test_what_is_refused_of_a_space_of_ones_own(name, options, message, mine, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(f"{mine}:{name}", *options)
    assert not list(tmp_path.glob("*.svg"))


OPERATIONS = """
from torch import nn


def good(channels, stride):
    return nn.Sequential(nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(channels))


def strideless(channels, stride):
    return good(channels, 1)
"""


@pytest.fixture
def cells(tmp_path):
    """A function that writes a config whose cells have a custom operation, and returns its path."""

    def write(operation, **options):
        (tmp_path / "ops.py").write_text(OPERATIONS, encoding="utf-8")
        space = {"name": "cells", "nodes": 3, "operations": ["none", "skip", operation], "channels": 4, "cells_per_stage": 1}
        path = tmp_path / "cells.yaml"
        path.write_text(yaml.safe_dump({"space": space | {"stages": 2} | options}), encoding="utf-8")
        return path

    return write


def test_cells_with_an_operation_of_ones_own(cells, cli):
    code, out, err = cli("space", cells("ops.py:good", cells="normal_reduction"), "--check", "--samples", 4)
    assert (code, err) == (0, "")
    assert "✗" not in out
    code, out, err = cli("space", cells("ops.py:good"), "--input", "3,8,8")
    assert (code, err) == (0, "")
    assert out.startswith("cells: 27 architectures\n")
    assert re.search(r"edge01, edge02, edge12 +│ none, skip, good ", out)


def test_an_operation_of_ones_own_that_ignores_its_stride(cells, refused):
    """The error names the operation and comes before any network is built."""
    path = cells("ops.py:strideless", cells="normal_reduction")
    assert refused(path) == (
        f"hardcell: {path}: space is refused: operation 'strideless' at stride 2 must map (N, C, H, W) to "
        "(N, C, ceil(H/2), ceil(W/2)), got (2, 8, 9, 6) for (2, 8, 9, 6)\n"
    )


def test_operations_typed_in_a_shell(cells, refused, cli, monkeypatch):
    monkeypatch.chdir(cells("ops.py:good").parent)
    code, out, _ = cli("space", "cells", "--set", "operations=[skip, ops.py:good]", "--input", "3,8,8", "--set", "nodes=2")
    assert (code, out.splitlines()[0]) == (0, "cells: 2 architectures")
    line = refused("cells", "--set", "operations=[skip, ops.py:god]")
    assert line == "hardcell: --set: space.operations[1] ops.py has no 'god'\n"


def test_a_file_that_does_not_import_is_named(tmp_path, refused):
    (tmp_path / "broken.py").write_text("import no_such_module_at_all\n", encoding="utf-8")
    line = refused(f"{tmp_path}/broken.py:SPACE")
    assert f"{tmp_path}/broken.py, line 1, does not import: ModuleNotFoundError: No module named" in line


@pytest.mark.parametrize("arguments", [["--samples", "-1"], ["--samples", "0"], ["--count", "0"], ["--classes", "0"]])
def test_numbers_below_one(arguments, cli):
    code, out, err = cli("space", "cell201", *arguments)
    assert (code, out) == (2, "")
    assert f"Invalid value for '{arguments[0]}': {arguments[1]} is not in the range x>=1" in err


def test_interruption_is_reported(cli, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("nas.analysis.spaces.find_space", interrupt)
    code, out, err = cli("space", "cell201")
    assert (code, out) == (130, "")
    assert err.startswith("\ninterrupted; ")


def test_a_space_without_alternatives():
    space = SearchSpace(name="one", choices={"only": Choice(1)}, build=cell201(4, 1, 1).build)
    assert random_architectures(space, 100, 0) == [{"only": 1}]
