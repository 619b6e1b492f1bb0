"""`hardcell profile --out`: a killed command resumes from the radii in the folder."""

import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from evaluators.profiles import parts

NETWORK = """
import time
from pathlib import Path

import torch
from torch import nn


class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x):
        if Path("slow").exists():
            time.sleep(0.05)
        return self.body(x)


network = Slow()
"""
COMMAND = ("net.py:network", "--data", "digits", "--images", 300, "--device", "cpu", "--epsilon", 0.02, "--epsilon", 0.1)
ATTACKS = ("--attack", "fgsm", "--attack", "{name: pgd, steps: 3}", "--attack", "{name: noise}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with net.py. The network is slow as long as there is a file `slow`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    yield tmp_path
    sys.modules.pop("net", None)


def test_a_killed_command_resumes_and_equals_an_uninterrupted_one(folder, cli):
    (folder / "slow").touch()
    words = [str(word) for word in (*COMMAND, *ATTACKS, "--out", "killed")]
    process = subprocess.Popen(
        [sys.executable, "-c", "from nas.cli import main; main()", "profile", *words], stderr=subprocess.PIPE, text=True
    )
    partial, deadline = folder / "killed" / "partial", time.monotonic() + 120
    while not (partial / "attack1-0000000.npz").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    assert (process.returncode, err) == (-signal.SIGKILL, "")
    stored = {path.name for path in partial.glob("*.npz")}
    assert "attack1-0000000.npz" in stored
    assert "attack3-0000000.npz" not in stored
    (folder / "slow").unlink()
    assert cli("profile", *COMMAND, *ATTACKS, "--out", "whole")[0] == 0
    code, out, err = cli("profile", *COMMAND, *ATTACKS, "--out", "killed")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "profile: killed"
    names = {path.name for path in (folder / "whole").iterdir()}
    assert names == {path.name for path in (folder / "killed").iterdir()}
    assert (folder / "whole" / "profile.json").read_bytes() == (folder / "killed" / "profile.json").read_bytes()
    with np.load(folder / "whole" / "radii.npz") as whole, np.load(folder / "killed" / "radii.npz") as killed:
        assert whole.files == killed.files
        for name in whole.files:
            np.testing.assert_array_equal(whole[name], killed[name])
    code, _, err = cli("profile", *COMMAND, *ATTACKS, "--out", "killed")
    assert code == 2
    assert "killed: holds a profile already; name another folder" in err


@pytest.fixture
def interrupted(folder, cli, monkeypatch):
    """The output of a command that Ctrl-C interrupts after the margins and the first attack."""
    measure, calls = parts.measure, []

    def once(*args, **settings):
        if calls:
            raise KeyboardInterrupt
        calls.append(args)
        return measure(*args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "measure", once)
        return cli("profile", *COMMAND, *ATTACKS, "--out", "out")


def test_ctrl_c_says_what_is_kept_and_how_to_resume(interrupted, folder):
    code, out, err = interrupted
    assert (code, out) == (130, "")
    assert err == "\ninterrupted; out holds the parts that were measured, and the same command resumes\n"
    assert (folder / "out" / "partial" / "attack1-0000000.npz").exists()


def test_another_command_is_refused_and_names_what_differs(interrupted, folder, cli):
    code, out, err = cli("profile", *COMMAND, *ATTACKS, "--seed", 3, "--exact", "--out", "out")
    assert (code, out) == (2, "")
    message = (
        "out: holds parts of another profile, with other tolerance (None, now 0.01), seed (0, now 3); choose another folder"
    )
    assert message in " ".join(err.split())
    assert (folder / "out" / "partial" / "attack1-0000000.npz").exists()


def test_a_profile_that_cannot_be_written_is_resumed(interrupted, folder, cli, monkeypatch):
    def full(*args, **settings):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/radii.npz")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", full)
        code, _, err = cli("profile", *COMMAND, *ATTACKS, "--out", "out")
    assert code == 2
    assert "out/radii.npz: cannot be written: No space left on device" in err
    assert (folder / "out" / "profile.json").exists()
    monkeypatch.setattr(parts, "measure", None)  # Nothing is measured again.
    assert cli("profile", *COMMAND, *ATTACKS, "--out", "out")[0] == 0
    assert not (folder / "out" / "partial").exists()
