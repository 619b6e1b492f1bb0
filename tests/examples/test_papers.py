"""The paper scripts: their functions on small inputs, and runs at the smallest size that store and resume results."""

import dataclasses
import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nas
import nas.data
from evaluators import FGSM, TransferMatrix, parameters
from nas.config.writer import as_data
from nas.data import Split
from nas.samplers import PolicyGradient
from search_spaces import PUBLISHED, CellGraph, nasnet

SCRIPTS = Path(__file__).parents[2] / "examples" / "papers"
PICTURES = {
    "universality": ("curves", "rescaled", "exponents"),
    "logit_differences": ("shapes", "training", "predictions"),
    "entropy_penalty": ("",),
    "surfaces": ("", "digits_adversarial_random", "digits_two_adversarial", "digits_three_images", "digits_lines"),
    "neighbourhoods": ("shares", "radii", "sets"),
    "transfer": ("matrices", "groups", "reach"),
    "uncertainty": ("balls", "boundary", "low_margin"),
    # The second script reads the searches of the first.
    "architecture_search": ("children", "networks", "operations"),
    "generalisation": ("",),
}
# Modules that are not scripts. `recorded` is named in `paper_search.yaml`; the scripts import the others.
SHARED = {"lab", "children", "cells", "rivals", "recorded", "measured"}
# Scripts that are tested in another file.
ELSEWHERE = {"table_search"}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """One output folder for all scripts, because they share trained networks."""
    return tmp_path_factory.mktemp("papers")


