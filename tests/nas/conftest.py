"""Fixtures for several test files: a tiny search that is run once, custom spaces and networks, and the command line."""

import copy
import fcntl
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save
from torch import nn

import nas
from nas.bundle.manifest import checksums, digest_of
from nas.data import open_data
from nas.data.config import DataConfig
from nas.pipeline.events import EpochFinished, FinalistsStarted
from nas.pipeline.search import resume_events, search, search_events
from nas.study.storage import StudyLocation
from nas.study.study import open_study

ATTACKS = {"fgsm": {"name": "fgsm"}, "pgd": {"name": "pgd", "steps": 2, "step_size": 0.5}}
TINY = {
    # With this seed, all six trials are complete and none is a duplicate.
    "seed": 2,
    "threads": 1,
    "device": "cpu",
    "data": {"name": "digits", "limit": 400},
    "space": {"name": "cell201", "channels": 4, "cells_per_stage": 1, "stages": 1},
    "training": {
        "recipe": "standard",
        "epochs": 2,
        "batch_size": 16,
        "learning_rate": 0.2,
        "selection": {"name": "pgd", "steps": 1, "step_size": 1},
    },
    "evaluation": {"epsilon": 0.05, "attacks": {"pgd": ATTACKS["pgd"]}, "images": 40},
    "objective": {"constraints": {}},
    "search": {"trials": 6, "random_trials": 2},
    # Exports to model.pt2 and model.onnx take as long as the rest of the search. `all_forms` turns them on.
    "finalists": {"count": 1, "epochs": 6, "images": 60, "attacks": ATTACKS, "forms": ["weights"]},
}

# A space whose choice `kind` says how a network misbehaves. Training takes milliseconds, so a test can run many trials.
OWN_SPACE = """
import math
import os
import signal
import sys

from torch import nn

from search_spaces import Choice, SearchSpace


class BaseError(BaseException):
    pass


def raise_base():
    raise BaseError("neither an error nor an exit")


def flood():
    for number in range(5000):
        print("noise", number)


def hang():
    while True:
        try:
            math.sqrt(2)
        except Exception:
            pass


ROGUE = {
    "exits": lambda: sys.exit(3),
    "raises base": raise_base,
    "ends": lambda: os._exit(3),
    "segfaults": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "prints": flood,
    "hangs": hang,
}


def misbehave(kind, when):
    name = kind.removesuffix(when)
    if name != kind:
        ROGUE.get(name, int)()


class Layer(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        if self.training:
            misbehave(self.kind, " in training")
        if self.kind == "raises":
            raise RuntimeError("a broken layer")
        if self.kind == "raises in training" and self.training:
            raise RuntimeError("broken in training\\nand a second line")
        if self.kind == "memory" and self.training:
            raise MemoryError("4 GiB wanted")
        if self.kind == "nan" and self.training:
            return x * float("nan")
        if self.kind == "rounds" and self.training:
            return x.detach().round()
        return 0 * x if self.kind == "constant" else x


def own(kinds: str = "works") -> SearchSpace:
    def build(architecture, input_shape, num_classes):
        misbehave(architecture["kind"], " in build")
        if architecture["kind"] == "raises in build":
            raise RuntimeError("cannot be built")
        if architecture["kind"] == "memory in build":
            raise MemoryError("8 GiB wanted")
        width = architecture["width"]
        return nn.Sequential(
            Layer(architecture["kind"]),
            nn.Flatten(),
            nn.Linear(math.prod(input_shape), width),
            nn.ReLU(),
            nn.Linear(width, num_classes),
            *[Layer("rounds")] * (architecture["kind"] == "last rounds"),
        )

    # Without search.first, the last value of each choice is built before the search, so a broken kind may come first.
    choices = {"kind": Choice(*kinds.split(",")), "width": Choice(2, 4, 8, 16)}
    return SearchSpace(name="own", choices=choices, build=build)
"""


@pytest.fixture(scope="session")
def tiny():
    """A factory of tiny configs. Overrides are written as `section.key=value`."""

    def make(*overrides):
        return nas.parse_config(copy.deepcopy(TINY), overrides=overrides)

    return make


