"""Operations of cells: a table of functions of (channels, stride) that return a module.

Every module maps (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride)), for every C, H and W. A convolution operation
consists of ReLU, convolution and batch norm, in this order, as in the cell spaces of the literature. A custom operation is
also a function of (channels, stride).

Source: Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition", CVPR 2018, arXiv:1707.07012, and
Liu et al., "DARTS: Differentiable Architecture Search", ICLR 2019, arXiv:1806.09055, define the operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Operation = Callable[[int, int], nn.Module]

GROUPS = 8
# Squeeze-and-excitation reduces C channels to C // SQUEEZE_RATIO inside.
SQUEEZE_RATIO = 4


def relu_conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Returns ReLU, convolution without bias and batch norm: (N, in, H, W) to (N, out, ceil(H/stride), ceil(W/stride))."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def conv(kernel: int) -> Operation:
    """Returns the operation for a convolution."""
    return lambda channels, stride: relu_conv_bn(channels, channels, kernel, stride)


def group_conv(kernel: int) -> Operation:
    """Returns the operation for a convolution with gcd(channels, 8) groups."""
    return lambda channels, stride: relu_conv_bn(channels, channels, kernel, stride, math.gcd(channels, GROUPS))


def depthwise_conv(kernel: int) -> Operation:
    """Returns the operation for a depthwise convolution, with one group per channel."""
    return lambda channels, stride: relu_conv_bn(channels, channels, kernel, stride, channels)


def dilated_conv(kernel: int) -> Operation:
    """Returns the operation for a depthwise convolution with dilation 2, followed by a 1x1 convolution."""
    return lambda channels, stride: nn.Sequential(nn.ReLU(), *_depthwise_pointwise(channels, kernel, stride, dilation=2))


def separable_conv(kernel: int) -> Operation:
    """Returns the operation for two separable convolutions (depthwise, then 1x1). The first one has the stride."""
    return lambda channels, stride: nn.Sequential(
        nn.ReLU(),
        *_depthwise_pointwise(channels, kernel, stride),
        nn.ReLU(),
        *_depthwise_pointwise(channels, kernel, stride=1),
    )


def _depthwise_pointwise(channels: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    return [
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    ]


def factorised_conv(kernel: int) -> Operation:
    """Returns the operation for a convolution of 1 x kernel pixels, followed by one of kernel x 1 pixels."""
    half = kernel // 2
    return lambda channels, stride: nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, (1, kernel), (1, stride), (0, half), bias=False),
        nn.Conv2d(channels, channels, (kernel, 1), (stride, 1), (half, 0), bias=False),
        nn.BatchNorm2d(channels),
    )


def max_pool(kernel: int) -> Operation:
    """Returns the operation for max pooling."""
    return lambda channels, stride: nn.MaxPool2d(kernel, stride, kernel // 2)


def avg_pool(kernel: int) -> Operation:
    """Returns the operation for average pooling. Padding does not count in the mean."""
    return lambda channels, stride: nn.AvgPool2d(kernel, stride, kernel // 2, count_include_pad=False)


def skip(channels: int, stride: int) -> nn.Module:
    """Returns the identity, or a `FactorisedReduce` if the stride is 2."""
    return nn.Identity() if stride == 1 else FactorisedReduce(channels, channels, stride)


def squeeze_excitation(channels: int, stride: int) -> nn.Module:
    """Returns a squeeze-and-excitation gate, followed by average pooling if the stride is 2."""
    gate = SqueezeExcitation(channels)
    return gate if stride == 1 else nn.Sequential(gate, nn.AvgPool2d(stride, stride, ceil_mode=True))


@final
class Zero(nn.Module):
    """Returns zeros for every input, as if the edge did not exist."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Returns zeros (N, C, ceil(H/stride), ceil(W/stride))."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


