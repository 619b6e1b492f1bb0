"""A network that cannot be exported keeps its weights and its profile."""

import pytest
import torch

import nas
from nas.bundle.manifest import read_manifest
from nas.pipeline.search import search

SPACES = {
    "a loop over the batch": """
class Net(nn.Module):
    def __init__(self, width, channels, classes):
        super().__init__()
        self.first, self.head = nn.Conv2d(channels, width, 3), nn.Linear(width, classes)
    def forward(self, x):
        return self.head(torch.stack([torch.relu(one) for one in self.first(x)]).mean((2, 3)))
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
SPACE = """
import torch
from torch import nn
from search_spaces import Choice, SearchSpace
{net}
SPACE = SearchSpace("custom", {{"width": Choice(4, 8)}}, lambda a, shape, classes: Net(a["width"], shape[0], classes))
"""


@pytest.mark.usefixtures("no_surfaces")
@pytest.mark.parametrize("kind", list(SPACES))
def test_bundle_has_the_forms_that_could_be_exported(kind, tiny, tmp_path, cli):
    (tmp_path / "space.py").write_text(SPACE.format(net=SPACES[kind]))
    config = tiny(
        f"space={tmp_path / 'space.py'}:SPACE",
        "search.trials=1",
        "search.random_trials=1",
        "training.epochs=1",
        "finalists.epochs=1",
        "finalists.references=false",
    )
    (bundle,) = search(config, tmp_path / "run").bundles
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
