"""A network made ready to be asked many thousand times: frozen, batch norm folded, channels last."""

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

# How far logits may move by rounding, relative to the largest of them, before a folded network counts as another one.
TOLERANCE = 1e-4
PROBES = 4
# Tracing and folding a small network takes as long as it saves on about so many attempts, one image at one epsilon each.
MIN_CALLS_TO_FUSE = 1500


@contextmanager
def inference(network: nn.Module, x: Tensor, attempts: int = MIN_CALLS_TO_FUSE) -> Iterator[nn.Module]:
    """Yields a network that computes what `network` does in evaluation mode, faster where that is possible.

    Batch norm is folded into the convolutions before it, and images of three dimensions are laid out channels last, in a
    copy. What cannot be traced, or gives other logits on the first of the images x (N, ...), is used as it is, and so is
    every network of which too few attempts are asked. The network itself is frozen meanwhile, and left as it was.
    """
    with frozen(network):
        folded = _folded(network) if attempts >= MIN_CALLS_TO_FUSE else None
        if folded is not None and x.ndim == 4 and suits_channels_last(folded):
            folded = _ChannelsLast(folded.to(memory_format=torch.channels_last))
        yield folded if folded is not None and _agree(network, folded, x[:PROBES]) else network


def _folded(network: nn.Module) -> nn.Module | None:
    """Returns a copy in which batch norm is folded into convolutions, or None if the network cannot be traced."""
    modules = list(network.modules())
    if not any(isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) for module in modules):
        return None
    # Hooks would run on the tracer's placeholders instead of tensors, and then never again.
    if any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in modules):
        return None
    try:
        return fuse(network)
    except Exception:  # Whatever stops the tracer, the network itself still runs.
        return None


def _agree(network: nn.Module, folded: nn.Module, probes: Tensor) -> bool:
    """Returns whether two networks give the same logits but for rounding, as one batch and image by image."""
    try:
        with torch.no_grad():
            batches = (probes, probes[:1])
            # Copies, for a first layer may work in place.
            folded_logits = torch.cat([folded(batch.clone()) for batch in batches])
            logits = torch.cat([network(batch.clone()) for batch in batches])
    except Exception:  # As above: the network itself says what is wrong with its input.
        return False
    if logits.shape != folded_logits.shape:
        return False
    return bool((logits - folded_logits).abs().max() <= TOLERANCE * logits.abs().max().clamp(min=1e-6))


@final
class _ChannelsLast(nn.Module):
    """A network that is given its images (N, C, H, W) channels last, the layout in which convolutions run fastest."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]
