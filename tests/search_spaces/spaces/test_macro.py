"""macro: parameter counts by formula, and networks against torchvision and the formulas of the papers."""

import itertools
import random

import matplotlib.text
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import mobilenetv2, resnet

from search_spaces.spaces.blocks import ACTIVATIONS, ResidualBlock, Style, group_norm
from search_spaces.spaces.macro import DEPTHS, PLAIN_AXES, RESNET18, WIDTHS, WRN_28_10, macro, plain_architectures

STEMS = ["conv3x3", "conv7x7", "conv3x3_stride2", "patch2"]
STYLES = [
    dict(zip(("block", "order", "activation", "normalisation", "squeeze_excitation"), values, strict=True))
    for values in itertools.product(
        ("basic", "bottleneck", "inverted"),
        ("post_activation", "pre_activation"),
        ("relu", "softplus"),
        ("batch", "group", "none"),
        (False, True),
    )
]


@pytest.fixture(autouse=True)
def repeatable():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def architecture(depths, widths, **style):
    stages = range(1, len(depths) + 1)
    return {
        **{f"depth{s}": depths[s - 1] for s in stages},
        **{f"width{s}": widths[s - 1] for s in stages},
        **PLAIN_AXES,
        **style,
    }


def network(depths, widths, shape=(3, 8, 8), classes=5, **style):
    candidate = architecture(depths, widths, **style)
    assert macro(len(depths)).validate(candidate) == candidate
    return macro(len(depths)).build(candidate, shape, classes)


def carry(source, target):
    """Copies the weights of `source` to `target`. Both have tensors of the same shapes in the same order."""
    ours, theirs = target.state_dict(), source.state_dict()
    target.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))


