"""What a network costs, without training it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from evaluators.attacks.target import frozen

if TYPE_CHECKING:
    from torch import nn


def parameters(network: nn.Module) -> int:
    """Returns the number of parameters, also of those that are frozen."""
    return sum(parameter.numel() for parameter in network.parameters())


def macs(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Returns the multiply-accumulates of one image of shape input_shape (C, H, W).

    Counts convolutions and matrix products, as torch's own counter does, in one pass of a black image.
    """
    tensor = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(0))
    with frozen(network), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *input_shape, device=tensor.device, dtype=tensor.dtype))
    return int(counter.get_total_flops()) // 2
