import math
import operator
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evaluators.bounds.layers import LAYERS, circular_norm, max_pool, operation
from evaluators.bounds.rules import Balls, Bound, NoRuleError

CONVOLUTIONS = {
    "plain": {},
    "padded": {"padding": 1},
    "strided": {"padding": 1, "stride": 2},
    "dilated": {"padding": 2, "dilation": 2},
    "grouped": {"padding": 1, "groups": 2},
    "depthwise": {"padding": 1, "groups": 4},
    "same": {"padding": "same", "dilation": 2},
    "valid": {"padding": "valid", "bias": False},
    "wide": {"kernel_size": (1, 5), "padding": (0, 2), "stride": (1, 3)},
}


def convolution(name):
    given = {"kernel_size": 3} | CONVOLUTIONS[name]
    return nn.Conv2d(4, 8, **given)


def trained_norm(channels):
    layer = nn.BatchNorm2d(channels)
    layer.running_var.uniform_(0.2, 3)
    layer.running_mean.normal_()
    nn.init.normal_(layer.weight)
    return layer


MADE = {
    **{f"conv {name}": lambda name=name: convolution(name) for name in CONVOLUTIONS},
    "batch norm": lambda: trained_norm(4),
    "batch norm, not affine": lambda: nn.BatchNorm2d(4, affine=False),
    "linear": lambda: nn.Linear(7, 5),
    "flatten": nn.Flatten,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky": lambda: nn.LeakyReLU(0.3),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
    "dropout": nn.Dropout,
    "average": lambda: nn.AvgPool2d(3, 1, 1),
    "average, strided": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False, ceil_mode=True),
    "adaptive": lambda: nn.AdaptiveAvgPool2d((3, 2)),
    "global": lambda: nn.AdaptiveAvgPool2d(1),
    "zeros around": lambda: nn.ZeroPad2d(2),
    "maximum": lambda: nn.MaxPool2d(2),
    "maximum, overlapping": lambda: nn.MaxPool2d(3, 1, 1),
    "maximum, strided": lambda: nn.MaxPool2d((3, 2), 2, padding=1),
    "maximum, dilated": lambda: nn.MaxPool2d(3, 2, dilation=2),
}


def around(seed=0, *, euclidean, width=0.3, reach=1.0):
    """Returns a bound around random values (2, 4, 7, 7), the balls around two images, and 60 points within the bound.

    `reach` is the Lipschitz constant of the value as a function of the image.
    """
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(2, 4, 7, 7, generator=generator, dtype=torch.float64)
    balls = Balls(euclidean, torch.tensor([width, 2 * width], dtype=torch.float64), {})
    room = balls.radius.view(-1, 1, 1, 1)
    change = torch.randn(60, *centre.shape, generator=generator, dtype=torch.float64)
    if euclidean:
        change = change / change.flatten(2).norm(dim=2).view(60, 2, 1, 1, 1)
        change[1] = 0
        change[1, :, 0, 0, 0] = 1
    else:
        change = change.sign()
    return Bound(centre, centre - room, centre + room, reach), balls, centre + change * room


def check(f, output, bound, points):
    """Checks that the bound `output` holds for f at points, and that the centre of `output` is f(bound.centre)."""
    for point in points:
        value = f(point)
        assert (value >= output.lower - 1e-9).all()
        assert (value <= output.upper + 1e-9).all()
    torch.testing.assert_close(f(bound.centre), output.centre)
    assert (output.lower <= output.centre + 1e-12).all()


def exact_norm(f, point, *, euclidean):
    matrix = torch.autograd.functional.jacobian(f, point[:1])
    matrix = matrix.reshape(-1, point[:1].numel())
    return float(torch.linalg.matrix_norm(matrix, ord=2 if euclidean else math.inf))


