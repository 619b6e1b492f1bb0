"""Residual blocks: three kinds of branch, two orders of operations, activations and normalisations.

A branch consists of convolutions with a normalisation and an activation between them. One spatial convolution has the
stride. The order of operations sets the position of the other normalisations and activations:

    post_activation:  after(branch(x) + shortcut(x)); the branch ends with a normalisation       He et al., arXiv:1512.03385
    pre_activation:   branch(before(x)) + x; `before` is a normalisation and an activation       He et al., arXiv:1603.05027

`after` is the activation. A block that changes the shape has a 1x1 convolution as shortcut. With post_activation, this
convolution takes x, and a normalisation follows. With pre_activation, it takes before(x) without a normalisation, as in wide
ResNets (Zagoruyko and Komodakis, BMVC 2016, arXiv:1605.07146).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from torch import nn

from search_spaces.operations import SqueezeExcitation

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# The inner width of a bottleneck is a quarter of the output channels (He et al.), at least 4.
BOTTLENECK_RATIO, MIN_INNER_CHANNELS = 4, 4
# The inner width of an inverted bottleneck is six times the input channels (Sandler et al.).
EXPANSION_RATIO = 6
# Group normalisation has at most 32 groups (Wu and He), each with at least 4 channels.
MAX_GROUPS, MIN_GROUP_CHANNELS = 32, 4
# The inner width of a gate is a quarter of the channels, at least 8. With 1 or 2, all its ReLUs are often zero initially.
MIN_SQUEEZED_CHANNELS = 8

# The smooth activations are from Xie et al., "Smooth Adversarial Training", arXiv:2006.14536.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
}


def group_norm(channels: int) -> nn.GroupNorm:
    """Returns group normalisation.

    A group has at least 4 channels, or all channels of a narrower layer. A group of one channel and one pixel would become
    zero.

    Source: Wu and He, "Group Normalization", ECCV 2018, arXiv:1803.08494.
    """
    fitting = (
        groups for groups in range(MAX_GROUPS, 1, -1) if channels % groups == 0 and channels // groups >= MIN_GROUP_CHANNELS
    )
    return nn.GroupNorm(next(fitting, 1), channels)


# In evaluation mode, the output for an image does not depend on the other images of the batch.
NORMALISATIONS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": group_norm,
    "none": lambda channels: nn.Identity(),
}


@final
@dataclass(frozen=True, kw_only=True)
class Style:
    """Settings that all blocks of a network share.

    Attributes:
        block: basic, bottleneck or inverted.
        kernel: Side of the spatial convolutions.
        order: post_activation or pre_activation.
        activation: A name of ACTIVATIONS.
        normalisation: A name of NORMALISATIONS. With none, the convolutions have a bias.
        squeeze_excitation: Whether the branch ends with a squeeze-and-excitation gate.
    """

    block: str
    kernel: int
    order: str
    activation: str
    normalisation: str
    squeeze_excitation: bool

    @property
    def preactivates(self) -> bool:
        """Whether blocks normalise and activate their input instead of their sum."""
        return self.order == "pre_activation"

    def act(self) -> nn.Module:
        """Returns a new activation module."""
        return ACTIVATIONS[self.activation]()

    def norm(self, channels: int) -> nn.Module:
        """Returns a new normalisation module for (N, C, H, W)."""
        return NORMALISATIONS[self.normalisation](channels)

    def conv(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, padding: int | None = None
    ) -> nn.Conv2d:
        """Returns a convolution: (N, in, H, W) to (N, out, ceil(H/stride), ceil(W/stride)) with the default padding."""
        padding = kernel // 2 if padding is None else padding
        bias = self.normalisation == "none"
        return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=bias)


def basic(in_channels: int, out_channels: int, stride: int, style: Style) -> list[nn.Conv2d]:
    """Returns two spatial convolutions.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385.
    """
    return [
        style.conv(in_channels, out_channels, style.kernel, stride),
        style.conv(out_channels, out_channels, style.kernel),
    ]


def bottleneck(in_channels: int, out_channels: int, stride: int, style: Style) -> list[nn.Conv2d]:
    """Returns a spatial convolution with a quarter of the channels, between two 1x1 convolutions.

    The spatial convolution has the stride, as in current implementations. In the paper, the first convolution has it.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385.
    """
    inner_channels = max(out_channels // BOTTLENECK_RATIO, MIN_INNER_CHANNELS)
    return [
        style.conv(in_channels, inner_channels, 1),
        style.conv(inner_channels, inner_channels, style.kernel, stride),
        style.conv(inner_channels, out_channels, 1),
    ]


def inverted(in_channels: int, out_channels: int, stride: int, style: Style) -> list[nn.Conv2d]:
    """Returns a depthwise spatial convolution with six times the channels, between two 1x1 convolutions.

    Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv:1801.04381.
    """
    inner_channels = in_channels * EXPANSION_RATIO
    return [
        style.conv(in_channels, inner_channels, 1),
        style.conv(inner_channels, inner_channels, style.kernel, stride, groups=inner_channels),
        style.conv(inner_channels, out_channels, 1),
    ]


BLOCKS: dict[str, Callable[[int, int, int, Style], list[nn.Conv2d]]] = {
    "basic": basic,
    "bottleneck": bottleneck,
    "inverted": inverted,
}


@final
class ResidualBlock(nn.Module):
    """Sum of a branch and a shortcut. It maps (N, in, H, W) to (N, out, ceil(H/stride), ceil(W/stride)).

    No activation follows the sum of an inverted block, as in MobileNetV2. Unlike in MobileNetV2, an inverted block that
    changes the shape has a shortcut, like the other blocks.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, style: Style) -> None:
        super().__init__()
        first, *others = BLOCKS[style.block](in_channels, out_channels, stride, style)
        layers: list[nn.Module] = [first]
        for conv in others:
            layers += [style.norm(conv.in_channels), style.act(), conv]
        self.before: nn.Module = nn.Identity()
        self.after: nn.Module = nn.Identity()
        if style.preactivates:
            self.before = nn.Sequential(style.norm(in_channels), style.act())
        else:
            layers.append(style.norm(out_channels))
            if style.block != "inverted":
                self.after = style.act()
        if style.squeeze_excitation:
            layers.append(SqueezeExcitation(out_channels, style.act(), MIN_SQUEEZED_CHANNELS))
        self.branch = nn.Sequential(*layers)
        self.projects = stride != 1 or in_channels != out_channels
        self.shortcut: nn.Module = nn.Identity()
        if self.projects:
            # No bias: the branch or the next normalisation has one.
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection)
            if not style.preactivates:
                self.shortcut.append(style.norm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Returns after(branch + shortcut)."""
        activated = self.before(x)
        return self.after(self.branch(activated) + self.shortcut(activated if self.projects else x))  # type: ignore[no-any-return]
