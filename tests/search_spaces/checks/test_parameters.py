"""Checks of parameters, outputs and images: each planted fault is found by its check, with a remedy."""

import dataclasses
import functools

import pytest
import torch
from torch import nn

from search_spaces import Choice, SearchSpace
from search_spaces.checks.ownership import unregistered_layers
from search_spaces.checks.run import check_space

STEMS: dict[int, nn.Module] = {}
SHAPES = ((3, 12, 12), (1, 9, 15))


class Net(nn.Module):
    """A convolution and a classifier, with one fault."""

    def __init__(self, fault, width, channels, classes):
        super().__init__()
        self.fault, self.stem = fault, nn.Sequential(nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
        if fault == "a stem for all networks of a width":
            self.stem = STEMS.setdefault(100 * channels + width, self.stem)
        if fault == "a weight for all networks of a width":
            self.stem[0].weight = nn.Parameter(STEMS.setdefault(100 * channels + width, self.stem).get_parameter("0.weight"))
        if fault == "a frozen layer":
            self.stem[0].weight.requires_grad_(False)
        if fault == "a plain list":
            self.layers, self.stem = [*self.stem], nn.Identity()
        if fault == "a dict of lists":
            self.layers, self.stem = {"stem": [self.stem]}, nn.Identity()
        if fault == "a plain tensor":
            self.scale = torch.ones(1, requires_grad=True)

    def forward(self, x):
        if self.fault == "images changed" or (self.fault == "images changed in training" and self.training):
            x.mul_(2)
        for layer in {"a plain list": lambda: self.layers, "a dict of lists": lambda: self.layers["stem"]}.get(
            self.fault, lambda: []
        )():
            x = layer(x)
        x = self.head(self.stem(x))
        if self.fault == "a plain tensor":
            x = x * self.scale
        return x.softmax(1) if self.fault == "softmax" else x


def space(fault=""):
    return SearchSpace("faulty", {"width": Choice(4, 6)}, lambda a, shape, k: Net(fault, a["width"], shape[0], k))


def results(tested, **options):
    return {result.check: result for result in check_space(tested, samples=4, input_shapes=SHAPES, **options)}


@pytest.mark.parametrize(
    ("fault", "check", "parts"),
    [
        (
            "a stem for all networks of a width",
            "separate_parameters",
            ("two calls of build", "stem.0.weight", "within build"),
        ),
        ("a weight for all networks of a width", "separate_parameters", ("two calls of build", "stem.0.weight")),
        ("a frozen layer", "trainable_parameters", ("stem.0.weight does not require gradients", "register_buffer")),
        ("a plain list", "registered_layers", ("layers (list)", "not registered", "nn.ModuleList")),
        ("a dict of lists", "registered_layers", ("layers (dict)", "nn.ModuleDict")),
        ("a plain tensor", "registered_layers", ("scale (Tensor)", "nn.Parameter")),
        ("softmax", "raw_logits", ("probabilities", "remove the softmax")),
        ("images changed", "images_unchanged", ("in place in training mode", "x = x * 2")),
        ("images changed in training", "images_unchanged", ("in place in training mode",)),
    ],
)
def test_a_fault_is_found_by_its_check_alone(fault, check, parts):
    STEMS.clear()
    found = results(space(fault))
    assert [name for name, result in found.items() if result.passed is False] == [check]
    assert all(part in found[check].message for part in parts), found[check].message
    space().validate(found[check].architecture)


def test_a_sound_space_has_neither_faults_nor_hints():
    found = results(space())
    assert all(result.passed and not result.hint for result in found.values())
    assert found["separate_parameters"].message == "4 networks"


def test_networks_that_share_layers_across_architectures_are_found():
    """The check builds two networks of each architecture, with seeds 0 and 1. All networks with seed 0 share a layer."""
    stem = nn.Conv2d(3, 4, 3)

    def build(architecture, input_shape, num_classes):
        network = Net("", architecture["width"], input_shape[0], num_classes)
        if input_shape == (3, 8, 8) and torch.initial_seed() == 0:
            network.shared = stem
        return network

    assert "shared" in results(dataclasses.replace(space(), build=build))["separate_parameters"].message


def test_one_class_has_the_probability_one():
    assert results(space("softmax"), num_classes=1)["raw_logits"].passed


@pytest.mark.parametrize(
    ("hide", "name"),
    [
        (lambda layer: [layer], "hidden (list)"),
        (lambda layer: ({"a": (1, layer)},), "hidden (tuple)"),
        (lambda layer: functools.partial(nn.functional.conv2d, weight=layer.weight), "hidden (partial)"),
        (lambda layer: layer.forward, "hidden (method)"),
        (lambda layer: lambda x: layer(x), "hidden (function)"),
        (lambda layer: nn.BatchNorm2d(1, affine=False).running_mean, None),
        (lambda layer: [nn.ReLU()], None),
        (lambda layer: [nn.BatchNorm2d(1, affine=False)], "hidden (list)"),
    ],
)
def test_layers_in_any_attribute_that_is_not_registered(hide, name):
    network = nn.Sequential(nn.Identity())
    network[0].hidden = hide(nn.Conv2d(1, 1, 1))
    assert unregistered_layers(network) == ([] if name is None else [f"0.{name}"])


def test_a_list_of_registered_layers_is_no_fault():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(1, 1))
    network.order = [*reversed(network)]
    assert unregistered_layers(network) == []


def test_a_missing_canonical_form_is_a_hint():
    choices = {"layer": Choice("conv", "none"), "kernel": Choice(1, 3)}

    def build(architecture, input_shape, num_classes):
        kernel, channels = architecture["kernel"], input_shape[0]
        layer = (
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2) if architecture["layer"] == "conv" else nn.Identity()
        )
        return nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))

    tested = SearchSpace("loose", choices, build)
    result = results(tested)["canonical_complete"]
    assert (result.passed, result.hint, result.architecture["layer"]) == (True, True, "none")
    assert "a canonical form is missing: in some architectures 'kernel' changes nothing" in result.message
    assert "let canonical set it to its first value" in result.message
    right = dataclasses.replace(tested, canonical=lambda a: a if a["layer"] == "conv" else {**a, "kernel": 1})
    assert not results(right)["canonical_complete"].hint
