"""Checks of a space: built-in spaces pass, and a planted bug fails its check, in most cases only this check."""

import dataclasses
import enum
import random
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_spaces import Choice, SearchSpace, cell201, cell_space, darts, macro, nasnet, robnet
from search_spaces.checks.run import CHECKS, CheckResult, check_space
from search_spaces.spaces.mlp import mlp

OPERATIONS = ("none", "skip", "conv")


class Cell(nn.Module):
    """The sum of two operations, with the planted fault that `bug` names."""

    def __init__(self, architecture, width, bug):
        super().__init__()
        self.bug, self.skips = bug, [architecture["first"], architecture["second"]].count("skip")
        kernel = architecture["kernel"]
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, kernel, padding=kernel // 2), nn.BatchNorm2d(width), nn.ReLU())
            for name in ("first", "second")
            if architecture[name] == "conv"
        )
        if bug == "a layer is not used":
            self.idle = nn.Conv2d(width, width, 3)
        if bug == "a layer is detached":
            self.detached = nn.Conv2d(width, width, 1)

    def forward(self, x):
        if self.bug == "a broken layer" and len(self.convs) == 2:
            raise RuntimeError("two convolutions at once\nand a second line")
        if self.bug == "no batch of one" and len(x) == 1:
            x = x.squeeze(0)
        if self.bug == "the batch's mean" and not self.training:
            x = x - x.mean(0)
        if self.bug == "dropout in evaluation mode":
            x = F.dropout(x)
        if self.bug == "a generator of numpy":
            np.random.rand()
        if self.bug == "in place" and self.training:
            y = x.sigmoid()
            x = y + y.mul_(2)
        if self.bug == "rounding":
            x = x.round()
        if self.bug == "a layer is detached":
            x = x + self.detached(x).detach()
        if self.bug == "not finite":
            x = x / 0
        return self.skips * x + sum((conv(x) for conv in self.convs), torch.zeros_like(x))


def canonical(architecture):
    """The order of the two operations does not matter, and the kernel has no effect without a convolution."""
    first, second = sorted((architecture["first"], architecture["second"]), key=OPERATIONS.index)
    kernel = architecture["kernel"] if "conv" in (first, second) else 3
    return {**architecture, "first": first, "second": second, "kernel": kernel}


def build_with(bug):
    def build(architecture, input_shape, num_classes):
        if bug == "not built" and architecture["first"] == "conv":
            raise ValueError("there is no such convolution\nand a second line")
        if bug == "square images only" and input_shape[1] != input_shape[2]:
            raise ValueError(f"images must be square, got {input_shape[1:]}")
        if bug == "no network":
            return lambda x: x
        if bug == "a seed of its own":
            torch.manual_seed(0)
        if bug == "a generator of Python":
            random.random()
        width = architecture["width"] if bug != "width is not used" else 4
        if bug == "two widths are one":
            width = min(width, 6)
        classes = 10 if bug == "ten classes" else num_classes
        network = nn.Sequential(
            nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            Cell(architecture, width, bug),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, classes),
        )
        if bug == "changes what it is given":
            architecture["width"] = 4
        if bug == "weights from elsewhere":
            with torch.no_grad():
                network[-1].bias.fill_(next(COUNTER))
        return network

    return build


COUNTER = iter(range(1_000_000))


def space(bug="", **changes):
    tested = SearchSpace(
        name="small",
        choices={
            "first": Choice(*OPERATIONS),
            "second": Choice(*OPERATIONS),
            "kernel": Choice(3, 5),
            "width": Choice(4, 6, 8),
        },
        build=build_with(bug),
        canonical=canonical,
    )
    return dataclasses.replace(tested, **changes)


def failed(results):
    return {result.check: result for result in results if result.passed is not True}


def the_one(check, tested):
    """Returns the only failed result. It must be from this check and name an architecture of the space."""
    results = check_space(tested, samples=12)
    assert [result.check for result in results] == list(CHECKS)
    bad = failed(results)
    assert list(bad) == [check], bad
    assert bad[check].passed is False
    if bad[check].architecture is not None:
        tested.validate(bad[check].architecture)
    return bad[check]


