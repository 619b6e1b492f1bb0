"""A custom operation: a function of (channels, stride). custom_cells.yaml refers to it by its path."""

from torch import nn


def smoothconv3x3(channels, stride):
    """Returns SiLU, a 3x3 convolution and batch norm: (N, C, H, W) to (N, C, ceil(H/stride), ceil(W/stride))."""
    return nn.Sequential(
        nn.SiLU(),
        nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels),
    )
