"""Faster inference for many thousand passes: a frozen network with folded batch norm, in channels-last format."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from evaluators.engine.channels_last import suits_channels_last
from evaluators.engine.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

# Largest difference between the logits of the folded and the original network, relative to the largest logit.
TOLERANCE = 1e-4
PROBES = 4
# An attempt is one attack on one image at one epsilon. With fewer attempts than this, tracing and folding a small network
# costs more time than it saves.
MIN_ATTEMPTS_TO_FUSE = 1500


@contextmanager
def inference(network: nn.Module, x: Tensor, attempts: int = MIN_ATTEMPTS_TO_FUSE) -> Iterator[nn.Module]:
    """Yields a network with the same logits as `network` in evaluation mode, faster where possible.

    In a copy of the network, batch norm is folded into the preceding convolutions, and images (N, C, H, W) use the
    channels-last format where this is safe. The original network is yielded if it has no convolution, has hooks or cannot be
    traced, if there are too few attempts, or if the logits of the copy differ on the first images. `network` is frozen
    inside the context and restored afterwards.

    Args:
        network: Maps images (N, ...) to logits (N, K).
        x: Images, (N, ...).
        attempts: Expected number of attempts: images times attacks times epsilons.
    """
    with frozen(network):
        folded = _folded(network) if attempts >= MIN_ATTEMPTS_TO_FUSE else None
        if folded is not None and x.ndim == 4 and suits_channels_last(folded):
            folded = _ChannelsLast(folded.to(memory_format=torch.channels_last))
        yield folded if folded is not None and _agree(network, folded, x[:PROBES]) else network


def _folded(network: nn.Module) -> nn.Module | None:
    """Returns a copy in which batch norm is folded into convolutions.

    It returns None if the network has no convolution, has hooks or cannot be traced.
    """
    modules = list(network.modules())
    if not any(isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) for module in modules):
        return None
    # Hooks would run only once, on the tracer's placeholders instead of tensors.
    if any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in modules):
        return None
    try:
        return fuse(network)
    except Exception:  # The tracer may raise any error. The network itself still runs.
        return None


def _agree(network: nn.Module, folded: nn.Module, probes: Tensor) -> bool:
    """Returns whether two networks give equal logits up to rounding, both for a batch and for a single image."""
    try:
        with torch.no_grad():
            batches = (probes, probes[:1])
            # Copies, as the first layer may work in place.
            folded_logits = torch.cat([folded(batch.clone()) for batch in batches])
            logits = torch.cat([network(batch.clone()) for batch in batches])
    except Exception:  # If the error is due to the input, the original network raises it later.
        return False
    if logits.shape != folded_logits.shape:
        return False
    return bool((logits - folded_logits).abs().max() <= TOLERANCE * logits.abs().max().clamp(min=1e-6))


@final
class _ChannelsLast(nn.Module):
    """Wrapper that converts images (N, C, H, W) to channels-last format, in which convolutions run fastest."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]
