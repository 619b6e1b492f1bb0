"""A network held still: in evaluation mode, its parameters without gradients, and as it was afterwards."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Holds a network in evaluation mode with parameters that need no gradients, and puts everything back, buffers too."""
    # A script module that was frozen knows no modes any more.
    modes = [(module, module.training) for module in network.modules() if hasattr(module, "training")]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        network.eval()
    except NotImplementedError:  # A graph of torch.export knows no modes; a network around one may have other layers.
        for module, _ in modes:
            module.training = False
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in wanted:
            parameter.requires_grad_(True)
        with torch.no_grad():
            for buffer, before in buffers:  # Counters, quantisers' scales: what a network writes in evaluation mode, too.
                if buffer.shape == before.shape and not buffer.is_meta and not torch.equal(buffer, before):
                    buffer.copy_(before)
