"""--output, --mean, --std, --resize and --weights of `hardcell profile`, `compare` and `surface`."""

import json

import pytest
import torch
import torchvision
from torch import nn

from nas.analysis.networks import NetworkOptions
from nas.analysis.profile import ProfileConfig, profile_network
from nas.cli.network_options import parse_network_options
from nas.data.config import DataConfig
from nas.errors import ConfigError

QUICK = ("--data", "digits", "--images", "30", "--attack", "fgsm", "--epsilon", "0.1", "--device", "cpu")
NONE = {"output": None, "mean": None, "std": None, "resize": None, "weights": ()}


@pytest.fixture
def refused(here, refused):
    """Runs a command that must fail, in the folder of networks; returns stderr."""
    return refused


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0.5", (0.5,)),
        ("0.485,0.456,0.406", (0.485, 0.456, 0.406)),
        ("[0.485, 0.456, 0.406]", (0.485, 0.456, 0.406)),
        ("(0.1 0.2 0.3)", (0.1, 0.2, 0.3)),
        ("127.5/255", (0.5,)),
    ],
)
def test_numbers_as_users_write_them(text, numbers):
    (options,) = parse_network_options({**NONE, "mean": text, "std": "1"}, ["a.pt2"])
    assert options == NetworkOptions(mean=numbers, std=(1.0,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": "abc", "std": "1"}, "--mean must be numbers separated by commas, such as 0.485,0.456,0.406, got 'abc'"),
        ({"mean": "0.5", "std": "1/0"}, "--std must be numbers separated by commas"),
        ({"mean": "0.5"}, "--std must be given together with mean"),
        ({"mean": "", "std": "1"}, "--mean must be one number, or one per channel, got none"),
        ({"mean": "128", "std": "64"}, r"(?s)--mean must be in pixel units.*got 128; divide by 255\n--std must be in pixel"),
        ({"resize": -1}, "--resize must be a side in pixels, from 1 to 4096, got -1"),
        ({"weights": ("a.pt",)}, "--weights must be given once for .*: 0 models, 1 files; other networks have their own"),
    ],
)
def test_what_makes_no_sense(arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse_network_options({**NONE, **arguments}, ["a.pt2"])


def test_profile_is_that_of_the_options_in_python(here, cli):
    options = ("--output", "1", "--mean", "0.2", "--std", "0.5", "--resize", "8")
    code, out, _ = cli("profile", "own.py:pair", *QUICK, *options, "--json")
    assert code == 0
    attacks = {"fgsm": ProfileConfig().attacks["fgsm"]}
    config = ProfileConfig(data=DataConfig(), images=30, attacks=attacks, epsilons={"linf": (0.1,)}, device="cpu")
    adapted = NetworkOptions(output=1, mean=0.2, std=0.5, resize=8)
    assert json.loads(out)["attacks"] == profile_network("own.py:pair", config, options=adapted).record["attacks"]


def test_output_is_asked_for(refused):
    assert "got tuple with 0: (1, 10), 1: (1, 10); choose the part with the logits, such as --output 0" in refused(
        "profile", "own.py:pair", *QUICK
    )
    assert "own.py:pair: --output 2: there is no such part" in refused("profile", "own.py:pair", *QUICK, "--output", "2")
    assert "own.py:network: --output 0: the network returns one tensor" in refused(
        "compare", "own.py:pair", "own.py:network", *QUICK, "--output", "0"
    )


def test_bundle_is_left_as_it_is_beside_another_network(finished_run, here, cli, refused):
    (bundle,) = (finished_run / "bundles").glob("1-*")
    assert "is a bundle, which takes pixels in [0, 1] and returns logits; leave out --resize (resize)" in refused(
        "profile", bundle, *QUICK, "--resize", "8"
    )
    code, out, _ = cli("compare", bundle, "own.py:pair", *QUICK, "--output", "1", "--json")
    assert code == 0
    assert list(json.loads(out)["networks"]) == [bundle.name, "own.py:pair"]


def test_surface_takes_the_options(here, cli, tmp_path):
    arguments = ("--image", 0, "--data", "digits", "--epsilon", "0.4", "--points", 5, "--out", tmp_path / "s")
    code, _, err = cli("surface", "own.py:pair", *arguments, "--output", "0")
    assert (code, err) == (0, "")


def test_models_of_torchvision_with_weights(here, cli, tmp_path):
    """Images of three channels, and two files of weights of one model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name in ("plain", "robust"):
            network = torchvision.models.get_model("squeezenet1_1", num_classes=10)
            nn.init.normal_(network.classifier[1].weight, std=0.1)
            torch.save(network.state_dict(), tmp_path / f"{name}.pt")
    numbers = torch.randint(0, 255, (12, 16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    import numpy as np

    np.savez(tmp_path / "images.npz", x=numbers.numpy(), y=np.arange(12) % 10)
    files = ("--weights", tmp_path / "plain.pt", "--weights", tmp_path / "robust.pt")
    data = ("--data", f"{{name: npz, path: {tmp_path}/images.npz, test: 0.5}}", "--epsilon", "0.1", "--attack", "fgsm")
    model = "torchvision:squeezenet1_1"
    code, out, err = cli(
        "compare", model, model, *files, *data, "--resize", "32", "--mean", "0.5", "--std", "0.25", "--json"
    )
    assert (code, err) == (0, "")
    assert list(json.loads(out)["networks"]) == ["squeezenet1_1 (plain)", "squeezenet1_1 (robust)"]
