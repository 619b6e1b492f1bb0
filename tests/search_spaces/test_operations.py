"""Operations: shapes, closed forms, receptive fields, channels, and the properties of the sets of operations."""

import math

import pytest
import torch
from torch import nn

from search_spaces.operations import (
    LINEAR,
    OPERATIONS,
    POINTWISE,
    VANISHING,
    WEIGHTLESS,
    BlurPool,
    FactorisedReduce,
    SqueezeExcitation,
)


@pytest.fixture(autouse=True)
def repeatable():
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        yield


def made(name, channels=8, stride=1):
    """Returns an operation in evaluation mode with random batch norm values, as after training."""
    module = OPERATIONS[name](channels, stride).eval()
    for key, tensor in module.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(torch.randn_like(tensor))
    return module


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_shapes(name, stride):
    for channels in (1, 3, 4, 9, 16):
        module = OPERATIONS[name](channels, stride)
        for height, width in ((1, 1), (2, 2), (5, 7), (8, 8)):
            x = torch.rand(3, channels, height, width)
            for mode in (True, False):
                wanted = (3, channels, math.ceil(height / stride), math.ceil(width / stride))
                assert module.train(mode)(x).shape == wanted, (channels, height, width)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_input_is_not_changed(name, stride):
    x = torch.randn(2, 4, 5, 6)
    given = x.clone()
    made(name, 4, stride)(given)
    assert torch.equal(given, x)


# Receptive fields, as sets of (row, column) offsets from the centre.


