"""Models of torchvision and timm with files of weights: the logits of the saved model, and what is refused."""

import re
import sys
from types import ModuleType

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import nas.analysis.networks.library as library_module
from nas.analysis.network_source import open_source
from nas.analysis.networks import NetworkOptions, open_network
from nas.errors import NetworkError

NAME = "torchvision:squeezenet1_1"


def model(name="squeezenet1_1", classes=7):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = {"init_weights": False} if name == "googlenet" else {}
        return torchvision.models.get_model(name, num_classes=classes, **settings).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the weights of one model in several forms, and the model."""
    folder, network = tmp_path_factory.mktemp("weights"), model()
    state = network.state_dict()
    save_file(state, folder / "plain.safetensors")
    torch.save(state, folder / "plain.pt")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "state_dict": {f"module.model.{k}": v for k, v in state.items()}}, folder / "wrapped.pt")
    torch.save(network, folder / "whole.pt")
    torch.save({"epoch": 3}, folder / "empty.pt")
    torch.save([1, 2], folder / "list.pt")
    (folder / "text.pt").write_text("text", encoding="utf-8")
    (folder / "text.safetensors").write_text("text", encoding="utf-8")
    save_file(model("resnet18").state_dict(), folder / "resnet18.safetensors")
    save_file({k: v for k, v in state.items() if "classifier" not in k}, folder / "headless.safetensors")
    return folder, network


@pytest.mark.parametrize("file", ["plain.safetensors", "plain.pt", "old.pth", "wrapped.pt"])
def test_every_form_of_weights_gives_the_logits_of_the_model(file, saved):
    folder, network = saved
    x = torch.rand(2, 3, 32, 32)
    opened = open_network(NAME, options=NetworkOptions(weights=folder / file))
    assert torch.equal(opened(x), network(x))
    assert opened(x).shape == (2, 7)
    assert not opened.training


def test_random_numbers_are_as_before(saved):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    open_network(NAME, options=NetworkOptions(weights=saved[0] / "plain.pt"))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("auxiliary", [True, False])
def test_auxiliary_heads_are_built_if_the_file_has_them(auxiliary, tmp_path):
    network = model("googlenet", 5)
    state = {k: v for k, v in network.state_dict().items() if auxiliary or not k.startswith("aux")}
    torch.save(state, tmp_path / "g.pt")
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(
        open_network("torchvision:googlenet", options=NetworkOptions(weights=tmp_path / "g.pt"))(x), network(x)
    )


def test_name_has_the_file_of_weights(saved):
    file = saved[0] / "plain.pt"
    source = open_source(NAME, options=NetworkOptions(weights=file, resize=32))
    assert (source.name, source.short_name) == (f"{NAME} with {file}", "squeezenet1_1 (plain)")
    assert source.network(torch.rand(1, 3, 8, 8)).shape == (1, 7)


@pytest.mark.parametrize(
    ("source", "file", "message"),
    [
        (NAME, None, f"{NAME}: needs a file of weights, because random weights are no trained network; give --weights FILE"),
        ("torchvision:resnt18", "plain.pt", "torchvision has no model 'resnt18' .*; did you mean torchvision:resnet18 or "),
        ("torchvision:ResNet18", "plain.pt", "did you mean torchvision:resnet18"),
        ("torchvision:xyz", "plain.pt", r"has no model 'xyz' .*; list_models\(\) of torchvision lists them"),
        ("torchvision:fcn_resnet50", "plain.pt", "torchvision has no model 'fcn_resnet50' that classifies images"),
        (NAME, "none.pt", r"--weights .*none.pt: no such file; name a .safetensors file, or a state dict of torch.save"),
        (NAME, "", "--weights .*: is a folder; name a .safetensors file"),
        (NAME, "text.pt", r"text.pt: must be a .safetensors file, or a state dict of torch.save; it is neither"),
        (NAME, "text.safetensors", "text.safetensors: cannot be read as safetensors: .*; save it again"),
        (
            NAME,
            "whole.pt",
            r"whole.pt: is damaged, or holds other objects than tensors \(UnpicklingError\), .* run code; save",
        ),
        (NAME, "empty.pt", "empty.pt: must hold a state dict, .*, found a mapping with the keys epoch; write torch.save"),
        (NAME, "list.pt", "list.pt: must hold a state dict, a mapping from names to tensors, found list; write torch.save"),
        (NAME, "resnet18.safetensors", "has no weights of the model's last layer, classifier.1.weight, classifier.1.bias;"),
        (NAME, "headless.safetensors", "headless.safetensors: has no weights of the model's last layer"),
        (
            "torchvision:resnet34",
            "resnet18.safetensors",
            r"resnet34: --weights .*: of 218 weights of the model, 80 missing \(layer1.2.conv1.weight, .*, and 77 more\)",
        ),
        (
            "torchvision:resnet50",
            "resnet18.safetensors",
            r" missing \(.*, \d+ of another shape \(layer1.0.conv1.weight \(64, 64, 3, 3\) instead of \(64, 64, 1, 1\), ",
        ),
        ("torchvision:squeezenet1_0", "plain.pt", r"of another shape \(features.0.weight \(64, 3, 3, 3\) instead of "),
    ],
)
def test_what_does_not_match_is_refused_with_a_remedy(source, file, message, saved):
    options = NetworkOptions(weights=None if file is None else saved[0] / file)
    with pytest.raises(NetworkError) as caught:
        open_network(source, options=options)
    assert re.search(message, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("name", ["regnet_y_400mf", "vit_b_32", "mobilenet_v3_small"])
def test_models_that_compute_while_they_are_built(name, tmp_path):
    with torch.device("cpu"):
        network = model(name, classes=5)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    opened = open_network(f"torchvision:{name}", options=NetworkOptions(weights=tmp_path / "weights.safetensors"))
    assert opened.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in opened.state_dict().items())


def test_a_file_that_contains_itself_is_refused(tmp_path):
    content: dict[str, object] = {}
    content["model"] = content
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(NetworkError, match="must hold a state dict, a mapping from names to tensors"):
        open_network(NAME, options=NetworkOptions(weights=tmp_path / "weights.pt"))


def test_unexpected_weights_are_listed(saved, tmp_path):
    state = saved[1].state_dict()
    save_file(state | {f"extra.{i}": torch.ones(1) for i in range(5)}, tmp_path / "more.safetensors")
    with pytest.raises(NetworkError, match=r"5 unexpected \(extra.0, extra.1, extra.2, and 2 more\)"):
        open_network(NAME, options=NetworkOptions(weights=tmp_path / "more.safetensors"))


class TestTimm:
    @pytest.fixture
    def timm(self, monkeypatch):
        """A small package that answers like timm."""
        package = ModuleType("timm")
        package.list_models = lambda: ["tiny_net", "large_net"]
        package.create_model = lambda name, pretrained, num_classes: nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))
        monkeypatch.setitem(sys.modules, "timm", package)

    @pytest.mark.parametrize("name", ["tiny_net", "tiny_net.a1_in1k"])
    def test_model_with_the_classes_of_the_file(self, name, timm, tmp_path):
        network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        torch.save(network.state_dict(), tmp_path / "t.pt")
        opened = open_network(f"timm:{name}", options=NetworkOptions(weights=tmp_path / "t.pt"))
        x = torch.rand(2, 3, 2, 2)
        assert torch.equal(opened(x), network(x))

    def test_unknown_model(self, timm):
        with pytest.raises(
            NetworkError, match="timm has no model 'tinynet' that classifies images; did you mean timm:tiny_net"
        ):
            open_network("timm:tinynet")

    def test_missing_package(self, monkeypatch):
        def missing(name):
            raise ModuleNotFoundError(f"No module named {name!r}")

        monkeypatch.setattr(library_module.importlib, "import_module", missing)
        with pytest.raises(
            NetworkError, match=r"timm:vit: needs timm, which does not import .*; pip install 'hardcell\[timm\]'"
        ):
            open_network("timm:vit")

    def test_real_package(self, tmp_path):
        timm = pytest.importorskip("timm")
        network = timm.create_model("resnet10t", num_classes=5).eval()
        torch.save({"state_dict": network.state_dict()}, tmp_path / "t.pt")
        opened = open_network("timm:resnet10t", options=NetworkOptions(weights=tmp_path / "t.pt"))
        x = torch.rand(1, 3, 64, 64)
        assert torch.equal(opened(x), network(x))
