"""Operations that cells are made of, each usable at any width.

The order inside a convolution is ReLU, convolution, batch norm, as in the cell spaces of the literature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, final

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

Operation = Callable[[int], nn.Module]


def relu_conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Returns ReLU, a convolution without bias, batch norm; (N, in, H, W) to (N, out, H/stride, W/stride)."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


@final
class Zero(nn.Module):
    """Cuts an edge: zeros, whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns zeros shaped like x."""
        return x.new_zeros(x.shape)


# By name, from the number of channels: at stride 1 every operation keeps the shape (N, C, H, W).
OPERATIONS: dict[str, Operation] = {
    "none": lambda channels: Zero(),
    "skip": lambda channels: nn.Identity(),
    "avgpool3x3": lambda channels: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
    "conv1x1": lambda channels: relu_conv_bn(channels, channels, 1),
    "conv3x3": lambda channels: relu_conv_bn(channels, channels, 3),
}
