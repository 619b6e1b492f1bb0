"""Context manager for a frozen network: evaluation mode, and parameters without gradients."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Sets a network to evaluation mode and its parameters to `requires_grad=False`. Restores both, and buffers, at exit."""
    # A frozen script module has no `training` attribute.
    modes = [(module, module.training) for module in network.modules() if hasattr(module, "training")]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        network.eval()
    except NotImplementedError:  # A graph of torch.export has no eval(), but other layers of the network may need the mode.
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
            for buffer, before in buffers:  # Even in evaluation mode, networks may write to buffers, such as counters.
                if buffer.shape == before.shape and not buffer.is_meta and not torch.equal(buffer, before):
                    buffer.copy_(before)