def start(script, work):
    command = [sys.executable, SCRIPTS / f"{script}.py", "--smoke", "--workers", "1", "--out", work / script]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(script, out):
    """Checks that the figures of a script exist and returns its results."""
    names = [f"{script}_{part}.png" if part else f"{script}.png" for part in PICTURES[script]]
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in names)
    return json.loads((out / f"{script}.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("script", [name for name in PICTURES if name != "entropy_penalty"])
def test_script_runs(script, work):
    assert start(script, work)
    check(script, work / script)


@pytest.mark.slow
def test_a_search_goes_on_and_is_not_run_twice(work, script, monkeypatch):
    children, out = script("children"), work / "broken_off" / "architecture_search"

    class BrokenOffError(Exception):
        pass

    def on_progress(data, finished, trials):
        seen.append(finished)
        if breaks and finished == 3:
            raise BrokenOffError

    seen, breaks = [], True
    with pytest.raises(BrokenOffError):
        children.search("digits", "smoke", out, on_progress)
    assert len(children.read_children("digits", out)) == 3
    seen, breaks = [], False
    children.search("digits", "smoke", out, on_progress)
    assert seen == [3, 4, 5, 6]
    rows = children.read_children("digits", out)
    whole = work / "architecture_search"
    if not (whole / "architecture_search.json").exists():  # Another pytest process may have run this script.
        start("architecture_search", work)
    kept = json.loads((whole / "architecture_search.json").read_text(encoding="utf-8"))["children"]["digits"]
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in kept]
    assert [row["random"] for row in rows] == [True] * 4 + [False] * 2
    assert not (children.run_folder("digits", out) / "bundles").exists()
    seen = []
    monkeypatch.setattr(children, "resume_events", None)
    children.search("digits", "smoke", out, on_progress)
    assert seen == [6]


@pytest.mark.slow
def test_entropy_penalty_resumes_from_its_stored_networks(work):
    printed = start("entropy_penalty", work)
    numbers, out = check("entropy_penalty", work / "entropy_penalty"), work / "entropy_penalty"
    kept = sorted((out / "networks").iterdir())
    before = {file: file.stat().st_mtime_ns for file in kept}
    kept[0].unlink()
    assert start("entropy_penalty", work).splitlines()[-1] == printed.splitlines()[-1]
    assert check("entropy_penalty", out) == numbers
    assert all(file.stat().st_mtime_ns == before[file] for file in kept[1:])
    assert kept[0].exists()


def test_every_script_has_a_test():
    assert {file.stem for file in SCRIPTS.glob("*.py")} - SHARED == {*PICTURES} | ELSEWHERE


@pytest.fixture
def script(monkeypatch):
    """A function that imports a script by name. The folder of the scripts is on the import path."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module
    for name in [*PICTURES, *SHARED]:
        sys.modules.pop(name, None)


@pytest.fixture
def half_spaces():
    """A linear network of two classes for images (1, 2, 2). Its logits are the first two pixels."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
        network[1].bias.zero_()
    return network


def test_a_line_through_a_linear_network(script, half_spaces):
    surfaces = script("surfaces")
    x = torch.tensor([0.6, 0.4, 0.5, 0.5]).view(1, 2, 2)
    line = surfaces.line_statistics(half_spaces, x, 0, torch.tensor([-0.2, 0.2, 0, 0]).view(1, 2, 2), 2.0, 31)
    assert line["first"] == pytest.approx(0.2 / 2**0.5, abs=1e-4)
    assert line["first_order"] == pytest.approx(0.2 / 2**0.5, abs=1e-4)
    assert line["r_squared"] == pytest.approx(1)
    assert (line["crossings"], line["returns"], line["first_in_range"]) == (1, False, True)
    far = surfaces.line_statistics(half_spaces, x, 0, torch.tensor([0, 0, 0.1, 0.0]).view(1, 2, 2), 2.0, 31)
    assert (far["first"], far["crossings"]) == (None, 0)


def test_fooling_and_balls_of_a_linear_network(script, half_spaces):
    surfaces, neighbourhoods = script("surfaces"), script("neighbourhoods")
    x = torch.tensor([[0.6, 0.4, 0.5, 0.5], [0.9, 0.1, 0.5, 0.5], [1, 0, 0.5, 0.5]]).view(3, 1, 2, 2)
    zeros = torch.zeros(3, dtype=torch.int64)
    index, points, sizes = surfaces.attack_at_smallest_epsilon(half_spaces, x, zeros, FGSM(), (0.05, 0.15, 0.45))
    assert (index.tolist(), sizes.tolist()) == ([0, 1], [0.15, 0.45])
    assert (half_spaces(points).argmax(1) == 1).all()
    balls = neighbourhoods.ball_statistics(half_spaces, points, zeros[:2], sizes.tolist(), 0.2, 50)
    assert balls["proved"] == pytest.approx([0.05, 0.05], rel=1e-2)
    assert balls["attacked"] == pytest.approx([0.05, 0.05], rel=0.06)
    assert all(proved <= attacked for proved, attacked in zip(balls["proved"], balls["attacked"], strict=True))


def test_groups_of_a_transfer_matrix(script):
    fooled = np.zeros((1, 2, 2, 4), dtype=bool)
    fooled[0, 0, 0], fooled[0, 0, 1] = [1, 1, 1, 0], [1, 0, 0, 1]
    fooled[0, 1, 1], fooled[0, 1, 0] = [0, 0, 0, 1], [1, 1, 1, 1]
    matrix = TransferMatrix(("a", "b"), (0.1,), fooled, np.arange(4), 4)
    pooled = script("transfer").pooled_transfer(matrix, 0, "g", [(0, 1), (1, 0)])
    assert (pooled["count"], pooled["of"]) == (2, 4)
    assert pooled["interval"][0] <= 0.5 <= pooled["interval"][1]


def test_networks_that_are_right_on_too_few_images_are_left_out(script, half_spaces):
    class Wrong(nn.Module):
        def forward(self, x):
            return -x.flatten(1)[:, :2]

    x = torch.rand(50, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    split = Split(x, half_spaces(x).argmax(1), "x")
    assert script("transfer").drop_inaccurate({"a": half_spaces, "wrong": Wrong(), "b": half_spaces}, split, 20) == [
        "a",
        "b",
    ]


def test_scaled_searches_differ_from_paper_search_yaml_only_in_numbers(script, tmp_path, monkeypatch):
    children = script("children")
    monkeypatch.setattr(
        children, "data_section", lambda *_: {"name": "cifar10", "path": None, "validation": 0.1, "limit": 50_000}
    )
    written = as_data(nas.load_config(children.YAML))
    assert isinstance(nas.load_config(children.YAML).search.sampler, PolicyGradient)
    assert written["objective"] == {"minimise": ["adversarial_error"], "constraints": {}}
    for scale in children.SEARCH_SCALES.values():
        scaled = as_data(children.search_config("cifar10", scale, tmp_path))
        assert scaled["evaluation"]["epsilon"] == scaled["training"]["recipe"]["epsilon"] == 4 / 255
        assert scaled["search"]["trials"] == scale.trials
        assert _without_numbers({**scaled, "data": None}) == _without_numbers({**written, "data": None})


def _without_numbers(tree):
    if isinstance(tree, dict):
        return {key: _without_numbers(value) for key, value in tree.items()}
    return None if isinstance(tree, int | float) and not isinstance(tree, bool) else tree


@pytest.mark.parametrize(
    ("nodes", "outputs", "expected"),
    [
        # The first cell has only skips. The second has a convolution and then a pooling. The third is the same, but returns
        # the output of the convolution.
        (((("skip", 0), ("skip", 1)),), (2,), 0),
        (((("conv3x3", 0), ("skip", 1)), (("maxpool3x3", 2), ("skip", 0))), (3,), 2),
        (((("conv3x3", 0), ("skip", 1)), (("maxpool3x3", 2), ("skip", 0))), (2,), 1),
        # Block 2 has no inputs, so no path leads through it.
        (((), (("conv3x3", 2), ("conv1x1", 1))), (3,), 1),
        (((), (("conv3x3", 2),)), (3,), 0),
    ],
)
def test_depth_of_a_cell(script, nodes, outputs, expected):
    assert script("cells").depth(CellGraph(2, nodes, outputs)) == expected


def test_depth_of_nasnet_a(script):
    graphs = nasnet().graphs(PUBLISHED["nasnet_a"].architecture)
    # No block of the normal cell uses another block. In the reduction cell, a path leads through two blocks.
    assert {name: script("cells").depth(graph) for name, graph in graphs.items()} == {"normal": 1, "reduction": 2}


def test_operations_of_the_best_quarter_are_compared_with_the_others(script):
    space = nasnet()
    plain = {name: choice.values[0] for name, choice in space.choices.items()}
    convolutions = {
        name: "conv3x3" if name.startswith("normal") and "_op" in name else value for name, value in plain.items()
    }
    differences = script("cells").compare_best(space, [convolutions] * 4 + [plain] * 12, [0.1] * 4 + [0.2] * 12)
    rows = {(one["cell"], one["kind"], one["name"]): one for one in differences}
    assert (rows["normal", "operation", "conv3x3"]["best"], rows["normal", "operation", "conv3x3"]["others"]) == (1, 0)
    assert rows["normal", "operation", "skip"]["best"] == 0
    # Of the C(16, 4) = 1820 choices of a quarter, only this one is as extreme.
    assert rows["normal", "operation", "conv3x3"]["p_value"] == pytest.approx(1 / 1820, abs=1e-3)
    assert rows["normal", "operation", "conv3x3"]["corrected"] >= rows["normal", "operation", "conv3x3"]["p_value"]
    # The reduction cell and the inputs of both cells are the same in all architectures.
    assert {one["p_value"] for one in differences if one["cell"] == "reduction" or one["kind"] == "input"} == {1.0}
    assert sum(one["best"] for one in differences if one["cell"] == "normal" and one["kind"] == "input") == pytest.approx(1)


def test_gains_of_a_penalty_compare_the_same_images(script):
    gains = script("entropy_penalty").gains
    plain = {"PGD, cross-entropy": [1, 1, 1, 1], "Square": [1, 1, 0, 0]}
    masked = {"PGD, cross-entropy": [0, 0, 0, 0], "Square": [1, 1, 1, 0]}
    shared = {"data": "digits", "training": "standard", "wrong": [0, 0, 0, 0]}
    (row,) = gains([{**shared, "strength": 0.0, "fooled": plain}, {**shared, "strength": 1.0, "fooled": masked}])
    mean_gains = {name: one["gain"] for name, one in row["gains"].items()}
    assert mean_gains == {"PGD, cross-entropy": 1, "Square": -0.25, "worst case": 0.25, "clean": 0, "masked": 0.75}
    assert row["gains"]["PGD, cross-entropy"]["interval"] == [1, 1]
    low, high = row["gains"]["worst case"]["interval"]
    assert low == 0 < 0.25 < high


def test_exponents_under_an_attack_relative_to_fgsm(script):
    universality = script("universality")

    def network(**exponents):
        laws = {name: {"law": {"exponent": e} if e else {"reason": "too steep"}} for name, e in exponents.items()}
        return {"attacks": laws}

    networks = [
        network(fgsm=1.0, pgd=1.5),
        network(fgsm=2.0, pgd=6.0),
        network(fgsm=None, pgd=9.0),
        network(fgsm=1.0, pgd=None),
    ]
    one = universality.exponents_relative_to_fgsm(networks, "pgd")
    assert (one["networks"], one["range"]) == (2, pytest.approx([1.5, 3]))
    assert one["mean_ratio"] == pytest.approx(math.sqrt(4.5))
    assert one["p_value"] == 0.5  # Both ratios are above 1: one of four sign patterns, times two for a two-sided test.
    assert universality.exponents_relative_to_fgsm(networks[1:], "pgd") is None


def test_fit_windows_give_widths_and_final_flip_rates(script):
    universality = script("universality")
    law = {"law": {"window": [0.01, 0.1]}, "flip_rate": [0.0, 0.2, 0.4]}
    none = {"law": {"reason": "too steep"}, "flip_rate": [0.0, 0.0, 0.0]}
    row = {
        "epsilons": [0.01, 0.1, 1.0],
        "attacks": {"fgsm": law, "step_ll": none, "pgd": law | {"law": {"window": [0.01, 0.02]}}},
    }
    windows = universality.fit_windows([row])
    assert (windows["under_a_decade"], windows["decades_most"]) == (1, pytest.approx(1))
    assert windows["decades_median"] == pytest.approx((1 + math.log10(2)) / 2)
    assert windows["flip_rate_at_the_end_median"] == pytest.approx((0.2 + 0.2 * math.log10(2)) / 2)


def test_adversarial_images_are_compared_with_the_clean_ones_they_are_made_of(script):
    def group(part, shares, training="standard"):
        return {"data": "mnist", "training": training, "part": part, "epsilons": [0.0, 0.1], "others": {"of_images": shares}}

    clean, adversarial = [[0.0, 0.5], [0.2, 0.5]], [[1.0, 0.5], [0.8, 0.7]]
    rows = [group("clean", clean), group("adversarial", adversarial), {"data": "mnist", "training": "x", "part": "clean"}]
    rows.append({**rows[-1], "part": "adversarial"})  # Without adversarial images there is no comparison.
    (comparison,) = script("uncertainty").adversarial_minus_clean(rows)
    assert comparison["difference"] == pytest.approx([0.8, 0.1])
    assert comparison["interval"] == [pytest.approx([0.6, 1.0]), pytest.approx([0.0, 0.2])]


def test_universal_transfer_among_some_of_the_networks(script):
    transfer = script("transfer")
    fooled = np.zeros((1, 3, 3, 2), dtype=bool)
    fooled[0, 0] = [[True, True], [True, False], [True, True]]
    matrix = TransferMatrix(("a", "b", "c"), (0.1,), fooled, np.arange(2), 2)
    whole, part = (
        transfer.universal_transfer_rows(matrix)[0],
        transfer.universal_transfer_rows(transfer.restrict_networks(matrix, ["a", "c"]))[0],
    )
    assert (whole["to_all"]["images"], whole["to_some"]["images"]) == ([0], [1])
    assert part["to_all"]["images"] == [0, 1]
    assert transfer.universal_transfer_rows(transfer.restrict_networks(matrix, ["a"])) == []


def test_recorded_errors_of_a_linear_network(script, monkeypatch):
    recorded = script("recorded")
    x = torch.zeros(6, 1, 1, 2)
    x[:, 0, 0, 0] = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.2, 0.9])
    x[:, 0, 0, 1] = 0.5
    split = Split(x, torch.tensor([0, 0, 0, 0, 0, 1]), "x")  # The network misclassifies the last two images.
    monkeypatch.setattr(recorded, "open_test", lambda config: split)
    config = nas.Config()
    config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, epsilon=0.06, images=5))
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    network[1].load_state_dict({"weight": torch.tensor([[1.0, 0.0], [0.0, 1.0]]), "bias": torch.zeros(2)})
    metrics = recorded.errors(network, nas.data.Dataset("x", ("a", "b"), split.first(4), split.first(5)), config)
    assert (metrics["train_error"], metrics["validation_error"], metrics["test_error"]) == (0, 0.2, pytest.approx(2 / 6))
    # The margins 0.4, 0.3, 0.2 and 0.1 fall by twice epsilon. So epsilon 0.06 flips the last image, and 0.12 the last two.
    assert (metrics["one_step@1"], metrics["one_step_flips@1"]) == (pytest.approx(2 / 5), pytest.approx(1 / 4))
    assert (metrics["many_steps@2"], metrics["many_steps_flips@2"]) == (pytest.approx(3 / 5), pytest.approx(2 / 4))


