"""Whether a network may be laid out channels last."""

from __future__ import annotations

from torch import nn


def suits_channels_last(network: nn.Module) -> bool:
    """Returns whether a network can safely be laid out channels last on a CPU.

    A strided 1 x 1 convolution of fewer than 8 channels cannot: on processors with AVX2 and without AVX-512, its backward
    pass in torch 2.14.1 (oneDNN) writes beyond its memory, and the process aborts.
    """
    convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    return not any(c.in_channels // c.groups < 8 and set(c.kernel_size) == {1} and max(c.stride) > 1 for c in convolutions)