def test_a_sound_space_passes_and_reports_what_was_checked():
    results = {result.check: result for result in check_space(space(), samples=12)}
    assert failed(results.values()) == {}
    assert all(isinstance(f, CheckResult) and f.message and f.architecture is None for f in results.values())
    assert all(part in results["builds"].message for part in ("12 ", "(3, 32, 32)", "(1, 28, 28)", "(3, 24, 40)"))
    assert all(part in results["reachable"].message for part in ("11 values", "4 choices"))
    # There are 9 pairs of operations, 2 kernels and 3 widths: 54 architectures. Three pairs are out of order: 3 * 2 * 3
    # architectures. Three other pairs have no convolution: 3 * 3 architectures with the unused kernel 5. In sum: 27.
    assert re.findall(r"\d+", results["canonical_equal_functions"].message) == ["27", "54"]
    # The message has the number of networks, 12, and the number of disconnected networks among them.
    counts = re.findall(r"\d+", results["gradients"].message)
    assert counts[0] == "12"
    assert 0 < int(counts[1]) < 12


@pytest.mark.parametrize(
    ("bug", "check", "parts"),
    [
        ("not built", "builds", ("build", "(3, 32, 32)", "ValueError: there is no such convolution")),
        ("square images only", "builds", ("build", "(3, 24, 40)", "ValueError: images must be square, got (24, 40)")),
        ("changes what it is given", "builds", ("build", "changes the architecture")),
        ("a broken layer", "shapes", ("evaluation mode", "RuntimeError: two convolutions at once")),
        ("not finite", "shapes", ("(1, 3, 32, 32)", "evaluation mode", "not finite")),
        ("a layer is not used", "gradients", ("no gradient", "2.idle.bias, 2.idle.weight")),
        ("a layer is detached", "gradients", ("no gradient", "2.detached.bias, 2.detached.weight")),
        ("rounding", "gradients", ("no gradient", "image", "12 architectures")),
        ("in place", "gradients", ("backward", "RuntimeError")),
        ("the batch's mean", "batch_independent", ("logits", "batch")),
        ("dropout in evaluation mode", "deterministic", ("evaluation mode", "different logits")),
        ("weights from elsewhere", "deterministic", ("seed", "different weights", "5.bias")),
        ("a seed of its own", "deterministic", ("seed", "same weights")),
        ("a generator of numpy", "global_state", ("state of numpy.random",)),
        ("a generator of Python", "global_state", ("state of random",)),
        ("width is not used", "used", ("'width'", "build")),
    ],
)
def test_a_bug_in_build_is_found_by_its_check_alone(bug, check, parts):
    result = the_one(check, space(bug))
    assert all(part in result.message for part in parts), result.message
    assert "\n" not in result.message
    assert result.architecture is not None


def test_the_architecture_is_one_that_shows_the_bug():
    assert the_one("builds", space("not built")).architecture["first"] == "conv"
    shown = the_one("shapes", space("a broken layer")).architecture
    assert (shown["first"], shown["second"]) == ("conv", "conv")


def test_values_that_build_one_network_are_named():
    message = the_one("used", space("two widths are one")).message
    assert "value 6 of choice 'width'" in message
    assert "same network" in message
    assert "value 8 of choice 'width'" in message
    assert "value 4" not in message


@pytest.mark.parametrize(
    ("bug", "check", "parts"),
    [
        ("no network", "builds", ("build", "torch.nn.Module", "got function")),
        ("ten classes", "shapes", ("(1, 3, 32, 32)", "evaluation mode", "(N, K) = (1, 7)", "got (1, 10)")),
        ("no batch of one", "shapes", ("(1, 3, 32, 32)", "evaluation mode")),
    ],
)
def test_a_bug_in_all_architectures_skips_other_checks(bug, check, parts):
    results = failed(check_space(space(bug), samples=6))
    assert all(part in results[check].message for part in parts), results[check].message
    others = {result.passed for name, result in results.items() if name != check}
    assert others <= {None}
    if bug != "no batch of one":
        assert results["gradients"].passed is None
        assert "not tried" in results["gradients"].message


def without_kernel(architecture):
    return {name: value for name, value in canonical(architecture).items() if name != "kernel"}


def spoils(architecture):
    architecture["first"] = "none"
    return canonical(architecture)


def raises(architecture):
    if architecture["first"] == "conv":
        raise KeyError("conv")
    return canonical(architecture)


@pytest.mark.parametrize(
    ("faulty", "parts"),
    [
        (without_kernel, ("ValueError", "small", "'kernel'", "missing")),
        (lambda a: {**canonical(a), "width": 5}, ("'width'", "[4, 6, 8]", "got 5")),
        (lambda a: {**canonical(a), "more": 1}, ("unknown", "'more'")),
        (lambda a: [*a], ("dict", "got list")),
        (spoils, ("canonical", "changes the architecture")),
        (raises, ("canonical", "KeyError: 'conv'")),
    ],
)
def test_a_canonical_form_that_is_no_architecture(faulty, parts):
    result = failed(check_space(space(canonical=faulty), samples=12))["canonical_valid"]
    assert result.passed is False
    assert all(part in result.message for part in parts), result.message
    space().validate(result.architecture)