@pytest.mark.parametrize("euclidean", [True, False])
@pytest.mark.parametrize("name", MADE)
def test_bounds_hold_and_norms_are_not_below_the_exact_ones(name, euclidean):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layer = MADE[name]().double().eval().requires_grad_(False)
    bound, balls, points = around(euclidean=euclidean)
    output = LAYERS[type(layer)](layer, bound, balls, "step")
    check(layer, output, bound, points)
    exact = max(exact_norm(layer, point, euclidean=euclidean) for point in (bound.centre, points[0]))
    assert output.reach >= exact * (1 - 1e-9)
    linear = not isinstance(layer, nn.MaxPool2d | nn.Sigmoid | nn.Tanh)
    loose = 2.0 if isinstance(layer, nn.Conv2d) and max(layer.stride) > 1 else 1.35
    if linear and not name.startswith(("average", "adaptive")):
        assert output.reach <= exact * (loose if euclidean else 1 + 1e-8)
    # The second call uses the cached norm.
    assert LAYERS[type(layer)](layer, bound, balls, "step").reach == output.reach


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_circular_norm_is_an_upper_bound(name):
    layer = convolution(name).double().requires_grad_(False)
    matrix = torch.autograd.functional.jacobian(
        lambda x: F.conv2d(x, layer.weight, None, 1, 0, layer.dilation, layer.groups),
        (torch.zeros(1, 4, 12, 12, dtype=torch.float64)),
    ).reshape(-1, 576)
    assert circular_norm(layer, (12, 12)) >= float(torch.linalg.matrix_norm(matrix, ord=2)) * (1 - 1e-9)


def test_the_norm_of_a_kernel_with_one_entry_is_its_absolute_value():
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False).double().requires_grad_(False)
    layer.weight.zero_()
    layer.weight[0, 0, 0, 2] = -3.0
    assert circular_norm(layer, (5, 6)) == pytest.approx(3.0)


def differences(**settings):
    """Returns the convolution of a row of pixels with (-1, 0, 1). Its norm at frequency w is abs(2 sin(w))."""
    layer = nn.Conv2d(1, 1, (1, 3), bias=False, **settings).double().requires_grad_(False)
    layer.weight.copy_(torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3))
    return layer


def test_zero_padding_adds_frequencies():
    # The exact norm for 6 pixels is 2 cos(pi / 7). At the frequencies of 6 pixels (multiples of 2 pi / 6) the norm is at
    # most sqrt(3), so they give no upper bound. The frequencies of the 8 padded pixels include pi / 2, where the norm is 2.
    assert circular_norm(differences(padding=(0, 1)), (1, 6)) == pytest.approx(2)
    assert 2 > 2 * math.cos(math.pi / 7) > math.sqrt(3)


def test_dilation_changes_the_norm():
    # With dilation 2, the norm at frequency w is abs(2 sin(2w)). Its maximum over the frequencies of 12 pixels, multiples of
    # 2 pi / 12, is sqrt(3). Without dilation the maximum is 2.
    assert circular_norm(differences(dilation=(1, 2)), (1, 12)) == pytest.approx(math.sqrt(3))
    assert circular_norm(differences(), (1, 12)) == pytest.approx(2)


@pytest.mark.parametrize(
    ("layer", "windows"),
    [
        (nn.MaxPool2d(3, 2, dilation=2), 9),
        (nn.MaxPool2d(3, 1), 9),
        (nn.MaxPool2d(3, 2), 4),
        (nn.MaxPool2d((3, 2), (1, 2)), 3),
    ],
)
def test_one_bright_pixel_is_the_maximum_of_every_window_that_holds_it(layer, windows):
    pixel = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    pixel[0, 0, 4, 4] = 1.0
    assert layer(pixel).sum() == windows
    balls = Balls(True, torch.ones(1, dtype=torch.float64), {})
    assert max_pool(layer, Bound(pixel, pixel, pixel, 1.0), balls, "step").reach == pytest.approx(math.sqrt(windows))


def test_a_fourier_transform_that_is_too_large_gives_an_infinite_norm():
    assert circular_norm(nn.Conv2d(64, 64, 3, padding=1), (224, 224)) == math.inf


OPERATIONS = {
    "flatten": (torch.flatten, (1,), {}),
    "mean": ("mean", ((2, 3),), {}),
    "mean, kept": (torch.mean, (), {"dim": 1, "keepdim": True}),
    "sum": ("sum", (1,), {}),
    "view": ("view", (2, -1), {}),
    "slice": (operator.getitem, ((slice(None), slice(None), slice(1, None, 2)),), {}),
    "pad": (F.pad, ((0, 1, 0, 1),), {}),
    "replicate": (F.pad, ((1, 1, 1, 1),), {"mode": "replicate"}),
    "zeros": (torch.zeros_like, (), {}),
    "average": (F.avg_pool2d, (2,), {}),
    "relu": (F.relu, (), {"inplace": False}),
    "plus": (operator.add, (0.7,), {}),
    "minus": (operator.sub, (torch.tensor([[[1.0]], [[2.0]], [[3.0]], [[4.0]]]),), {}),
    "times": (operator.mul, (-1.5,), {}),
    "negative": (operator.neg, (), {}),
    "negative, of torch": (torch.neg, (), {}),
    "negative, by method": ("neg", (), {}),
    "over": (operator.truediv, (torch.tensor([[[-1.0]], [[2.0]], [[3.0]], [[0.5]]]),), {}),
}


