"""The scripts of the papers, in their smallest form: they run, keep what they found, and go on from it."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from evaluators import FGSM, TransferMatrix
from nas.data import Split

SCRIPTS = Path(__file__).parents[2] / "examples" / "papers"
PICTURES = {
    "universality": ("curves", "exponents"),
    "logit_differences": ("shapes", "training", "predictions"),
    "entropy_penalty": ("",),
    "surfaces": ("", "digits_adversarial_random", "digits_two_adversarial", "digits_three_images", "digits_lines"),
    "neighbourhoods": ("shares", "radii", "sets"),
    "transfer": ("matrices", "groups", "reach"),
    "uncertainty": ("balls", "boundary", "low_margin"),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """One folder for all scripts, which share trained networks."""
    return tmp_path_factory.mktemp("papers")


def start(script, work):
    command = [sys.executable, SCRIPTS / f"{script}.py", "--smoke", "--workers", "1", "--out", work / script]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(script, out):
    """Returns the numbers of a script, once its pictures have been seen to be there."""
    names = [f"{script}_{part}.png" if part else f"{script}.png" for part in PICTURES[script]]
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in names)
    return json.loads((out / f"{script}.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("script", [name for name in PICTURES if name != "entropy_penalty"])
def test_script_runs(script, work):
    assert start(script, work)
    check(script, work / script)


@pytest.mark.slow
def test_goes_on_from_what_it_kept(work):
    told = start("entropy_penalty", work)
    found, out = check("entropy_penalty", work / "entropy_penalty"), work / "entropy_penalty"
    kept = sorted((out / "networks").iterdir())
    before = {file: file.stat().st_mtime_ns for file in kept}
    kept[0].unlink()
    assert start("entropy_penalty", work).splitlines()[-1] == told.splitlines()[-1]
    assert check("entropy_penalty", out) == found
    assert all(file.stat().st_mtime_ns == before[file] for file in kept[1:])
    assert kept[0].exists()


def test_every_script_is_tried():
    assert {file.stem for file in SCRIPTS.glob("*.py")} - {"lab", "recorded"} == {*PICTURES}


@pytest.fixture
def script(monkeypatch):
    """Imports a script by name, as it imports its neighbours."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module
    for name in [*PICTURES, "lab"]:
        sys.modules.pop(name, None)


@pytest.fixture
def half_spaces():
    """A linear network of two classes: the first pixel against the second."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
        network[1].bias.zero_()
    return network


def test_a_line_through_a_linear_network(script, half_spaces):
    surfaces = script("surfaces")
    x = torch.tensor([0.6, 0.4, 0.5, 0.5]).view(1, 2, 2)
    found = surfaces._line(half_spaces, x, 0, torch.tensor([-0.2, 0.2, 0, 0]).view(1, 2, 2), 2.0, 31)
    assert found["first"] == pytest.approx(0.2 / 2**0.5, abs=1e-4)
    assert found["first_order"] == pytest.approx(0.2 / 2**0.5, abs=1e-4)
    assert found["r_squared"] == pytest.approx(1)
    assert (found["crossings"], found["returns"], found["first_in_range"]) == (1, False, True)
    far = surfaces._line(half_spaces, x, 0, torch.tensor([0, 0, 0.1, 0.0]).view(1, 2, 2), 2.0, 31)
    assert (far["first"], far["crossings"]) == (None, 0)


def test_fooling_and_balls_of_a_linear_network(script, half_spaces):
    surfaces, neighbourhoods = script("surfaces"), script("neighbourhoods")
    x = torch.tensor([[0.6, 0.4, 0.5, 0.5], [0.9, 0.1, 0.5, 0.5], [1, 0, 0.5, 0.5]]).view(3, 1, 2, 2)
    zeros = torch.zeros(3, dtype=torch.int64)
    index, points, sizes = surfaces.fooling(half_spaces, x, zeros, FGSM(), (0.05, 0.15, 0.45))
    assert (index.tolist(), sizes.tolist()) == ([0, 1], [0.15, 0.45])
    assert (half_spaces(points).argmax(1) == 1).all()
    balls = neighbourhoods._balls(half_spaces, points, zeros[:2], sizes.tolist(), 0.2, 50)
    assert balls["proved"] == pytest.approx([0.05, 0.05], rel=1e-2)
    assert balls["attacked"] == pytest.approx([0.05, 0.05], rel=0.06)
    assert all(proved <= attacked for proved, attacked in zip(balls["proved"], balls["attacked"], strict=True))


def test_groups_of_a_transfer_matrix(script):
    fooled = np.zeros((1, 2, 2, 4), dtype=bool)
    fooled[0, 0, 0], fooled[0, 0, 1] = [1, 1, 1, 0], [1, 0, 0, 1]
    fooled[0, 1, 1], fooled[0, 1, 0] = [0, 0, 0, 1], [1, 1, 1, 1]
    matrix = TransferMatrix(("a", "b"), (0.1,), fooled, np.arange(4), 4)
    found = script("transfer")._group(matrix, 0, "g", [(0, 1), (1, 0)])
    assert (found["count"], found["of"]) == (2, 4)
    assert found["interval"][0] <= 0.5 <= found["interval"][1]


def test_networks_that_are_right_on_too_few_images_are_left_out(script, half_spaces):
    class Wrong(nn.Module):
        def forward(self, x):
            return -x.flatten(1)[:, :2]

    x = torch.rand(50, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    split = Split(x, half_spaces(x).argmax(1), "x")
    assert script("transfer").usable({"a": half_spaces, "wrong": Wrong(), "b": half_spaces}, split, 20) == ["a", "b"]
