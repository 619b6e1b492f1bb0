"""Faster inference for many thousand passes: a frozen network with folded batch norm, in channels-last format."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from evaluators.engine.channels_last import suits_channels_last
from evaluators.engine.folding import CONVOLUTIONS, PROBES, Folding, agree, folded_weights, has_hooks
from evaluators.engine.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

# An attempt is one attack on one image at one epsilon. With fewer attempts than this, tracing and folding a small network
# costs more time than it saves.
MIN_ATTEMPTS_TO_FUSE = 1500


@contextmanager
def inference(network: nn.Module, x: Tensor, attempts: int = MIN_ATTEMPTS_TO_FUSE) -> Iterator[nn.Module]:
    """Yields a network with the same logits as `network` in evaluation mode, faster where possible.

    In a copy of the network, batch norm is folded into the preceding convolutions, and images (N, C, H, W) use the
    channels-last format where this is safe. The original network is yielded if it has no convolution, has hooks, cannot be
    copied or is folded already, if there are too few attempts, or if the logits of the copy differ on the first images.
    `network` is frozen inside the context and restored afterwards.

    Args:
        network: Maps images (N, ...) to logits (N, K).
        x: Images, (N, ...).
        attempts: Expected number of attempts: images times attacks times epsilons.
    """
    with frozen(network):
        copied = _copy(network) if attempts >= MIN_ATTEMPTS_TO_FUSE else None
        if copied is None:
            yield network
            return
        channels_last = x.ndim == 4 and suits_channels_last(copied)
        faster = _ChannelsLast(copied.to(memory_format=torch.channels_last)) if channels_last else copied
        with Folding(copied, x).applied():
            yield faster if agree(network, faster, x[:PROBES]) else network


def _copy(network: nn.Module) -> nn.Module | None:
    """Returns a copy of a network; None if it cannot be copied, or if there is nothing to make faster."""
    modules = list(network.modules())
    if folded_weights(network) or not any(isinstance(module, tuple(CONVOLUTIONS)) for module in modules):
        return None
    # The hooks of a copy would still belong to the objects of the original.
    if any(has_hooks(module) for module in modules):
        return None
    try:
        return copy.deepcopy(network)
    except Exception:  # Such as a network with a lock.
        return None


@final
class _ChannelsLast(nn.Module):
    """Wrapper that converts images (N, C, H, W) to channels-last format, in which convolutions run fastest."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]
