"""mlp: parameter counts by formula, and outputs against matrix products."""

import itertools
import math
import random

import matplotlib.text
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_spaces.spaces.mlp import WIDTHS, mlp

STYLES = list(itertools.product(("relu", "silu", "gelu", "softplus"), ("batch", "layer", "none")))


@pytest.fixture(autouse=True)
def repeatable():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def architecture(widths, layers=3, activation="relu", normalisation="batch"):
    """Returns the architecture with these hidden layers. Unused layers have the first value of WIDTHS."""
    padded = [*widths, *[WIDTHS[0]] * (layers - len(widths))]
    return {
        "depth": len(widths),
        **{f"width{n}": width for n, width in enumerate(padded, start=1)},
        "activation": activation,
        "normalisation": normalisation,
    }


def parameters(a, pixels, classes):
    """Parameter count by formula: per hidden unit its weights, a shift and, with a normalisation, a scale."""
    total, features = 0, pixels
    for layer in range(1, a["depth"] + 1):
        units = a[f"width{layer}"]
        total += units * (features + (1 if a["normalisation"] == "none" else 2))
        features = units
    return total + (features + 1) * classes


@pytest.mark.parametrize(("layers", "size", "functions"), [(1, 192, 97), (2, 2304, 865), (3, 24_576, 7009)])
def test_size_and_number_of_functions(layers, size, functions):
    space = mlp(layers)
    assert space.size == size == (layers + 1) * len(WIDTHS) ** layers * 4 * 3
    assert len({space.key(a) for a in space.enumerate()}) == functions
    assert functions == 1 + 12 * sum(8**depth for depth in range(1, layers + 1))


@pytest.mark.parametrize("layers", [1, 3, 6])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 32, 32), (2, 5, 9)])
def test_parameters_are_those_counted_by_hand(layers, shape):
    generator = random.Random(layers)
    for _ in range(40):
        a = mlp(layers).sample(generator)
        with torch.device("meta"):
            network = mlp(layers).build(a, shape, 10)
        assert sum(p.numel() for p in network.parameters()) == parameters(a, math.prod(shape), 10)


def test_parameters_of_some_known_networks():
    # The images have 784 pixels. The first network has no hidden layer, the second has one.
    for widths, normalisation, count in (
        ([], "none", 7850),
        ([128], "none", 101_770),
        ([512, 256], "batch", 784 * 512 + 1024 + 512 * 256 + 512 + 2570),
    ):
        network = mlp().build(architecture(widths, normalisation=normalisation), (1, 28, 28), 10)
        assert sum(p.numel() for p in network.parameters()) == count


def test_the_smallest_is_the_linear_classifier():
    network = mlp().build(architecture([]), (2, 3, 4), 5)
    assert [type(layer) for layer in network] == [nn.Flatten, nn.Linear]
    x, (weight, bias) = torch.rand(6, 2, 3, 4), network.parameters()
    assert torch.allclose(network(x), x.reshape(6, 24) @ weight.T + bias, atol=1e-6)
    assert mlp().at(0) == architecture([])


@pytest.mark.parametrize(("activation", "normalisation"), STYLES)
def test_networks_are_matrix_products_with_activations_between(activation, normalisation):
    network = mlp().build(architecture([32, 16], activation=activation, normalisation=normalisation), (1, 3, 4), 5).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5) if "var" in name else tensor.add_(0.3 * torch.randn_like(tensor))
        tensors, x = list(network.state_dict().values()), torch.rand(6, 1, 3, 4)
        hidden = x.reshape(6, 12)
        for _ in range(2):
            hidden = hidden @ tensors.pop(0).T
            if normalisation == "none":
                hidden = hidden + tensors.pop(0)
            elif normalisation == "layer":
                centred = hidden - hidden.mean(1, keepdim=True)
                hidden = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * tensors.pop(0) + tensors.pop(0)
            else:
                scale, shift, mean, var, _ = (tensors.pop(0) for _ in range(5))
                hidden = (hidden - mean) / (var + 1e-5).sqrt() * scale + shift
            hidden = getattr(F, activation)(hidden)
        expected = hidden @ tensors.pop(0).T + tensors.pop(0)
        assert not tensors
        assert torch.allclose(network(x), expected, rtol=1e-4, atol=1e-5)


def test_settings_without_effect_get_their_first_value():
    proposed = {"depth": 1, "width1": 64, "width2": 128, "width3": 2048, "activation": "gelu", "normalisation": "none"}
    assert mlp().canonical(proposed) == architecture([64], activation="gelu", normalisation="none")
    assert mlp().canonical(proposed | {"depth": 0}) == architecture([])


def test_architectures_are_merged_where_and_only_where_they_compute_the_same():
    space, drawn = mlp(2), random.Random(0)
    pairs = [(space.sample(drawn), space.sample(drawn)) for _ in range(100)]
    for first in (space.sample(drawn) for _ in range(40)):
        pairs += [(first, second) for second in space.neighbours(first)]
    x, seen = torch.rand(3, 1, 2, 3), []
    for pair in pairs:
        logits = []
        for a in pair:
            torch.manual_seed(1)
            logits.append(space.build(a, (1, 2, 3), 4).eval()(x))
        assert (space.key(pair[0]) == space.key(pair[1])) == torch.equal(*logits), pair
        seen.append(torch.equal(*logits))
    assert 50 < sum(seen) < len(seen) - 50


@pytest.mark.parametrize(("activation", "normalisation"), STYLES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 3)])
def test_gradients_reach_every_parameter_and_images_do_not_affect_each_other(activation, normalisation, shape):
    for widths in ([], [16], [64, 16, 32]):
        network = mlp().build(architecture(widths, activation=activation, normalisation=normalisation), shape, 5).train()
        x = torch.rand(9, *shape, requires_grad=True)
        network(x).square().sum().backward()
        assert (x.grad != 0).any()
        assert all((p.grad != 0).any() for p in network.parameters())
        network.eval()
        assert torch.allclose(network(x), torch.cat([network(image[None]) for image in x]), atol=1e-5)


@pytest.mark.parametrize("layers", [0, -1])
def test_no_layers_at_all_are_refused(layers):
    with pytest.raises(ValueError, match=f"^layers must be at least 1, got {layers}$"):
        mlp(layers)


def test_drawing_has_the_layers_that_are_built():
    def texts(a):
        return [t.get_text().replace("\n", " ") for t in mlp().draw(a).findobj(matplotlib.text.Text) if t.get_text()]

    assert texts(architecture([])) == ["linear"]
    assert texts(architecture([64, 2048], activation="softplus")) == [
        "linear 64, batch, softplus",
        "linear 2048, batch, softplus",
        "linear",
    ]
    assert texts(architecture([16], normalisation="none")) == ["linear 16, relu", "linear"]