def test_an_invalid_canonical_form_fails_one_check():
    the_one("canonical_valid", space(canonical=raises))


def test_a_canonical_form_that_is_not_its_own():
    def swaps(architecture):
        return {**architecture, "first": architecture["second"], "second": architecture["first"]}

    result = the_one("canonical_idempotent", space(canonical=swaps))
    first, second = result.architecture["first"], result.architecture["second"]
    assert "'first'" in result.message
    assert result.message.index(repr(second)) < result.message.rindex(repr(first))


def test_a_canonical_form_in_another_order_of_choices():
    def turns(architecture):
        return dict(reversed(architecture.items()))

    assert "order" in the_one("canonical_idempotent", space(canonical=turns)).message


def test_a_canonical_form_of_another_function():
    def merges(architecture):  # Wrong: two convolutions are not equal to one.
        form = canonical(architecture)
        return {**form, "first": "none"} if form["first"] == form["second"] == "conv" else form

    result = the_one("canonical_equal_functions", space(canonical=merges))
    assert "another function" in result.message
    assert "first: 'conv' to 'none'" in result.message
    assert (result.architecture["first"], result.architecture["second"]) == ("conv", "conv")


def test_a_canonical_form_that_does_not_run():
    def build(architecture, input_shape, num_classes):
        if architecture["first"] == "none":
            raise ValueError("there is nothing")
        return build_with("")(architecture, input_shape, num_classes)

    results = failed(check_space(space(build=build), samples=12))
    assert "ValueError: there is nothing" in results["canonical_equal_functions"].message


def test_concatenated_outputs_may_change_their_order():
    """The canonical form is correct because the weights of the next layer can be permuted."""

    class Both(nn.Module):
        def __init__(self, kernels):
            super().__init__()
            self.branches = nn.ModuleList(nn.Conv2d(3, 4, k, padding=k // 2) for k in kernels)

        def forward(self, x):
            return torch.cat([branch(x) for branch in self.branches], 1)

    def build(architecture, input_shape, num_classes):
        assert input_shape[0] == 3
        layers = (Both([architecture["a"], architecture["b"]]), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1))
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes))

    def ordered(architecture):
        return dict(zip("ab", sorted((architecture["a"], architecture["b"])), strict=True))

    choices = {"a": Choice(1, 3, 5), "b": Choice(1, 3, 5)}
    shapes = ((3, 16, 16), (3, 12, 20))
    right = SearchSpace(name="both", choices=choices, build=build, canonical=ordered)
    results = check_space(right, samples=4, input_shapes=shapes)
    assert failed(results) == {}
    wrong = dataclasses.replace(right, canonical=lambda a: {**ordered(a), "b": 5})
    assert "canonical_equal_functions" in failed(check_space(wrong, samples=4, input_shapes=shapes))


def test_buffers_that_are_no_weights_keep_their_values_in_comparisons():
    """A buffer that is not a weight, here a mask of a branch, keeps its values."""

    class Masked(nn.Module):
        def __init__(self, on):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.register_buffer("mask", torch.full((4, 1, 1), float(on)))

        def forward(self, x):
            return self.mask * self.conv(x)

    def build(architecture, input_shape, num_classes):
        branch = Masked(architecture["mask"] != "off" and architecture["on"])
        return nn.Sequential(branch, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))

    def canonical(architecture):
        off = architecture["mask"] == "off" or not architecture["on"]
        return {"mask": "off", "on": False} if off else dict(architecture)

    masked = SearchSpace(
        name="masked", choices={"mask": Choice("off", "on"), "on": Choice(False, True)}, build=build, canonical=canonical
    )
    results = check_space(masked, samples=4, input_shapes=((3, 9, 9),))
    assert failed(results) == {}
    assert results[list(CHECKS).index("canonical_equal_functions")].message.startswith("2 ")


class Kind(enum.StrEnum):
    plain = "plain"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.float64(0.5), "JSON"),
        (Kind.plain, "JSON: .* must be one of"),
    ],
)
def test_values_that_do_not_survive_a_format(value, message):
    choices = {**space().choices, "kernel": Choice(3, 5), "extra": Choice(value)}
    result = failed(check_space(space(choices=choices, canonical=dict), samples=4))["round_trip"]
    assert result.passed is False
    assert re.search(message, result.message)


def test_a_format_that_fails_is_named():
    results = check_space(space(), samples=4, formats={"JSON": dict, "lines": lambda a: "\n".join(a)})
    message = failed(results)["round_trip"].message
    assert "lines" in message
    assert "str" in message