def test_standard_deviation_of_the_generalisation_gap(script):
    rows = [{"train_error": 0.2, "test_error": 0.5}] * 3
    deviation = script("generalisation").gap_deviation_by_chance(rows, {"train_images": 100, "test_images": 400})
    assert deviation == pytest.approx(math.sqrt(0.2 * 0.8 / 100 + 0.5 * 0.5 / 400))


@pytest.mark.parametrize(("share", "radius"), [([1, 0.8, 1], 0.1), ([0.9, 1, 1], 0.0), ([1, 1, 1], 0.4)])
def test_a_ball_is_whole_up_to_its_first_hole(script, share, radius):
    assert script("neighbourhoods").hole_free_radius([0.1, 0.2, 0.4], np.array(share)) == radius


def test_a_folder_holds_results_of_one_size(script, tmp_path, monkeypatch, capsys):
    lab = script("lab")
    monkeypatch.setattr("sys.argv", ["transfer.py", "--smoke", "--out", str(tmp_path / "transfer")])
    lab.parse_arguments("transfer.py", None)
    assert lab.parse_arguments("transfer.py", None).size == "smoke"
    for place in ("transfer", "another"):  # Both folders share the folder `networks` next to them.
        monkeypatch.setattr("sys.argv", ["transfer.py", "--out", str(tmp_path / place)])
        with pytest.raises(SystemExit):
            lab.parse_arguments("transfer.py", None)
        message = capsys.readouterr().err
        assert "smoke size" in message
        assert "default size" in message
        assert "choose another --out" in message


