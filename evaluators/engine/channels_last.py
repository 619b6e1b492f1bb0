"""Checks of the channels-last memory format of a network."""

from __future__ import annotations

import torch
from torch import nn


def suits_channels_last(network: nn.Module) -> bool:
    """Returns whether the channels-last memory format is safe for a network on a CPU.

    It is not safe for strided 1 x 1 convolutions of fewer than 8 channels per group. On processors with AVX2 and without
    AVX-512, their backward pass in torch 2.14.1 (oneDNN) writes beyond its memory, and the process aborts.
    """
    convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    return not any(c.in_channels // c.groups < 8 and set(c.kernel_size) == {1} and max(c.stride) > 1 for c in convolutions)


def is_channels_last(network: nn.Module) -> bool:
    """Returns whether weights of convolutions are in the channels-last format."""
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    return any(w.is_contiguous(memory_format=torch.channels_last) and not w.is_contiguous() for w in weights)