@pytest.mark.parametrize("euclidean", [True, False])
@pytest.mark.parametrize("name", OPERATIONS)
def test_bounds_of_operations_hold(name, euclidean):
    target, rest, kwargs = OPERATIONS[name]
    bound, balls, points = around(euclidean=euclidean)

    def f(value):
        call = getattr(torch.Tensor, target) if isinstance(target, str) else target
        return call(value, *rest, **kwargs)

    output = operation(target, (bound, *rest), kwargs, balls, "step")
    check(f, output, bound, points)
    one = bound.centre.clone()
    matrix = torch.autograd.functional.jacobian(f, one).reshape(-1, one.numel())
    exact = float(torch.linalg.matrix_norm(matrix, ord=2 if euclidean else math.inf)) if matrix.any() else 0.0
    assert exact * (1 - 1e-9) <= output.reach <= max(exact * (2 if name == "replicate" else 1) * (1 + 1e-8), 1e-30) or (
        name == "relu" and output.reach == 1
    )


@pytest.mark.parametrize("euclidean", [True, False])
def test_sums_differences_and_concatenations_of_values(euclidean):
    bound, balls, points = around(euclidean=euclidean)
    other = operation(operator.mul, (bound, -2.0), {}, balls, "twice")
    for target, wanted, reach in (
        (operator.add, lambda v: v - 2 * v, 3),
        (operator.sub, lambda v: v + 2 * v, 3),
        ("add", lambda v: v - 2 * v, 3),
    ):
        output = operation(target, (bound, other), {}, balls, "both")
        check(wanted, output, bound, points)
        assert output.reach == pytest.approx(reach)
    for output in (
        operation(torch.cat, ([bound, other], 1), {}, balls, "cat"),
        operation(torch.cat, ((bound, other),), {"dim": 1}, balls, "cat"),
    ):
        check(lambda v: torch.cat([v, -2 * v], 1), output, bound, points)
        assert output.reach == pytest.approx(math.sqrt(5) if euclidean else 2)
    check(lambda v: 1 - v, operation(operator.sub, (1.0, bound), {}, balls, "from one"), bound, points)
    check(lambda v: 3 + v, operation(operator.add, (3.0, bound), {}, balls, "plus"), bound, points)
    check(lambda v: 3 * v, operation(operator.mul, (3.0, bound), {}, balls, "times"), bound, points)


@pytest.mark.parametrize(
    ("target", "args", "message"),
    [
        (operator.mul, lambda b: (b, b), "there is no rule for the operation mul with these arguments"),
        (operator.truediv, lambda b: (1.0, b), "there is no rule for the operation truediv with these arguments"),
        ("softmax", lambda b: (b, 1), "there is no rule for the operation softmax with these arguments"),
        (torch.cat, lambda b: ([b, b.centre], 1), "there is no rule for the operation cat with these arguments"),
        (F.relu, lambda b: (), "there is no rule for the operation relu with these arguments"),
        (
            operator.add,
            lambda b: (b, torch.zeros(3, 1, 1, 1, 1)),
            "shapes (4, 7, 7) and (2, 4, 7, 7) do not match in a sum or product",
        ),
        (F.pad, lambda b: (b, (1, 1), "constant", 1.0), "step is not a linear map without negative entries"),
        (F.avg_pool2d, lambda b: (b, 2, 2, 0, False, True, -4), "step is not a linear map without negative entries"),
    ],
)
def test_operations_that_have_no_rule(target, args, message):
    bound, balls, _ = around(euclidean=True)
    with pytest.raises(NoRuleError, match=re.escape(message)):
        operation(target, args(bound), {}, balls, "step")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "there is no rule for Conv2d with padding_mode 'reflect'"),
        (nn.BatchNorm2d(4, track_running_stats=False), "there is no rule for BatchNorm2d without running statistics"),
        (nn.LeakyReLU(1.5), "there is no rule for LeakyReLU with a negative_slope of 1.5"),
        (nn.MaxPool2d(2, return_indices=True), "there is no rule for MaxPool2d with return_indices"),
    ],
)
def test_layers_whose_settings_have_no_rule(layer, message):
    bound, balls, _ = around(euclidean=True)
    with pytest.raises(NoRuleError, match=re.escape(message)):
        LAYERS[type(layer)](layer.double(), bound, balls, "step")
