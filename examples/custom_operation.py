"""An operation of your own: a function of the number of channels and the stride. Used by custom_cells.yaml, by its path."""

from torch import nn


def smoothconv3x3(channels, stride):
    """A 3x3 convolution of a smooth activation: (N, C, H, W) to (N, C, ceil(H/stride), ceil(W/stride))."""
    return nn.Sequential(
        nn.SiLU(),
        nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels),
    )
