"""The scripts of the papers, in their smallest form: they run, keep what they found, and go on from it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "examples" / "papers"
PICTURES = {
    "universality": ("curves", "exponents"),
    "logit_differences": ("shapes", "training", "predictions"),
    "entropy_penalty": ("",),
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


@pytest.mark.slow
@pytest.mark.parametrize("script", PICTURES)
def test_runs_and_goes_on_from_what_it_kept(script, work):
    told = start(script, work)
    out = work / script
    found = json.loads((out / f"{script}.json").read_text(encoding="utf-8"))
    names = [f"{script}_{part}.png" if part else f"{script}.png" for part in PICTURES[script]]
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in names)
    kept = sorted((out / "networks").iterdir())
    before = {file: file.stat().st_mtime_ns for file in kept}
    kept[0].unlink()
    assert start(script, work).splitlines()[-1] == told.splitlines()[-1]
    assert json.loads((out / f"{script}.json").read_text(encoding="utf-8")) == found
    assert all(file.stat().st_mtime_ns == before[file] for file in kept[1:])
    assert kept[0].exists()


def test_every_script_is_tried():
    assert {file.stem for file in SCRIPTS.glob("*.py")} - {"lab"} == {*PICTURES}
