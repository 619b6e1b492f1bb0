"""macro: residual networks that vary in depth, width, block and other properties of hand-designed networks.

A network has one to four stages of residual blocks. Depth and width vary by stage, and all other choices apply to the whole
network. There are (4 * 27)**stages * 4 * 3 * 3 * 3 * 2 * 4 * 3 * 2 architectures: 559,872 with one stage, 6.53e9 with three,
and 7.05e11 with four. The first value of each choice in `AXES` is that of a plain ResNet for small images. ResNet-18 and
WRN-28-10 are architectures of this space and have as many parameters as in their papers.

Sources: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385; Zagoruyko and Komodakis,
"Wide Residual Networks", BMVC 2016, arXiv:1605.07146; Sandler et al., "MobileNetV2", CVPR 2018, arXiv:1801.04381; Hu et al.,
"Squeeze-and-Excitation Networks", CVPR 2018, arXiv:1709.01507. Effects of such choices on robustness: Xie et al., "Smooth
Adversarial Training", arXiv:2006.14536; Peng et al., "Robust Principles", BMVC 2023, arXiv:2308.16258.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from search_spaces.drawing.figures import draw_chain
from search_spaces.space import Architecture, Choice, SearchSpace, Value
from search_spaces.spaces.blocks import ACTIVATIONS, BLOCKS, NORMALISATIONS, ResidualBlock, Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGES = (1, 2, 3, 4)
DEPTHS = (1, 2, 3, 4)
WIDTHS = (
    *(4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256),
    *(320, 512, 640),
)  # fmt: skip
# Choices that apply to all stages. The stem has a fixed width or, with width1, the width of the first stage.
AXES = {
    "stem": Choice("conv3x3", "conv7x7", "conv3x3_stride2", "patch2"),
    "stem_width": Choice("width1", 16, 64),
    "block": Choice(*BLOCKS),
    "kernel": Choice(3, 5, 7),
    "order": Choice("post_activation", "pre_activation"),
    "activation": Choice(*ACTIVATIONS),
    "normalisation": Choice(*NORMALISATIONS),
    "squeeze_excitation": Choice(False, True),
}
PLAIN_AXES: dict[str, Value] = {name: axis.values[0] for name, axis in AXES.items()}
CHOICES = {
    **{f"depth{stage}": Choice(*DEPTHS) for stage in STAGES},
    **{f"width{stage}": Choice(*WIDTHS) for stage in STAGES},
    **AXES,
}


def macro(stages: int = 3) -> SearchSpace:
    """Returns the search space of residual networks.

    Args:
        stages: Number of stages, 1 to 4. Each later stage halves the resolution, rounded up.

    Raises:
        ValueError: stages is not 1, 2, 3 or 4.
    """
    if stages not in STAGES:
        raise ValueError(f"stages must be 1, 2, 3 or 4, got {stages}")
    choices = {name: choice for name, choice in CHOICES.items() if name in AXES or int(name[-1]) <= stages}

    def build(architecture: Architecture, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        style, width = _style(architecture), _stem_width(architecture)
        layers = _stem(str(architecture["stem"]), input_shape[0], width, style)
        if not style.preactivates:
            layers += [style.norm(width), style.act()]
        for stage in STAGES[:stages]:
            for block in range(_int_value(architecture, f"depth{stage}")):
                stride = 2 if stage > 1 and block == 0 else 1
                layers.append(ResidualBlock(width, _int_value(architecture, f"width{stage}"), stride, style))
                width = _int_value(architecture, f"width{stage}")
        if style.preactivates:
            layers += [style.norm(width), style.act()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))

    def canonical(architecture: Architecture) -> dict[str, Value]:
        form = {name: architecture[name] for name in choices}
        width1 = form["width1"]
        if form["stem_width"] == width1:
            form["stem_width"] = "width1"
        # If every block has a projection shortcut and there is no normalisation, an activation after a block is equivalent
        # to an activation before the next block. Inverted blocks are excluded, because they do not activate their sum.
        projects = form["stem_width"] != "width1" and all(form[f"depth{stage}"] == 1 for stage in STAGES[:stages])
        if projects and form["normalisation"] == "none" and form["block"] != "inverted":
            form["order"] = "post_activation"
        return form

    def draw(architecture: Architecture) -> Figure:
        block = f"{architecture['block']}{architecture['kernel']}x{architecture['kernel']}"
        boxes = [f"{architecture['stem']}, {_stem_width(architecture)}"]
        boxes += [f"{architecture[f'depth{s}']} {block}, {architecture[f'width{s}']}" for s in STAGES[:stages]]
        return draw_chain([*boxes, _style_label(architecture)])

    return SearchSpace(name="macro", choices=choices, build=build, canonical=canonical, draw=draw)


def _stem(kind: str, in_channels: int, width: int, style: Style) -> list[nn.Module]:
    """Returns the stem: (N, in, H, W) to (N, width, H, W), or to half of H and W, rounded up, if its stride is 2."""
    if kind == "patch2":
        # Zeros pad the last pixel of a side of odd length. On a side of even length, no patch contains the padding.
        return [nn.ZeroPad2d((0, 1, 0, 1)), style.conv(in_channels, width, 2, stride=2, padding=0)]
    kernel, stride = {"conv3x3": (3, 1), "conv7x7": (7, 1), "conv3x3_stride2": (3, 2)}[kind]
    return [style.conv(in_channels, width, kernel, stride)]


def _style(architecture: Architecture) -> Style:
    return Style(
        block=str(architecture["block"]),
        kernel=_int_value(architecture, "kernel"),
        order=str(architecture["order"]),
        activation=str(architecture["activation"]),
        normalisation=str(architecture["normalisation"]),
        squeeze_excitation=bool(architecture["squeeze_excitation"]),
    )


def _stem_width(architecture: Architecture) -> int:
    return _int_value(architecture, "width1" if architecture["stem_width"] == "width1" else "stem_width")


def _int_value(architecture: Architecture, name: str) -> int:
    return int(str(architecture[name]))


def _style_label(architecture: Architecture) -> str:
    """Returns the label of the settings that all blocks share, for drawings."""
    words = [str(architecture["order"]).removesuffix("_activation"), str(architecture["activation"])]
    if architecture["normalisation"] != "none":
        words.append(str(architecture["normalisation"]))
    return "all: " + ", ".join(words + ["se"] * bool(architecture["squeeze_excitation"]))


def plain_architectures(stages: int = 3) -> list[dict[str, Value]]:
    """Returns all plain residual networks: equal depths, widths that double from stage to stage, first values of `AXES`.

    Args:
        stages: Number of stages, 1 to 4.
    """
    plain: list[dict[str, Value]] = []
    for depth in DEPTHS:
        for width in WIDTHS:
            widths = [width * 2**stage for stage in range(stages)]
            if all(w in WIDTHS for w in widths):
                plain.append(_from_stages([depth] * stages, widths))
    return plain


def _from_stages(depths: list[int], widths: list[int]) -> dict[str, Value]:
    by_stage = [(f"depth{s}", depth) for s, depth in enumerate(depths, start=1)]
    by_stage += [(f"width{s}", width) for s, width in enumerate(widths, start=1)]
    return dict(by_stage) | PLAIN_AXES


# ResNet-18 for images of 32x32 pixels, without stride and pooling in the stem. In macro(stages=4); 11,173,962 parameters.
RESNET18 = _from_stages([2, 2, 2, 2], [64, 128, 256, 512])
# Wide ResNet with 28 layers and 10 times the width. In macro(stages=3); 36,479,194 parameters.
WRN_28_10 = _from_stages([4, 4, 4], [160, 320, 640]) | {"stem_width": 16, "order": "pre_activation"}
