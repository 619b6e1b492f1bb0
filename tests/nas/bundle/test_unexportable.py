"""A space that cannot be exported is refused before the search. A bundle may lack model.pt2 or model.onnx."""

import json

import pytest
import torch

import nas
from nas.bundle import export
from nas.bundle.manifest import read_manifest
from nas.pipeline.search import search
from nas.training.network import Normalised

SPACES = {
    "a loop over the batch": """
class Net(nn.Module):
    def __init__(self, width, channels, classes):
        super().__init__()
        self.first, self.head = nn.Conv2d(channels, width, 3), nn.Linear(width, classes)
    def forward(self, x):
        x = self.first(x)  # The wider network, which the search exports first, has no loop.
        x = torch.stack([torch.relu(one) for one in x]) if x.shape[1] == 4 or ALL else torch.relu(x)
        return self.head(x.mean((2, 3)))
""",
    "shared weights": """
class Net(nn.Module):
    def __init__(self, width, channels, classes):
        super().__init__()
        self.stem, block = nn.Conv2d(channels, width, 3), nn.Conv2d(width, width, 3, padding=1)
        self.first, self.second, self.head = block, block, nn.Linear(width, classes)
    def forward(self, x):
        return self.head(torch.relu(self.second(torch.relu(self.first(torch.relu(self.stem(x)))))).mean((2, 3)))
""",
}
TYPES = {"model.onnx": torch.float64}
SPACE = """
import torch
from torch import nn
from search_spaces import Choice, SearchSpace
ALL = {all}
{net}
SPACE = SearchSpace("custom", {{"width": Choice(4, 8)}}, lambda a, shape, classes: Net(a["width"], shape[0], classes))
"""


