"""Opening networks: every source gives the same logits, and an error for any other file names a remedy."""

import re
import sys

import pytest
import torch
from torch import nn

import nas
from evaluators import FGSM, parameters, profile
from evaluators.engine.frozen import frozen
from nas.analysis.networks import open_network
from nas.data import open_test
from nas.errors import HardcellError, NetworkError

FORMS = ("own.py:network", "own.py:NETWORK", "own:network", "scripted.pt", "traced.pth", "graph.pt2", "graph.bin")


@pytest.fixture
def open_here(network_folder, monkeypatch):
    """Opens a network of the folder of networks, which is the working directory."""
    monkeypatch.chdir(network_folder)
    yield open_network
    for name in ("own", "neighbour", "script"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def digits():
    return open_test(nas.Config().data).first(60)


@pytest.fixture(scope="module")
def expected(network_folder, digits):
    """The logits, computed directly from the stored weights."""
    state = torch.load(network_folder / "weights.pt", weights_only=True)
    normalised = (digits.x - state["0.running_mean"]) / (state["0.running_var"] + 1e-5).sqrt()
    return normalised.flatten(1) @ state["3.weight"].T + state["3.bias"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_logits_of_evaluation_mode(form, open_here, digits, expected):
    network = open_here(form)
    assert torch.allclose(network(digits.x), expected, atol=1e-4)
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_gradients_of_the_weights(form, open_here, digits, network_folder):
    x = digits.x[:2].clone().requires_grad_()
    open_here(form)(x)[:, 3].sum().backward()
    weight = torch.load(network_folder / "weights.pt", weights_only=True)["3.weight"]
    assert torch.allclose(x.grad.flatten(1), weight[3].expand(2, -1), rtol=1e-3)


@pytest.mark.parametrize("form", ["own.py:network", "scripted.pt", "traced.pth", "graph.pt2"])
def test_every_form_has_the_profile_of_the_weights(form, open_here, digits, expected, network_folder):
    """Attacks and checks work with graphs of torch.export, which have no training mode, and with TorchScript."""
    grid = [0.02, 0.1]
    measured = profile(open_here(form), digits.x, digits.y, {"fgsm": FGSM()}, epsilons={"linf": grid})
    # One step along the sign of the cross-entropy gradient, computed directly.
    state = torch.load(network_folder / "weights.pt", weights_only=True)
    sign = ((expected.softmax(1) - torch.eye(10)[digits.y]) @ state["3.weight"]).sign().view_as(digits.x)
    wrong = expected.argmax(1) != digits.y
    for epsilon, error in zip(grid, measured.record["attacks"]["fgsm"]["error"], strict=True):
        moved = (digits.x + epsilon * sign).clamp(0, 1) - state["0.running_mean"]
        wrong = wrong | ((moved.flatten(1) @ state["3.weight"].T + state["3.bias"]).argmax(1) != digits.y)
        assert error == pytest.approx(float(wrong.double().mean()))
    assert measured.record["cost"] == {"parameters": 652, "macs": 640 + 2 * 64}
    assert measured.failed_checks() == ["enough_images"]


def test_a_bundle_is_the_network_that_it_loads(finished_run, digits):
    (bundle,) = (finished_run / "bundles").glob("1-*")
    assert torch.equal(open_network(str(bundle))(digits.x), nas.load(bundle)(digits.x))
    graph = open_network(str(bundle / "model.pt2"))
    assert torch.allclose(graph(digits.x), nas.load(bundle)(digits.x), atol=1e-4)
    # The parameters are counted, although the network was exported without gradients.
    assert parameters(graph) == parameters(nas.load(bundle))


def test_frozen_takes_a_network_around_a_graph_to_evaluation_mode(network_folder, digits, expected):
    graph = torch.export.load(network_folder / "graph.pt2").module()
    network = nn.Sequential(nn.Dropout(0.5), graph, nn.Dropout(0.5))
    modes = [module.training for module in network.modules()]
    with frozen(network):
        assert torch.allclose(network(digits.x), expected, atol=1e-4)
    assert [module.training for module in network.modules()] == modes


def test_what_is_imported_leaves_the_path_as_it_was(open_here):
    before = list(sys.path)
    open_here("own.py:network")
    with pytest.raises(NetworkError):
        open_here("broken.py:network")
    assert sys.path == before


def test_a_file_elsewhere_finds_its_neighbours(network_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("neighbour", None)
    assert isinstance(open_network(f"{network_folder}/own.py:network"), nn.Sequential)


def test_notices_of_deprecation_are_swallowed(open_here, recwarn):
    open_here("scripted.pt")
    open_here("graph.pt2")
    assert not list(recwarn)


FUNCTION = "write a function without arguments that returns the network with its weights"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.pt", "none.pt: no such file or folder; a network is a bundle's folder, a .pt2 file, a TorchScript file"),
        ("resnet18", "resnet18: no such file or folder; did you mean torchvision:resnet18 with --weights FILE"),
        (
            "resnet",
            "resnet: no such file or folder; a network is .* FILE.py:NAME, package.module:NAME, or torchvision:MODEL",
        ),
        (".", "is a folder without manifest.json, so it is not a bundle; a network is"),
        ("weights.pt", rf"weights.pt: must hold .* found a pickle \(of weights or of a whole module\); {FUNCTION}"),
        ("module.pth", rf"module.pth: must hold .* found a pickle \(of weights or of a whole module\); {FUNCTION}.*FILE.py"),
        ("old.pt", "old.pt: must hold .* found a pickle"),
        ("weights.safetensors", f"must hold a graph of torch.export or TorchScript, found neither; {FUNCTION}"),
        ("text.pt", "text.pt: must hold .* found neither"),
        ("damaged.pt2", "damaged.pt2: cannot be loaded as a graph of torch.export: .*export it again with torch 2"),
        ("own.py", "own.py: must have a function's name; write own.py:NAME"),
        ("own.py:netwrok", "own.py:netwrok: own.py has no 'netwrok'"),
        ("nowhere.py:network", "nowhere.py:network: .*nowhere.py does not exist"),
        ("nowhere:network", "nowhere:network: module 'nowhere' does not import: ModuleNotFoundError"),
        ("broken.py:network", "broken.py, line 1, does not import: ModuleNotFoundError: No module named 'torchvisoin'"),
        ("script.py:network", "script.py is a script that exits when it is imported; .* if __name__"),
        (
            "own.py:needs",
            f"own.py:needs: must be called without arguments, but needs width; give .*, or {FUNCTION}",
        ),
        ("own.py:state", f"own.py:state: must return a network, an nn.Module, got OrderedDict; {FUNCTION}"),
        ("own.py:COUNT", "own.py:COUNT: must be a network or a function that returns one, got int"),
        ("own.py:fails", r"own.py:fails: raises FileNotFoundError: .*nowhere.pt' \(.*own.py, line \d+\)"),
        ("own.py:lazy", "own.py:lazy: has lazy layers without weights; run it on an image"),
        ("~nobody-here/net.pt", "~nobody-here/net.pt: "),
    ],
)
def test_what_is_no_network_is_refused_with_a_remedy(source, message, open_here):
    with pytest.raises(HardcellError) as caught:
        open_here(source)
    assert isinstance(caught.value, NetworkError)
    assert caught.value.exit_code == 2
    assert re.search(message, str(caught.value)), str(caught.value)


def test_a_run_is_told_apart_from_its_bundles(finished_run):
    with pytest.raises(NetworkError, match=r"is a run, not a bundle; name one of its bundles, such as .*/bundles/1-"):
        open_network(str(finished_run))


def test_a_damaged_bundle_is_refused(bundle_copy):
    (bundle_copy / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(HardcellError, match=r"weights.safetensors differs from the exported file"):
        open_network(str(bundle_copy))