@pytest.fixture(scope="session")
def all_forms():
    """The setting that exports bundles with weights, model.pt2 and model.onnx."""
    return "finalists.forms=[weights, pt2, onnx]"


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory):
    """The tiny config as a file."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY), encoding="utf-8")
    return path


@pytest.fixture
def custom_space(tmp_path, tiny):
    """A factory of tiny configs whose space is OWN_SPACE in a file. `kinds` holds values of `kind`, separated by commas."""
    path = tmp_path / "own.py"
    path.write_text(OWN_SPACE, encoding="utf-8")

    def make(kinds, *overrides):
        return tiny(f"space={{name: '{path}:own', kinds: '{kinds}'}}", "finalists.references=false", *overrides)

    return make


@pytest.fixture(scope="session")
def forget_imports():
    """Forgets the imported files of users, so that they are imported again, as in a new process."""

    def run():
        for name in [name for name in sys.modules if name.startswith("hardcell_user_")]:
            del sys.modules[name]

    return run


@pytest.fixture
def no_surfaces(monkeypatch):
    """Leaves out the parts of reports that evaluate networks again. They are slow and have their own tests."""
    monkeypatch.setattr("nas.reports.page.load_bundles", lambda bundles, trust: ({}, {}))


@pytest.fixture(scope="session")
def finished_run(tiny, all_forms, tmp_path_factory):
    """The folder of a finished run, shared by all test processes. Tests must not change it, but may change `run_copy`."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    folder = shared / "finished" / "run"
    with (shared / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "report.html").exists():
            search(tiny(all_forms), folder)
    return folder


@pytest.fixture
def run_copy(finished_run, tmp_path):
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def bundle_copy(finished_run, tmp_path):
    (best,) = (finished_run / "bundles").glob("1-*")
    return Path(shutil.copytree(best, tmp_path / best.name))


@pytest.fixture(scope="session")
def reseal():
    """Recomputes every checksum and the digest of a bundle, as a person who tampers with the bundle can do."""

    def run(bundle):
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest["files"] = checksums(bundle)
        manifest["digest"] = digest_of(manifest)
        (bundle / "manifest.json").write_text(json.dumps(manifest))

    return run


@pytest.fixture(autouse=True)
def exported_first(monkeypatch):
    """Leaves out the export before the first trial, which takes seconds. Tests of this export replace this fixture."""
    monkeypatch.setattr("nas.pipeline.prechecks.Prechecks.check_exportable", lambda self, architecture: None)


@pytest.fixture(scope="session")
def trials_only():
    """Runs a new search, or resumes one if `config` is None, until the last trial has ended; returns the events."""

    def run(path, config=None):
        events, seen = search_events(config, path) if config else resume_events(path), []
        for event in events:
            if isinstance(event, FinalistsStarted):
                events.close()
                break
            seen.append(event)
        return seen

    return run


@pytest.fixture(scope="session")
def break_off():
    """Consumes events up to an epoch of a trial. Then closes the generator, or throws `error` into it."""

    def run(events, trial, epoch=1, error=None):
        for event in events:
            if isinstance(event, EpochFinished) and (event.name, event.result.epoch) == (f"trial {trial}", epoch):
                if error is None:
                    events.close()
                    return
                with pytest.raises(error):
                    events.throw(error)
                return
        raise AssertionError(f"trial {trial} has no epoch {epoch}")

    return run


@pytest.fixture(scope="session")
def stored():
    """Returns the Optuna trials of a run."""

    def read(path):
        with open_study(StudyLocation(path / "study.db")) as study:
            return study.get_trials()

    return read


@pytest.fixture(scope="session")
def study_content(stored):
    """Returns the content of the trials of a run without times, worker names and numbers of attempts."""

    def read(path):
        trials = []
        for trial in stored(path):
            attributes = {k: v for k, v in trial.user_attrs.items() if k not in ("seconds", "worker", "attempts")}
            epochs = attributes.pop("epochs", [])
            attributes["epochs"] = [{k: v for k, v in epoch.items() if k not in ("seconds", "stages")} for epoch in epochs]
            trials.append(
                {
                    "number": trial.number,
                    "state": trial.state.name,
                    "params": trial.params,
                    "values": trial.values,
                    "constraints": dict(trial.constraints),
                    "attributes": attributes,
                }
            )
        return trials

    return read


# Resets the handling of SIGINT. Shells start background jobs with SIGINT ignored, and child processes inherit this.
INTERRUPTIBLE = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.fixture(scope="session")
def hardcell():
    """Starts the command line in a process of its own."""
    command = Path(sys.executable).with_name("hardcell")
    if not command.exists():
        pytest.skip("needs the installed command")

    def start(*arguments, **options):
        return subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE, command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return start