def test_unusable_folders_and_zero_workers_are_refused(script, tmp_path, monkeypatch, capsys):
    lab = script("lab")

    def refused(*arguments):
        monkeypatch.setattr("sys.argv", ["transfer.py", "--smoke", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            lab.parse_arguments("transfer.py", None)
        assert ended.value.code == 2
        return capsys.readouterr().err

    old = tmp_path / "old"
    old.mkdir()
    for holds in ('"smoke"', '{"size": "smoke", "form": 1}'):
        (old / "size.json").write_text(holds)
        message = refused("--out", old)
        assert str(old) in message
        assert "version" in message
        assert "choose another --out" in message
    (tmp_path / "file").touch()
    assert "file is a file" in refused("--out", tmp_path / "file")
    for workers in (0, -1):
        assert f"--workers must be at least 1, got {workers}" in refused("--out", tmp_path / "new", "--workers", workers)
    assert not (tmp_path / "new").exists()


def test_results_are_strict_json(script, tmp_path):
    script("lab").write_json(tmp_path / "a.json", {"a": [math.nan, (1.5, math.inf)], "b": np.float64("nan"), "c": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, [1.5, None]], "b": None, "c": 1}


def test_rivals_of_the_best(script):
    rivals = script("rivals")
    radii = {"FGSM": [0.1, None, 0.0, 0.2], "PGD, margin": [0.1, 0.1, 0.0, None], "APGD, DLR": [None] * 2 + [0.0, None]}
    radii |= {"Square": [None, None, 0.0, None], "transfer": [None, None, 0.0, 0.2]}
    row = {"name": "best", "seed": 0, "epsilon": 0.2, "epsilons": [0.1, 0.2], "radii": radii}
    errors = {(one["attack"], one["epsilon"]): one["error"] for one in rivals.error_rates(row)}
    assert errors["clean", 0.0] == 0.25
    assert (errors["FGSM", 0.1], errors["FGSM", 0.2]) == (0.5, 0.75)
    assert (errors["white box", 0.1], errors["white box", 0.2]) == (0.75, 1)
    assert (errors["black box", 0.1], errors["black box", 0.2]) == (0.25, 0.5)
    wrong = {**row, "name": "residual", "radii": {attack: [0.0] * 4 for attack in radii}}
    tests = {one["attack"]: one for one in rivals.mcnemar_tests([row, wrong])}
    assert tests["black box"]["difference"] == -0.5
    # Two images differ, and both favour the best network: p = 2 * 0.5**2. Holm doubles the smaller of the two p-values.
    assert (tests["black box"]["p_value"], tests["black box"]["corrected"]) == (0.5, 1.0)
    assert tests["white box"]["p_value"] == 1.0


def test_rivals_are_of_about_equal_size(script):
    rivals, images = (
        script("rivals"),
        nas.data.Dataset("x", ("a", "b"), *[Split(torch.rand(2, 1, 8, 8), torch.zeros(2), "x")] * 2),
    )
    candidate = rivals.Candidate("c", "finalist", rivals.SpaceConfig(name="nasnet", options={"channels": 4}), {}, "", None)
    candidate = rivals.replace(candidate, architecture=PUBLISHED["nasnet_a"].architecture)
    sizes = [parameters(nasnet(channels=c).build(candidate.architecture, (1, 8, 8), 2)) for c in (6, 7)]
    assert rivals.match_parameters(candidate, sizes[1] - 5, images).space.options == {"channels": 7}
    assert rivals.match_parameters(candidate, sizes[0] + 5, images).space.options == {"channels": 6}


def test_a_controller_that_learns_nothing_and_one_that_does(script):
    search = script("architecture_search")
    drawn = [{"random": True, "adversarial_error": 0.5 + 0.01 * i} for i in range(6)]
    same = [{"random": False, "adversarial_error": row["adversarial_error"]} for row in drawn]
    better = [{"random": False, "adversarial_error": 0.1 + 0.01 * i} for i in range(12)]
    assert search.compare_controller([*drawn, *same, *same])["better"] == 0.5
    comparison = search.compare_controller([*drawn, *better])
    assert (comparison["better"], comparison["late"], comparison["best_is_random"]) == (1.0, 6, False)
    assert comparison["p_value"] == pytest.approx(2 / 924)  # Of the C(12, 6) = 924 orders, two are as extreme.
    assert search.compare_controller(drawn) is None