def square(pixels, apart=1):
    return window(range(-(pixels // 2) * apart, pixels // 2 * apart + 1, apart))


def window(rows, columns=None):
    return {(row, column) for row in rows for column in (rows if columns is None else columns)}


# Receptive fields at stride 1 and at stride 2. Those of two convolutions add up. At stride 2, neighbouring positions of the
# second convolution are two pixels apart.
FOOTPRINTS = {
    "none": (set(), set()),
    "skip": ({(0, 0)}, {(0, 0), (1, 1)}),
    "avgpool3x3": (square(3),) * 2,
    "maxpool3x3": (square(3),) * 2,
    "maxpool5x5": (square(5),) * 2,
    "maxpool7x7": (square(7),) * 2,
    "blurpool3x3": (square(3),) * 2,
    "depthwise3x3": (square(3),) * 2,
    "depthwise5x5": (square(5),) * 2,
    "conv1x1": ({(0, 0)},) * 2,
    "groupconv3x3": (square(3),) * 2,
    "groupconv5x5": (square(5),) * 2,
    "dilconv3x3": (square(3, apart=2),) * 2,
    "dilconv5x5": (square(5, apart=2),) * 2,
    "sepconv3x3": (square(5), square(7)),
    "sepconv5x5": (square(9), square(13)),
    "sepconv7x7": (square(13), square(19)),
    "conv1x3_3x1": (square(3),) * 2,
    "conv1x7_7x1": (square(7),) * 2,
    "conv3x3": (square(3),) * 2,
    "conv5x5": (square(5),) * 2,
    "conv7x7": (square(7),) * 2,
}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_pixels_on_which_an_output_depends(name, stride):
    """Finds the pixels whose change affects an output pixel. At stride 2, output (i, j) is centred on input (2i, 2j)."""
    side, centre = 23, 10
    x = torch.rand(1, 8, side, side)
    changed = x.repeat(side * side, 1, 1, 1)
    pixels = [(row, column) for row in range(side) for column in range(side)]
    for image, (row, column) in zip(changed, pixels, strict=True):
        image[:, row, column] += 30
    module, at = made(name, 8, stride), centre // stride
    difference = (module(changed) - module(x))[:, :, at, at].abs().amax(1)
    seen = {(i - centre, j - centre) for (i, j), d in zip(pixels, difference.tolist(), strict=True) if d > 1e-4}
    # The gate of squeeze and excitation depends on all pixels through their mean.
    assert seen == (FOOTPRINTS[name][stride - 1] if name != "se" else window(range(-centre, side - centre)))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_channels_on_which_an_output_depends(name, stride):
    channels = 24
    alone = ("avgpool3x3", "maxpool3x3", "maxpool5x5", "maxpool7x7", "blurpool3x3", "depthwise3x3", "depthwise5x5")
    own = {(i, i) for i in range(channels)}
    groups = {(i, j) for i in range(channels) for j in range(channels) if i // 3 == j // 3}
    every = {(i, j) for i in range(channels) for j in range(channels)}
    wanted = own if name in alone else groups if "group" in name else every
    if name in ("none", "skip") and stride == 1:
        wanted = {"none": set(), "skip": own}[name]
    if name == "none":
        wanted = set()
    x = torch.rand(1, channels, 9, 9)
    changed = x.repeat(channels, 1, 1, 1)
    for channel, image in enumerate(changed):
        image[channel] += 30
    module = made(name, channels, stride)
    if name == "se":
        for layer in (module if stride == 1 else module[0]).gate:
            if isinstance(layer, nn.Conv2d):  # These values avoid dead ReLUs and saturated gates.
                layer.weight.abs_().mul_(0.02)
                layer.bias.fill_(0.1)
    difference = (module(changed) - module(x)).abs().amax((2, 3))
    assert {(i, j) for i in range(channels) for j in range(channels) if difference[i, j] > 1e-5} == wanted


def by_hand(name, c):
    """Returns the number of parameters of an operation with c channels: weights, and two per channel for batch norm."""
    norm = 2 * c
    kernel = int(name[-1]) if name[-1].isdigit() else 0
    if name == "se":
        inner = max(1, c // 4)
        return c * inner + inner + inner * c + c
    if "_" in name:
        return 2 * kernel_of(name) * c * c + norm
    if name.startswith("depthwise"):
        return kernel**2 * c + norm
    if name.startswith("groupconv"):
        groups = max(g for g in (1, 2, 4, 8) if c % g == 0)
        return kernel**2 * c * (c // groups) + norm
    if name.startswith("dilconv"):
        return kernel**2 * c + c * c + norm
    if name.startswith("sepconv"):
        return 2 * (kernel**2 * c + c * c + norm)
    return kernel**2 * c * c + norm


def kernel_of(name):
    return int(name.removeprefix("conv1x")[0])


@pytest.mark.parametrize("channels", [1, 3, 4, 6, 12, 16])
@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - WEIGHTLESS))
def test_parameters_are_those_counted_by_hand(name, channels):
    for stride in (1, 2):
        assert sum(p.numel() for p in OPERATIONS[name](channels, stride).parameters()) == by_hand(name, channels)


def test_parameters_of_darts_operations_with_16_channels():
    counts = {name: sum(p.numel() for p in OPERATIONS[name](16, 1).parameters()) for name in OPERATIONS}
    assert {name: counts[name] for name in ("dilconv3x3", "dilconv5x5", "sepconv3x3", "sepconv5x5")} == {
        "dilconv3x3": 16 * 9 + 16 * 16 + 32,
        "dilconv5x5": 16 * 25 + 16 * 16 + 32,
        "sepconv3x3": 2 * (16 * 9 + 16 * 16 + 32),
        "sepconv5x5": 2 * (16 * 25 + 16 * 16 + 32),
    }
    assert sum(p.numel() for p in OPERATIONS["skip"](16, 2).parameters()) == 16 * 16 + 32


# Properties of the sets of operations.


@pytest.mark.parametrize("name", sorted(WEIGHTLESS))
def test_operations_without_weights_have_none_and_always_compute_the_same(name):
    x = torch.randn(2, 4, 7, 6)
    for stride in (1,) if name == "skip" else (1, 2):
        assert not list(OPERATIONS[name](4, stride).parameters())
        assert torch.equal(OPERATIONS[name](4, stride)(x), OPERATIONS[name](4, stride)(x))


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - WEIGHTLESS))
def test_all_other_operations_have_weights(name):
    for stride in (1, 2):
        assert list(OPERATIONS[name](4, stride).parameters())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_linear_operations_are_linear_and_others_are_not(name, stride):
    module, a, b = made(name, 4, stride), torch.randn(3, 4, 7, 6), torch.randn(3, 4, 7, 6)
    linear = torch.allclose(module(2 * a + b), 2 * module(a) + module(b), atol=1e-5)
    # `none` and a skip at stride 1 are linear, too. They are not in LINEAR, because a skip equals its input and `none` adds
    # nothing to a sum.
    assert linear == (name in LINEAR or name == "none" or (name == "skip" and stride == 1))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_only_vanishing_operations_map_zeros_to_zeros(name, stride):
    made_of_nothing = made(name, 4, stride)(torch.zeros(2, 4, 6, 5))
    vanishes = name in VANISHING or (name == "skip" and stride == 1)
    assert bool((made_of_nothing == 0).all()) == vanishes
    if not vanishes and ("conv" in name or "depthwise" in name) and "sepconv" not in name:
        # The output is the learned shift of batch norm, equal at all pixels. In a sepconv, the second convolution pads it
        # with zeros, so pixels at the border differ.
        assert torch.equal(made_of_nothing, made_of_nothing[:1, :, :1, :1].expand_as(made_of_nothing))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_pointwise_operations_keep_constant_images_constant(name, stride):
    x = torch.randn(2, 4, 1, 1).abs().expand(2, 4, 9, 8).contiguous()
    output = made(name, 4, stride)(x)
    constant = torch.allclose(output, output[:, :, :1, :1].expand_as(output), atol=1e-6)
    if name in ("none", "skip"):
        assert constant == (name == "none" or stride == 1)
        return
    assert constant == (name in POINTWISE)
    if name in POINTWISE & WEIGHTLESS:
        assert torch.allclose(output, x[:, :, ::stride, ::stride], atol=1e-6)


# Closed forms.


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("name", "kernel"), [("avgpool3x3", 3), ("maxpool3x3", 3), ("maxpool5x5", 5), ("maxpool7x7", 7)])
def test_pooling_is_over_the_pixels_of_the_window_that_lie_in_the_image(name, kernel, stride):
    x, half = torch.randn(2, 3, 6, 9), kernel // 2
    pooled = OPERATIONS[name](3, stride)(x)
    for row in range(pooled.shape[2]):
        for column in range(pooled.shape[3]):
            i, j = stride * row, stride * column
            seen = x[:, :, max(i - half, 0) : i + half + 1, max(j - half, 0) : j + half + 1]
            wanted = seen.mean((2, 3)) if name.startswith("avg") else seen.amax((2, 3))
            assert torch.allclose(pooled[:, :, row, column], wanted, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_none_returns_zeros_and_skip_returns_its_input(stride):
    x = torch.randn(2, 3, 5, 4)
    assert torch.equal(OPERATIONS["none"](3, stride)(x), torch.zeros(2, 3, math.ceil(5 / stride), math.ceil(4 / stride)))
    assert torch.equal(OPERATIONS["skip"](3, 1)(x), x)
    # The output is zero even if the input is nan.
    assert torch.equal(OPERATIONS["none"](3, stride)(x / 0), OPERATIONS["none"](3, stride)(x))


def test_blur_is_binomial_and_keeps_constants_and_removes_a_checkerboard():
    blur = BlurPool(2, 1)
    impulse = torch.zeros(1, 2, 5, 5)
    impulse[0, 1, 2, 2] = 16
    assert blur(impulse)[0, 1, 1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    assert not blur(impulse)[0, 0].any()
    x = torch.randn(3, 2, 1, 1).expand(3, 2, 6, 5)
    for stride in (1, 2):
        assert torch.allclose(BlurPool(2, stride)(x), x[:, :, ::stride, ::stride])
    board = 1.0 - 2 * ((torch.arange(8)[:, None] + torch.arange(8)) % 2)
    assert blur(board.expand(1, 2, 8, 8))[:, :, 1:-1, 1:-1].abs().max() < 1e-6
    assert torch.equal(BlurPool(2, 2)(impulse), blur(impulse)[:, :, ::2, ::2])
    assert not list(blur.state_dict())


@pytest.mark.parametrize(("in_channels", "out_channels"), [(4, 6), (6, 5), (3, 2)])
@pytest.mark.parametrize("sides", [(6, 8), (5, 7), (1, 1)])
def test_factorised_reduction_is_of_even_and_of_odd_pixels(in_channels, out_channels, sides):
    reduce, x = FactorisedReduce(in_channels, out_channels).eval(), torch.randn(2, in_channels, *sides)
    half, rectified = out_channels // 2, x.clamp(min=0)
    reduced = reduce(x) * math.sqrt(1 + 1e-5)
    for row in range(math.ceil(sides[0] / 2)):
        for column in range(math.ceil(sides[1] / 2)):
            even = rectified[:, :, 2 * row, 2 * column] @ reduce.even.weight[:, :, 0, 0].T
            assert torch.allclose(reduced[:, :half, row, column], even, atol=1e-5)
            odd = torch.zeros(2, out_channels - half)
            if 2 * row + 1 < sides[0] and 2 * column + 1 < sides[1]:
                odd = rectified[:, :, 2 * row + 1, 2 * column + 1] @ reduce.odd.weight[:, :, 0, 0].T
            assert torch.allclose(reduced[:, half:, row, column], odd, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 8])
def test_squeeze_and_excitation_is_a_gate_on_each_channel(channels):
    module, x = SqueezeExcitation(channels), torch.randn(5, channels, 4, 3)
    squeeze, excite = module.gate[1], module.gate[3]
    assert squeeze.out_channels == max(1, channels // 4)
    hidden = (x.mean((2, 3)) @ squeeze.weight[:, :, 0, 0].T + squeeze.bias).clamp(min=0)
    gate = 1 / (1 + (-(hidden @ excite.weight[:, :, 0, 0].T + excite.bias)).exp())
    assert torch.allclose(module(x), x * gate[:, :, None, None], atol=1e-6)
    halved = OPERATIONS["se"](channels, 2)
    halved[0].load_state_dict(module.state_dict())
    wanted = module(x).unflatten(2, (2, 2)).mean(3)[..., :2].mean(3)
    assert torch.allclose(halved(x)[:, :, :, 0], wanted, atol=1e-6)
    assert torch.allclose(halved(x)[:, :, :, 1], module(x).unflatten(2, (2, 2)).mean(3)[..., 2], atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_separable_convolutions_are_what_their_paper_says(stride):
    """The oracle applies ReLU, depthwise, pointwise and batch norm, twice, pixel by pixel."""
    module, x = made("sepconv3x3", 3, stride), torch.randn(1, 3, 5, 6)
    tensors = list(module.state_dict().values())
    output = x
    for depthwise, pointwise, scale, shift, mean, var, step in (
        (*tensors[:6], stride),
        (*tensors[7:13], 1),
    ):
        padded = torch.zeros(1, 3, output.shape[2] + 2, output.shape[3] + 2)
        padded[:, :, 1:-1, 1:-1] = output.clamp(min=0)
        out = torch.zeros(1, 3, math.ceil(output.shape[2] / step), math.ceil(output.shape[3] / step))
        for row in range(out.shape[2]):
            for column in range(out.shape[3]):
                seen = padded[0, :, step * row : step * row + 3, step * column : step * column + 3]
                mixed = pointwise[:, :, 0, 0] @ (seen * depthwise[:, 0]).sum((1, 2))
                out[0, :, row, column] = (mixed - mean) / (var + 1e-5).sqrt() * scale + shift
        output = out
    assert torch.allclose(module(x), output, rtol=1e-4, atol=1e-5)


def test_groups_are_the_largest_of_8_4_2_and_1_that_divides_the_channels():
    for channels, groups in ((8, 8), (16, 8), (12, 4), (6, 2), (9, 1), (1, 1)):
        (conv,) = (m for m in OPERATIONS["groupconv3x3"](channels, 1) if isinstance(m, nn.Conv2d))
        assert conv.groups == groups


@pytest.mark.parametrize("name", [n for n in OPERATIONS if "conv" in n or "depthwise" in n])
def test_order_is_rectifier_convolutions_batch_norm(name):
    kinds = [type(layer).__name__ for layer in OPERATIONS[name](8, 1)]
    once = ["ReLU", "Conv2d", "BatchNorm2d"]
    twice = ["ReLU", "Conv2d", "Conv2d", "BatchNorm2d"]
    assert kinds == (2 * twice if name.startswith("sep") else twice if name.startswith("dil") or "_" in name else once)
    assert all(layer.bias is None for layer in OPERATIONS[name](8, 1) if isinstance(layer, nn.Conv2d))