@pytest.mark.usefixtures("no_surfaces")
@pytest.mark.parametrize("kind", list(SPACES))
def test_bundle_has_the_forms_that_could_be_exported(kind, tiny, all_forms, tmp_path, cli):
    (tmp_path / "space.py").write_text(SPACE.format(net=SPACES[kind], all=False))
    config = tiny(
        f"space={tmp_path / 'space.py'}:SPACE",
        all_forms,
        "search.trials=2",
        "search.first=[{width: 8}, {width: 4}]",  # The network of width 8 is exported before the search.
        "training.epochs=1",
        "finalists.count=2",
        "finalists.epochs=1",
        "finalists.references=false",
    )
    (bundle,) = (b for b in search(config, tmp_path / "run").bundles if b.stored.architecture == {"width": 4})
    not_exported = read_manifest(bundle.folder)["not_exported"]
    network = nas.load(bundle.folder, trust=True)
    assert network(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    outcomes = {outcome.name: outcome.passed for outcome in nas.verify(bundle.folder, trust=True)}
    for form in ("model.pt2", "model.onnx"):
        assert (bundle.folder / form).exists() is (form not in not_exported)
        assert outcomes[form] is (None if form in not_exported else True)
    assert {passed for name, passed in outcomes.items() if not name.startswith("model.")} == {True}
    if kind == "a loop over the batch":
        assert "model.pt2" in not_exported
        with pytest.raises(nas.errors.BundleError, match=r"there is no model\.pt2"):
            nas.load(bundle.folder)
        assert cli("verify", bundle.folder, "--trust")[0] == 2
        assert cli("verify", bundle.folder, "--trust", "--allow-skipped")[0] == 0
    else:
        assert not_exported == {}


@pytest.fixture(autouse=True)
def exported_first():
    """Replaces the fixture of conftest.py, because these tests need the export before the first trial."""


@pytest.fixture
def loops(tiny, tmp_path):
    """A factory of configs whose space has only networks that cannot be exported."""
    (tmp_path / "space.py").write_text(SPACE.format(net=SPACES["a loop over the batch"], all=True))
    settings = ("search.trials=1", "search.random_trials=1", "training.epochs=1", "finalists.epochs=1")
    return lambda *more: tiny(f"space={tmp_path / 'space.py'}:SPACE", *settings, "finalists.references=false", *more)


@pytest.mark.parametrize(("forms", "failing"), [("[weights, pt2, onnx]", "model.pt2"), ("[weights, onnx]", "model.onnx")])
def test_a_space_that_cannot_be_exported_is_refused_before_the_folder_is_made(loops, tmp_path, forms, failing):
    message = (
        rf"space custom: .* exported to {failing}: the graph depends on the batch size.* finalists.forms to \[weights\]"
    )
    with pytest.raises(nas.errors.RunError, match=message):
        search(loops(f"finalists.forms={forms}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_crash_in_the_export_is_the_reason_if_trials_run_in_processes(tiny, tmp_path):
    line = "x = self.first(x)"
    crashes = SPACES["a loop over the batch"].replace(
        line, f"os._exit(3) if torch.compiler.is_exporting() else None; {line}"
    )
    (tmp_path / "space.py").write_text("import os" + SPACE.format(net=crashes, all=False))
    config = tiny(f"space={tmp_path / 'space.py'}:SPACE", "search.isolate=true", "finalists.forms=[weights, pt2]")
    with pytest.raises(nas.errors.RunError, match="space custom: the process ended with exit code 3"):
        search(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_surfaces")
def test_bundles_of_a_space_without_exports_hold_weights_only(loops, tmp_path, cli):
    (bundle,) = search(loops("finalists.forms=[weights]"), tmp_path / "run").bundles
    assert not list(bundle.folder.glob("model.*"))
    assert read_manifest(bundle.folder)["not_exported"] == {}
    card = (bundle.folder / "README.md").read_text()
    assert "nas.load" in card
    assert "model." not in card
    assert cli("verify", bundle.folder, "--trust")[0] == 0


@pytest.mark.parametrize(
    ("layer", "parts"),
    [
        ("torch.stack([torch.relu(one) for one in x])", ("model.pt2: the graph depends on the batch size",)),
        ("x.view(len(x), -1, 8, 8) if len(x) < 9 else -x", ("model.pt2: the graph depends on the batch size",)),
        ("x if x.sum() > 0 else -x", ("model.pt2: ",)),
        ("torch.special.airy_ai(x)", ("model.onnx: ",)),
    ],
)
def test_check_names_the_form_that_cannot_be_exported(layer, parts, tmp_path, cli):
    (tmp_path / "space.py").write_text(
        f"""
import torch
from torch import nn
from search_spaces import Choice, SearchSpace
class Layer(nn.Module):
    def forward(self, x):
        return {layer}
SPACE = SearchSpace("s", {{"bias": Choice(True, False)}}, lambda a, shape, k: nn.Sequential(
    Layer(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, k, a["bias"])))
"""
    )
    code, out, _ = cli("space", f"{tmp_path}/space.py:SPACE", "--check", "--input", "3,8,8", "--samples", 2, "--json")
    result = {check["check"]: check for check in json.loads(out)["checks"]}["exports"]
    assert (code, result["passed"]) == (2, False)
    assert all(part in result["message"] for part in (*parts, "finalists.forms")), result["message"]
    assert result["architecture"]


def test_logits_of_another_type_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "logits_of", lambda form, *_, **__: torch.zeros(3, 2).to(TYPES.get(form, torch.float32)))
    network = Normalised(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)), torch.zeros(1), torch.ones(1))
    failed = export.failed_exports(network, torch.rand(3, 1, 2, 2), export.FORMATS)
    assert failed == {"model.onnx": "its logits are torch.float64, those of the network torch.float32"}


def test_weights_that_cannot_be_saved_are_named():
    class Odd(torch.nn.Linear):
        def get_extra_state(self):
            return "text"

    network = Normalised(torch.nn.Sequential(torch.nn.Flatten(), Odd(4, 2)), torch.zeros(1), torch.ones(1))
    assert list(export.failed_exports(network, torch.rand(3, 1, 2, 2), export.FORMATS)) == ["weights.safetensors"]


@pytest.mark.parametrize("forms", ["[pt2]", "[]", "[weights, tflite]"])
def test_forms_that_are_refused(forms, tiny):
    with pytest.raises(
        nas.errors.ConfigError, match=r"finalists.forms must hold weights, and may hold pt2 and onnx, got \["
    ):
        tiny(f"finalists.forms={forms}")
