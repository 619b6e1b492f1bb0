"""The wrapper for inputs and outputs: its values, its gradients, and what it refuses."""

import re
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from torch import nn

from evaluators import FGSM, Linf, margins
from nas.analysis.networks import NetworkOptions
from nas.analysis.networks.adapter import AdaptedNetwork, adapted
from nas.analysis.networks.outputs import AdapterError, describe_output, likely_output, select_output

LOGITS, FEATURES = torch.rand(2, 10), torch.rand(2, 4, 3)
Pair = namedtuple("Pair", ("logits", "features"))


@dataclass
class Output:
    logits: torch.Tensor
    loss: None = None


class Computed:
    """An output whose logits are a property, so that its instance holds no tensor."""

    __slots__ = ()

    @property
    def logits(self):
        return LOGITS


class TestOutput:
    @pytest.mark.parametrize(
        ("output", "name"),
        [
            ((FEATURES, LOGITS), "1"),
            ((FEATURES, LOGITS), 1),
            ((FEATURES, LOGITS), "-1"),
            ((LOGITS, FEATURES), -2),
            ([LOGITS], 0),
            ({"logits": LOGITS, "features": FEATURES}, "logits"),
            ({0: LOGITS}, 0),
            (OrderedDict(out=LOGITS), "out"),
            (Pair(LOGITS, FEATURES), "logits"),
            (Pair(LOGITS, FEATURES), "0"),
            (SimpleNamespace(logits=LOGITS), "logits"),
            (Output(LOGITS), "logits"),
            (Computed(), "logits"),
        ],
    )
    def test_part_by_key_attribute_or_index(self, output, name):
        assert select_output(output, name) is LOGITS

    @pytest.mark.parametrize(
        ("output", "name", "message"),
        [
            (LOGITS, 0, "--output 0: the network returns one tensor, (2, 10); leave out --output (output)"),
            (
                (LOGITS, FEATURES),
                2,
                "--output 2: there is no such part; the network returns tuple with 0: (2, 10), 1: (2, 4, 3)",
            ),
            ((LOGITS,), "-2", "--output -2: there is no such part"),
            ({"logits": LOGITS}, "logit", "the network returns dict with logits: (2, 10); did you mean 'logits'?"),
            ({"logits": LOGITS}, "items", "--output items: there is no such part"),
            (SimpleNamespace(logits=LOGITS), "__class__", "--output __class__: there is no such part"),
            (Output(LOGITS), "loss", "--output loss: must name a tensor, got NoneType; the network returns Output with"),
        ],
    )
    def test_missing_part(self, output, name, message):
        with pytest.raises(AdapterError, match=re.escape(message)):
            select_output(output, name)

    def test_description(self):
        assert describe_output(LOGITS) == "a tensor (2, 10)"
        assert describe_output(3) == "int"
        assert describe_output([LOGITS] * 8).endswith("5: (2, 10), and 2 more")

    def test_likely_part_is_a_matrix(self):
        assert likely_output((FEATURES, LOGITS)) == "1"
        assert likely_output({"probabilities": LOGITS, "logits": LOGITS}) == "logits"
        assert likely_output({"features": FEATURES}) is None


class TestInput:
    def test_no_option_leaves_the_network_as_it_is(self):
        network = nn.Identity()
        assert adapted(network, NetworkOptions(weights="a.pt")) is network

    def test_normalisation(self):
        x, mean, std = torch.rand(4, 3, 5, 5), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        network = AdaptedNetwork(nn.Identity(), NetworkOptions(mean=mean, std=std))
        assert torch.allclose(network(x), tvf.normalize(x, list(mean), list(std)))
        assert torch.allclose(AdaptedNetwork(nn.Identity(), NetworkOptions(mean=0.25, std=0.5))(x), (x - 0.25) / 0.5)

    @pytest.mark.parametrize(("size", "side"), [((8, 8), 32), ((32, 20), 8), ((8, 6), 8)])
    def test_resize_is_that_of_torchvision(self, size, side):
        x = torch.rand(2, 3, *size)
        network = AdaptedNetwork(nn.Identity(), NetworkOptions(resize=side))
        expected = tvf.resize(x, [side, side], interpolation=tvf.InterpolationMode.BILINEAR, antialias=True)
        assert torch.allclose(network(x), expected, atol=1e-6)

    def test_images_are_resized_before_they_are_normalised(self):
        x, seen = torch.rand(1, 1, 4, 4), []
        body = nn.Identity()
        body.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
        network = AdaptedNetwork(body, NetworkOptions(mean=0.5, std=0.25, resize=8))
        resized = nn.functional.interpolate(x, (8, 8), mode="bilinear", align_corners=False)
        assert torch.allclose(network(x), (resized - 0.5) / 0.25, atol=1e-6)
        assert seen == [(1, 1, 8, 8)]

    def test_radius_is_in_pixels_of_the_data(self):
        """A linear network after normalisation has the closed-form Linf radius margin * std / |w|_1."""
        torch.manual_seed(0)
        linear, std = nn.Linear(16, 2).requires_grad_(False), 0.25
        network = adapted(nn.Sequential(nn.Flatten(), linear).eval(), NetworkOptions(mean=0.5, std=std))
        x = torch.full((1, 1, 4, 4), 0.5)
        y = network(x).argmax(1)
        weight = linear.weight[y[0]] - linear.weight[1 - y[0]]
        expected = float((linear.bias[y[0]] - linear.bias[1 - y[0]]).abs() * std / weight.abs().sum())
        assert margins(network, x, y, [Linf()]).radii["linf"][0] == pytest.approx(expected, rel=1e-4)
        assert int(network(FGSM()(network, x, y, expected * 1.01)).argmax(1)) != int(y)
        assert int(network(FGSM()(network, x, y, expected * 0.99)).argmax(1)) == int(y)

    def test_normalisation_is_no_weight(self):
        network = AdaptedNetwork(nn.Linear(2, 2), NetworkOptions(mean=0.5, std=0.5))
        assert set(network.state_dict()) == {"body.weight", "body.bias"}
        assert network.double()(torch.rand(1, 1, 2, 2).double()).dtype == torch.float64

    def test_grey_images_do_not_become_coloured(self):
        network = AdaptedNetwork(nn.Identity(), NetworkOptions(mean=(0.1, 0.2, 0.3), std=1))
        with pytest.raises(
            AdapterError, match=r"--mean: must be one number, or one per channel, got 3 numbers for .* 1 channel$"
        ):
            network(torch.rand(2, 1, 4, 4))

    def test_resize_needs_images(self):
        with pytest.raises(AdapterError, match=r"--resize 8: needs images \(N, C, H, W\), got \(2, 16\)"):
            AdaptedNetwork(nn.Identity(), NetworkOptions(resize=8))(torch.rand(2, 16))