def randomise(module):
    """Sets scales, shifts and running statistics, which start as ones and zeros, to random values."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and (tensor.dim() == 1):
                tensor.uniform_(0.5, 1.5) if "var" in name else tensor.add_(0.3 * torch.randn_like(tensor))
    return module


# Parameter counts by formula.


def parameters(a, channels, classes, stages):
    """Parameter count by formula. A normalisation adds two numbers per channel. Without one, a convolution has a bias."""
    norm, bias = (0, 1) if a["normalisation"] == "none" else (2, 0)
    pre, area = a["order"] == "pre_activation", a["kernel"] ** 2
    width = a["width1"] if a["stem_width"] == "width1" else a["stem_width"]
    patch = {"conv3x3": 9, "conv7x7": 49, "conv3x3_stride2": 9, "patch2": 4}[a["stem"]]
    total = (channels * patch + bias + (0 if pre else norm)) * width
    for stage in range(1, stages + 1):
        out = a[f"width{stage}"]
        for block in range(a[f"depth{stage}"]):
            if a["block"] == "basic":
                total += (width * area + bias) * out + (out * area + bias) * out + norm * out
            else:
                inside = 6 * width if a["block"] == "inverted" else max(4, out // 4)
                fan_in = 1 if a["block"] == "inverted" else inside
                total += (
                    (width + bias) * inside + (fan_in * area + bias) * inside + (inside + bias) * out + 2 * norm * inside
                )
            total += norm * (width if pre else out)
            if a["squeeze_excitation"]:
                squeezed = max(8, out // 4)
                total += out * squeezed + squeezed + squeezed * out + out
            if (stage > 1 and block == 0) or width != out:
                total += width * out + (0 if pre else norm * out)
            width = out
    return total + (norm * width if pre else 0) + width * classes + classes


def counted(stages, a, shape=(3, 32, 32), classes=10):
    with torch.device("meta"):
        return sum(p.numel() for p in macro(stages).build(a, shape, classes).parameters())


@pytest.mark.parametrize(
    ("stages", "size"), [(1, 559_872), (2, 60_466_176), (3, 6_530_347_008), (4, 705_277_476_864)]
)  # fmt: skip
def test_size(stages, size):
    assert macro(stages).size == size == (4 * 27) ** stages * 4 * 3 * 3 * 3 * 2 * 4 * 3 * 2
    assert (len(DEPTHS), len(WIDTHS)) == (4, 27)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_parameters_are_those_counted_by_hand(stages):
    generator = random.Random(stages)
    for _ in range(60):
        a = macro(stages).sample(generator)
        assert counted(stages, a) == parameters(a, 3, 10, stages), a


def test_resnet18_has_its_parameters():
    # Each stage has two blocks of two 3x3 convolutions. From the second stage on, the first convolution has half as many
    # input channels, and its block has a projection shortcut.
    convs = 27 * 64 + 9 * (4 * 64 * 64)
    norms = 2 * 64 * 5
    for width in (128, 256, 512):
        convs += 9 * (width // 2 * width + 3 * width * width) + width // 2 * width
        norms += 2 * width * 5
    assert convs + norms + 512 * 10 + 10 == 11_173_962
    assert macro(4).validate(RESNET18) == macro(4).canonical(RESNET18) == RESNET18
    assert counted(4, RESNET18) == 11_173_962


def test_wide_resnet_28_10_has_its_parameters():
    # Each stage has four blocks. A normalisation precedes each convolution, except the first one and the shortcuts. Another
    # normalisation is at the end.
    total, width = 27 * 16, 16
    for out in (160, 320, 640):
        total += 9 * (width * out + 7 * out * out) + width * out
        total += 2 * (width + 7 * out)
        width = out
    assert total + 2 * 640 + 640 * 10 + 10 == 36_479_194
    assert macro(3).validate(WRN_28_10) == macro(3).canonical(WRN_28_10) == WRN_28_10
    assert counted(3, WRN_28_10) == 36_479_194


# Comparisons with other implementations.


def test_resnet18_is_that_of_torchvision_with_the_stem_for_small_images():
    theirs = resnet.resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    randomise(theirs).eval()
    ours = macro(4).build(RESNET18, (3, 32, 32), 10).eval()
    carry(theirs, ours)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_a_wide_resnet_is_what_its_paper_says():
    """Zagoruyko and Komodakis, and He et al. 2016: normalisation and ReLU precede every convolution after the stem."""
    ours = network([2, 2], [20, 40], stem_width=16, order="pre_activation").eval()
    tensors = iter(randomise(ours).state_dict().items())

    def take(*names):
        taken = list(itertools.islice(tensors, len(names)))
        assert all(key.endswith(name) for (key, _), name in zip(taken, names, strict=True))
        return [tensor for _, tensor in taken]

    def activated(x):
        scale, shift, mean, var, _ = take("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        return F.relu(F.batch_norm(x, mean, var, scale, shift))

    def conv(x, stride=1):
        (weight,) = take("weight")
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    with torch.no_grad():
        images = torch.rand(2, 3, 9, 8)
        x = conv(images)
        for stride, projects in ((1, True), (1, False), (2, True), (1, False)):
            a = activated(x)
            branch = conv(activated(conv(a, stride)))
            x = branch + (conv(a, stride) if projects else x)
        means = activated(x).mean((2, 3))
        assert torch.allclose(ours(images), F.linear(means, *take("weight", "bias")), rtol=1e-4, atol=1e-5)
    assert not list(tensors)


STYLE = {
    "block": "basic",
    "kernel": 3,
    "order": "post_activation",
    "activation": "relu",
    "normalisation": "batch",
    "squeeze_excitation": False,
}


@pytest.mark.parametrize("stride", [1, 2])
def test_a_bottleneck_is_that_of_torchvision(stride):
    shrink = nn.Sequential(nn.Conv2d(64, 64, 1, stride, bias=False), nn.BatchNorm2d(64)) if stride == 2 else None
    theirs = randomise(resnet.Bottleneck(64, 16, stride, shrink)).eval()
    ours = ResidualBlock(64, 64, stride, Style(**STYLE | {"block": "bottleneck"})).eval()
    carry(theirs, ours)
    x = torch.randn(2, 64, 7, 8)
    assert torch.allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_an_inverted_block_is_that_of_torchvision():
    theirs = randomise(mobilenetv2.InvertedResidual(8, 8, 1, expand_ratio=6)).eval()
    for part in (theirs.conv[0], theirs.conv[1]):
        part[2] = nn.ReLU()  # torchvision uses ReLU6.
    ours = ResidualBlock(8, 8, 1, Style(**STYLE | {"block": "inverted"})).eval()
    carry(theirs, ours)
    x = torch.randn(2, 8, 7, 8)
    assert torch.allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    assert (ours(x) < 0).any()


def test_plain_networks_are_those_of_the_first_stored_results():
    """Compares the networks with their definition at the time of the first stored results."""

    class Block(nn.Module):
        def __init__(self, inside, out, stride):
            super().__init__()
            self.branch = nn.Sequential(
                nn.Conv2d(inside, out, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
                nn.Conv2d(out, out, 3, padding=1, bias=False),
                nn.BatchNorm2d(out),
            )
            self.shortcut = nn.Identity()
            if stride != 1 or inside != out:
                self.shortcut = nn.Sequential(nn.Conv2d(inside, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))

        def forward(self, x):
            return F.relu(self.branch(x) + self.shortcut(x))

    for depths, widths in (([1, 1, 1], [16, 32, 64]), ([2, 1, 3], [4, 5, 8]), ([2], [6])):
        torch.manual_seed(3)
        layers, width = [nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()], widths[0]
        for stage, (depth, out) in enumerate(zip(depths, widths, strict=True)):
            for block in range(depth):
                layers.append(Block(width, out, 2 if stage > 0 and block == 0 else 1))
                width = out
        before = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
        torch.manual_seed(3)
        now = network(depths, widths, (3, 12, 12), 10)
        assert list(now.state_dict()) == list(before.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(now.state_dict().values(), before.state_dict().values(), strict=True))
        x = torch.rand(4, 3, 12, 12)
        assert torch.equal(now(x), before(x))


# The axes, one by one.


@pytest.mark.parametrize(
    ("stem", "sides"), [("conv3x3", (17, 12)), ("conv7x7", (17, 12)), ("conv3x3_stride2", (9, 6)), ("patch2", (9, 6))]
)
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("block", ["basic", "bottleneck", "inverted"])
def test_stems_and_stages_halve_the_resolution_and_round_up(stem, sides, kernel, block):
    built, shapes = network([2, 1, 1], [4, 4, 8], (1, 17, 12), stem=stem, kernel=kernel, block=block), []
    for layer in built:
        if isinstance(layer, ResidualBlock):
            layer.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    built(torch.rand(2, 1, 17, 12))
    (h, w), half = sides, lambda side: -(-side // 2)
    assert shapes == [(4, h, w)] * 2 + [(4, half(h), half(w)), (8, half(half(h)), half(half(w)))]


@pytest.mark.parametrize("sides", [(8, 6), (7, 5)])
def test_patches_of_two_by_two_pixels_do_not_overlap(sides):
    stem = network([1], [4], (3, *sides), stem="patch2", normalisation="none")[:2]
    x = torch.rand(2, 3, *sides)
    padded = F.pad(x, (0, sides[1] % 2, 0, sides[0] % 2))
    patches = F.unfold(padded, 2, stride=2)
    expected = stem[1].weight.flatten(1) @ patches + stem[1].bias[:, None]
    assert torch.allclose(stem(x).flatten(2), expected, atol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("order", ["post_activation", "pre_activation"])
def test_all_activations_of_a_network_are_of_one_kind(name, order):
    built = network([1, 1], [4, 8], activation=name, order=order, squeeze_excitation=True)
    kind = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "softplus": nn.Softplus}[name]
    activations = [m for m in built.modules() if type(m) in (nn.ReLU, nn.SiLU, nn.GELU, nn.Softplus)]
    # There is one activation after the stem or at the end. Each block has two, and its gate one.
    assert len(activations) == 1 + 2 * 3
    assert all(type(m) is kind for m in activations)


def test_a_block_adds_its_input_and_activates():
    x = torch.randn(2, 4, 8, 8)
    for style, zero in itertools.product(STYLES, (False, True)):
        block = ResidualBlock(4, 4, 1, Style(**style, kernel=5)).eval()
        with torch.no_grad():
            if zero:
                for name in ("weight", "bias"):
                    for layer in block.branch:
                        if getattr(layer, name, None) is not None:
                            getattr(layer, name).zero_()
            act, linear = ACTIVATIONS[style["activation"]](), style["block"] == "inverted"
            if style["order"] == "pre_activation":
                normalised = x if style["normalisation"] == "none" else block.before[0](x)
                expected = x + block.branch(act(normalised))
            else:
                expected = x + block.branch(x) if linear else act(x + block.branch(x))
            assert torch.allclose(block(x), expected)
            if zero:
                kept = style["order"] == "pre_activation" or linear
                assert torch.equal(block(x), x if kept else act(x))


def test_the_gate_is_on_the_branch_alone():
    block = ResidualBlock(8, 8, 1, Style(**STYLE | {"squeeze_excitation": True, "order": "pre_activation"})).eval()
    gate, x = block.branch[-1], torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        squeeze, excite = gate.gate[1], gate.gate[3]
        inner = block.branch[:-1](block.before(x))
        means = inner.mean((2, 3))
        hidden = (means @ squeeze.weight[:, :, 0, 0].T + squeeze.bias).clamp(min=0)
        gates = torch.sigmoid(hidden @ excite.weight[:, :, 0, 0].T + excite.bias)
        assert torch.allclose(block(x), x + gates[:, :, None, None] * inner, atol=1e-6)


@pytest.mark.parametrize("width", [*WIDTHS, *(6 * w for w in WIDTHS), *(max(4, w // 4) for w in WIDTHS)])
def test_groups_are_the_most_that_fit(width):
    fitting = [g for g in range(1, 33) if width % g == 0 and width / g >= 4]
    assert group_norm(width).num_groups == max(fitting)


def test_convolutions_have_a_bias_only_without_normalisation():
    for normalisation in ("batch", "group", "none"):
        for order in ("post_activation", "pre_activation"):
            built = network([1, 1], [4, 8], normalisation=normalisation, order=order)
            convs = {n: m for n, m in built.named_modules() if isinstance(m, nn.Conv2d)}
            assert {m.bias is not None for n, m in convs.items() if "shortcut" not in n} == {normalisation == "none"}
            assert {m.bias is not None for n, m in convs.items() if "shortcut" in n} == {False}


# All combinations.


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 3)])
@pytest.mark.parametrize("stem", STEMS)
def test_gradients_reach_every_parameter_and_pixel(shape, stem):
    for style in STYLES:
        dead, x = set(), torch.rand(16, *shape, requires_grad=True)
        # The ReLUs of a gate can be dead by chance, but not in all three networks.
        for attempt in range(3):
            built = network([1, 2], [8, 12], shape, stem=stem, stem_width=16, **style).train()
            built(x).square().sum().backward()
            assert (x.grad != 0).any(), style
            still = {name for name, p in built.named_parameters() if p.grad is None or not (p.grad != 0).any()}
            dead = dead & still if attempt else still
            if not dead:
                break
        assert not dead, style


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 3)])
@pytest.mark.parametrize("stem", STEMS)
def test_logits_of_an_image_do_not_depend_on_the_others(shape, stem):
    x = torch.rand(5, *shape)
    for style in STYLES:
        built = randomise(network([1, 1], [4, 8], shape, stem=stem, kernel=7, **style)).eval()
        with torch.no_grad():
            whole, alone = built(x), torch.cat([built(image[None]) for image in x])
        assert torch.isfinite(whole).all()
        assert torch.allclose(whole, alone, rtol=1e-4, atol=1e-5), style


# The canonical form.


def merges(first, other):
    space = macro(sum(name.startswith("depth") for name in first))
    return space.key(first) == space.key(other)


@pytest.mark.parametrize("width", [16, 64])
def test_a_stem_of_the_first_width_is_one_however_it_is_written(width):
    as_number, as_name = (architecture([1, 1], [width, 8], stem_width=w) for w in (width, "width1"))
    assert macro(2).canonical(as_number) == as_name
    torch.manual_seed(1)
    first = macro(2).build(as_number, (1, 8, 8), 5).eval()
    torch.manual_seed(1)
    second, x = macro(2).build(as_name, (1, 8, 8), 5).eval(), torch.rand(2, 1, 8, 8)
    assert torch.equal(first(x), second(x))


def test_stems_of_other_widths_are_not_merged():
    keys = {macro(1).key(architecture([1], [w], stem_width=s)) for w in (4, 16, 64) for s in ("width1", 16, 64)}
    assert len(keys) == 3 * 3 - 2


def test_orders_are_merged_where_and_only_where_they_compute_the_same():
    """Without normalisation, both orders have weights of the same shapes, so they can be compared with equal weights."""
    seen, x = set(), torch.randn(3, 2, 9, 8)
    for depths, widths, stem_width, block, activation, gated in itertools.product(
        [(1,), (2,), (1, 1), (1, 2), (2, 1)],
        [(16, 16), (8, 8), (8, 12)],
        ["width1", 16],
        ["basic", "bottleneck", "inverted"],
        ["relu", "gelu"],
        [False, True],
    ):
        style = {
            "stem_width": stem_width,
            "block": block,
            "activation": activation,
            "squeeze_excitation": gated,
            "normalisation": "none",
        }
        post, pre = (
            architecture(depths, widths[: len(depths)], **style, order=order)
            for order in ("post_activation", "pre_activation")
        )
        networks = [macro(len(depths)).build(a, (2, 9, 8), 5).double().eval() for a in (post, pre)]
        with torch.no_grad():
            for p in networks[0].parameters():
                p.mul_(3)  # With larger weights, units are active on some images and inactive on others.
            carry(*networks)
            equal = torch.allclose(networks[0](x.double()), networks[1](x.double()), rtol=0, atol=1e-9)
        assert merges(post, pre) == equal, post
        seen.add(equal)
        # The two orders have normalisations at different positions.
        for normalisation in ("batch", "group"):
            assert not merges(post | {"normalisation": normalisation}, pre | {"normalisation": normalisation})
    assert seen == {False, True}


def test_nothing_else_is_merged():
    """At depth 2, every choice changes the function, including the order."""
    base = architecture([2, 2], [8, 12])
    for name, choice in macro(2).choices.items():
        forms = {macro(2).key(base | {name: value}) for value in choice.values}
        assert len(forms) == len(choice.values), name


# The rest.


@pytest.mark.parametrize("stages", [0, 5, -1])
def test_other_numbers_of_stages_are_refused(stages):
    with pytest.raises(ValueError, match=f"^stages must be 1, 2, 3 or 4, got {stages}$"):
        macro(stages)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_plain_networks_have_one_depth_and_doubling_widths(stages):
    space, plain = macro(stages), plain_architectures(stages)
    assert len({space.key(a) for a in plain}) == len(plain)
    for a in plain:
        assert space.validate(a) == space.canonical(a) == a
        assert list(a) == list(space.choices)
        assert len({a[f"depth{s + 1}"] for s in range(stages)}) == 1
        assert all(a[f"width{s + 1}"] == a["width1"] * 2**s for s in range(stages))
        assert {name: a[name] for name in PLAIN_AXES} == PLAIN_AXES
    # Every plain network of the space is there.
    first = [width for width in WIDTHS if all(width * 2**s in WIDTHS for s in range(stages))]
    assert sorted((a["depth1"], a["width1"]) for a in plain) == list(itertools.product(DEPTHS, first))
    assert architecture([1] * stages, [4 * 2**s for s in range(stages)]) in plain
    assert (RESNET18 in plain) == (stages == 4)


def texts(figure):
    return [text.get_text().replace("\n", " ") for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def test_drawing_has_stem_stages_and_style():
    assert texts(macro(4).draw(RESNET18)) == [
        *("conv3x3, 64", "2 basic3x3, 64", "2 basic3x3, 128", "2 basic3x3, 256", "2 basic3x3, 512"),
        "all: post, relu, batch",
    ]
    assert texts(macro(3).draw(WRN_28_10)) == [
        *("conv3x3, 16", "4 basic3x3, 160", "4 basic3x3, 320", "4 basic3x3, 640"),
        "all: pre, relu, batch",
    ]
    other = {"block": "inverted", "kernel": 7, "normalisation": "none", "squeeze_excitation": True, "stem": "patch2"}
    assert texts(macro(1).draw(architecture([1], [8], **other))) == ["patch2, 8", "1 inverted7x7, 8", "all: post, relu, se"]


def test_architectures_of_other_functions_have_other_drawings():
    generator, drawn = random.Random(0), {}
    for _ in range(60):
        a = macro(2).sample(generator)
        assert drawn.setdefault(tuple(texts(macro(2).draw(a))), macro(2).key(a)) == macro(2).key(a)