@final
class FactorisedReduce(nn.Module):
    """Two strided 1x1 convolutions, one on the even and one on the odd pixels, whose outputs are concatenated."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 2) -> None:
        super().__init__()
        half = max(1, out_channels // 2)  # A single output channel uses the even pixels only.
        self.even = nn.Conv2d(in_channels, half, 1, stride, bias=False)
        self.odd = nn.Conv2d(in_channels, out_channels - half, 1, stride, bias=False) if out_channels > half else None
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in, H, W) to (N, out, ceil(H/2), ceil(W/2))."""
        x = F.relu(x)
        if self.odd is None:
            return self.norm(self.even(x))  # type: ignore[no-any-return]
        # If a side has odd length, the last pixel has no successor. The side is padded with zeros.
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        return self.norm(torch.cat([self.even(x), self.odd(shifted)], 1))  # type: ignore[no-any-return]


@final
class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate in (0, 1), computed from the means of all channels.

    Source: Hu, Shen and Sun, "Squeeze-and-Excitation Networks", CVPR 2018, arXiv:1709.01507.
    """

    def __init__(self, channels: int, activation: nn.Module | None = None, min_channels: int = 1) -> None:
        super().__init__()
        inner_channels = max(min_channels, channels // SQUEEZE_RATIO)
        activation_module = nn.ReLU() if activation is None else activation
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inner_channels, 1),
            activation_module,
            nn.Conv2d(inner_channels, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns the scaled input (N, C, H, W)."""
        return x * self.gate(x)  # type: ignore[no-any-return]


@final
class BlurPool(nn.Module):
    """A 3x3 binomial filter with a stride, applied to each channel. The filter reduces aliasing.

    Source: Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019, arXiv:1904.11486.
    """

    kernel: Tensor

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("kernel", torch.outer(line, line)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C, ceil(H/stride), ceil(W/stride))."""
        # Replicate padding keeps a constant image constant.
        kernel = self.kernel.expand(self.channels, 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, stride=self.stride, groups=self.channels)


# Ordered from the weakest to the strongest operation. A drawn edge with several operations has the colour of the strongest.
OPERATIONS: dict[str, Operation] = {
    "none": lambda channels, stride: Zero(stride),
    "skip": skip,
    "avgpool3x3": avg_pool(3),
    "maxpool3x3": max_pool(3),
    "maxpool5x5": max_pool(5),
    "maxpool7x7": max_pool(7),
    "blurpool3x3": BlurPool,
    "se": squeeze_excitation,
    "depthwise3x3": depthwise_conv(3),
    "depthwise5x5": depthwise_conv(5),
    "conv1x1": conv(1),
    "groupconv3x3": group_conv(3),
    "groupconv5x5": group_conv(5),
    "dilconv3x3": dilated_conv(3),
    "dilconv5x5": dilated_conv(5),
    "sepconv3x3": separable_conv(3),
    "sepconv5x5": separable_conv(5),
    "sepconv7x7": separable_conv(7),
    "conv1x3_3x1": factorised_conv(3),
    "conv1x7_7x1": factorised_conv(7),
    "conv3x3": conv(3),
    "conv5x5": conv(5),
    "conv7x7": conv(7),
}
# These sets describe the built-in operations. No property is assumed for a custom operation.
# Operations without weights: the same operation used twice on one input gives equal results. A strided skip has weights.
WEIGHTLESS = frozenset({"none", "skip", "avgpool3x3", "maxpool3x3", "maxpool5x5", "maxpool7x7", "blurpool3x3"})
# Linear operations: the output for a sum is the sum of the outputs.
LINEAR = frozenset({"avgpool3x3", "blurpool3x3"})
# Operations that map zeros to zeros. A convolution does not, because its batch norm adds a learned shift.
VANISHING = (WEIGHTLESS - {"skip"}) | {"se"}
# Operations that map a spatially constant input to a spatially constant output. Those without weights return such an input
# unchanged.
POINTWISE = (WEIGHTLESS - {"none", "skip"}) | {"conv1x1", "se"}