# A network of a user, and objects that a user may name by mistake instead of a network.
OWN_NETWORK = """
from pathlib import Path

import torch
from torch import nn

from neighbour import CLASSES

WEIGHTS = Path(__file__).with_name("weights.pt")


class Returns(nn.Module):
    def __init__(self, returned):
        super().__init__()
        self.body, self.returned = network(), returned

    def forward(self, x):
        return self.returned(self.body(x))


class NoBackwardPass(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        raise RuntimeError("no way back\\nand a second line")


def network():
    layers = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, CLASSES))
    layers.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return layers.train()


def softmax():
    return nn.Sequential(network(), nn.Softmax(1))


def blank():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))


def colour():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, CLASSES))


def five():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))


def pair():
    return Returns(lambda logits: (logits, logits))


def maps():
    return Returns(lambda logits: logits[:, :, None])


def nan():
    return Returns(lambda logits: logits / 0 * 0)


def one_way():
    return Returns(NoBackwardPass.apply)


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES))


def needs(width, depth=2):
    return network()


def state():
    return torch.load(WEIGHTS, weights_only=True)


def fails():
    return open("nowhere.pt")


def interrupted():
    raise KeyboardInterrupt


NETWORK = network()
COUNT = 3
"""


@pytest.fixture(scope="session")
def network_folder(tmp_path_factory):
    """A folder with a linear classifier of digits (ridge regression) in many formats. Tests must not change it."""
    folder = tmp_path_factory.mktemp("networks")
    (folder / "neighbour.py").write_text("CLASSES = 10\n", encoding="utf-8")
    (folder / "own.py").write_text(OWN_NETWORK, encoding="utf-8")
    train = open_data(DataConfig()).train
    x = torch.cat([train.x.flatten(1), torch.ones(len(train.x), 1)], 1).double()
    solved = torch.linalg.solve(x.T @ x + torch.eye(65), x.T @ torch.nn.functional.one_hot(train.y).double()).float()
    layers = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)).eval()
    # These statistics differ from those of a batch, so logits in training mode and in evaluation mode differ.
    layers[0].running_mean.fill_(0.1)
    layers[3].load_state_dict({"weight": 10 * solved[:-1].T, "bias": 10 * (solved[-1] + 0.1 * solved[:-1].sum(0))})
    torch.save(layers.state_dict(), folder / "weights.pt")
    torch.save(layers, folder / "module.pth")
    torch.save(layers.state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
    (folder / "weights.safetensors").write_bytes(save(layers.state_dict()))
    (folder / "text.pt").write_text("text", encoding="utf-8")
    (folder / "script.py").write_text("import sys\nsys.exit(3)\n", encoding="utf-8")
    (folder / "broken.py").write_text("import torchvisoin\n", encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(layers).save(str(folder / "scripted.pt"))
        torch.jit.trace(layers, train.x[:2]).save(str(folder / "traced.pth"))
    free = {0: torch.export.Dim("batch", min=1)}
    torch.export.save(torch.export.export(layers, (train.x[:2],), dynamic_shapes=(free,)), folder / "graph.pt2")
    torch.export.save(torch.export.export(layers, (train.x[:4],)), folder / "fixed.pt2")
    shutil.copy(folder / "graph.pt2", folder / "graph.bin")
    (folder / "damaged.pt2").write_bytes((folder / "graph.pt2").read_bytes().replace(b"flatten", b"flattin"))
    return folder


@pytest.fixture
def cli(monkeypatch, capsys):
    """Runs the command line in this process; returns its exit code, stdout and stderr. A traceback fails the test."""
    from nas.cli import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hardcell", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run


@pytest.fixture
def refused(cli):
    """Runs a command that must fail with exit code 2, a message on stderr only, and no traceback. Returns stderr."""

    def run(*arguments):
        code, out, err = cli(*arguments)
        assert (code, out) == (2, "")
        assert err.strip()
        return " ".join(err.split())

    return run


@pytest.fixture
def here(network_folder, monkeypatch):
    """The folder of networks as the working directory."""
    monkeypatch.chdir(network_folder)
    yield network_folder
    for name in ("own", "neighbour"):
        sys.modules.pop(name, None)