def test_a_value_that_never_matters_by_the_canonical_form():
    def build(architecture, input_shape, num_classes):
        return build_with("")({**architecture, "width": min(architecture["width"], 6)}, input_shape, num_classes)

    def form(architecture):
        return {**canonical(architecture), "width": min(architecture["width"], 6)}

    result = the_one("reachable", space(build=build, canonical=form))
    assert "value 8 of choice 'width'" in result.message
    assert "value 4" not in result.message


def test_a_choice_that_never_matters_by_the_canonical_form():
    def build(architecture, input_shape, num_classes):
        return build_with("")({**architecture, "width": 4}, input_shape, num_classes)

    result = the_one("reachable", space(build=build, canonical=lambda a: {**canonical(a), "width": 4}))
    assert result.message.startswith("choice 'width'")
    assert "value" not in result.message


def test_choices_that_change_only_the_logits_are_used():
    """The initialisation of weights and the number of passes of a layer change only the logits."""

    class Passed(nn.Module):
        def __init__(self, times):
            super().__init__()
            self.layer, self.times = nn.Conv2d(4, 4, 1), times

        def forward(self, x):
            for _ in range(self.times):
                x = torch.tanh(self.layer(x))
            return x

    def build(architecture, input_shape, num_classes):
        passed = Passed(architecture["times"])
        head = nn.Linear(4, num_classes)
        if architecture["start"] == "orthogonal":
            nn.init.orthogonal_(head.weight)
        return nn.Sequential(nn.Conv2d(input_shape[0], 4, 3), passed, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)

    choices = {"times": Choice(1, 2), "start": Choice("uniform", "orthogonal")}
    assert failed(check_space(SearchSpace(name="subtle", choices=choices, build=build), samples=4)) == {}


def test_layers_that_start_at_zero_and_lazy_ones_are_no_fault():
    class Residual(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.branch = nn.Sequential(nn.LazyConv2d(width, 3, padding=1), nn.BatchNorm2d(width))
            nn.init.zeros_(self.branch[1].weight)

        def forward(self, x):
            return x + self.branch(x)

    def build(architecture, input_shape, num_classes):
        width = architecture["width"]
        layers = (nn.LazyConv2d(width, 3), Residual(width), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return nn.Sequential(*layers, nn.LazyLinear(num_classes))

    zero_space = SearchSpace(name="zero", choices={"width": Choice(4, 5, 6)}, build=build)
    assert failed(check_space(zero_space, samples=3)) == {}


def test_a_space_whose_every_function_raises_fails_checks_and_raises_nothing():
    def broken(*arguments):
        raise RuntimeError("broken")

    results = {f.check: f for f in check_space(space(build=broken, canonical=broken), samples=2)}
    assert list(results) == list(CHECKS)
    assert all(part in results["builds"].message for part in ("(3, 32, 32)", "RuntimeError: broken"))
    assert all(part in results["canonical_valid"].message for part in ("canonical", "RuntimeError: broken"))


def test_generators_are_left_as_they_were():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    wanted = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    check_space(space("a generator of numpy"), samples=2)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples .* at least 1, got 0 and 7"),
        ({"num_classes": 0}, "num_classes .* at least 1, got 20 and 0"),
        ({"input_shapes": ()}, r"input_shapes must hold \(C, H, W\)"),
        ({"input_shapes": ((3, 0, 8),)}, r"input_shapes must hold \(C, H, W\)"),
        ({"input_shapes": ((32, 32),)}, r"input_shapes must hold \(C, H, W\)"),
    ],
)
def test_settings_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_space(space(), **options)


SHIPPED = {
    "cell201": lambda: cell201(4, 1, 2),
    "darts": lambda: darts(2, 3),
    "nasnet": lambda: nasnet(4, 1, 2),
    "robnet": lambda: robnet(4, 3),
    "robnet_free": lambda: robnet(2, 3, shared=False),
    "macro": lambda: macro(2),
    "mlp": mlp,
    "unused_outputs": lambda: cell_space(nodes=4, inputs=2, output="unused", channels=2, cells_per_stage=1, stages=2),
    "two_inputs": lambda: cell_space(nodes=4, topology="two_inputs", output="all", channels=2, cells_per_stage=1, stages=2),
}
# Checks of spaces with many values, or of networks with many layers, are slow.
LARGE = ("darts", "nasnet", "robnet", "robnet_free")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in LARGE else ()) for n in SHIPPED])
def test_built_in_spaces_pass(name):
    assert failed(check_space(SHIPPED[name](), samples=3, input_shapes=((3, 16, 16), (1, 12, 20)))) == {}
