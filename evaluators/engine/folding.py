"""Folding of batch norm into the convolutions before it, for a network in evaluation mode.

A folded network shares the weights of the original. After a change of the weights, it computes its few folded weights anew,
which costs far less than the passes through batch norm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

if TYPE_CHECKING:
    from collections.abc import Callable

# Largest difference between the logits of the folded and the original network, relative to the largest logit.
TOLERANCE = 1e-4
PROBES = 4
_CONVOLUTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
}
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold(network: nn.Module, x: Tensor) -> Folded:
    """Returns a network with the same logits, with batch norm folded into the convolutions before it.

    The result calls the original network if there is nothing to fold, if the network has hooks or cannot be traced, or if
    the logits of the folded network differ on the first images.

    Args:
        network: Network in evaluation mode, from images (N, ...) to logits (N, K). The folded network shares its layers.
        x: Images to compare the logits on, (N, ...).
    """
    traced = _trace(network)
    if traced is not None:
        folded = Folded(traced, _fold_pairs(traced))
        # Without a folded layer, a trace gains nothing, and it keeps the buffers and Python values of its first pass.
        if folded.layers and agree(network, folded, x[:PROBES]):
            return folded
    return Folded(network, [])


def agree(network: nn.Module, other: nn.Module, probes: Tensor) -> bool:
    """Returns whether two networks give equal logits up to rounding, both for a batch of images and for a single one."""
    try:
        with torch.no_grad():
            batches = (probes, probes[:1])
            # Copies, as the first layer may work in place.
            others = torch.cat([other(batch.clone()) for batch in batches])
            logits = torch.cat([network(batch.clone()) for batch in batches])
    except Exception:  # If the error is due to the input, the original network raises it later.
        return False
    if logits.shape != others.shape:
        return False
    return bool((logits - others).abs().max() <= TOLERANCE * logits.abs().max().clamp(min=1e-6))


def _trace(network: nn.Module) -> fx.GraphModule | None:
    modules = list(network.modules())
    if not any(type(module) in _CONVOLUTIONS for module in modules):
        return None
    # Hooks would run only once, on the tracer's placeholders instead of tensors.
    if any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in modules):
        return None
    try:
        return fx.symbolic_trace(network)
    except Exception:  # The tracer may raise any error. The network itself still runs.
        return None


def _fold_pairs(traced: fx.GraphModule) -> list[_FoldedConvolution]:
    """Replaces each convolution with a batch norm behind it by one layer, and returns the new layers."""
    modules = dict(traced.named_modules())
    calls = [str(node.target) for node in traced.graph.nodes if node.op == "call_module"]
    pairs: list[_FoldedConvolution] = []
    for node in list(traced.graph.nodes):
        before = node.args[0] if len(node.args) == 1 else None
        if not isinstance(before, fx.Node) or node.op != "call_module" or before.op != "call_module":
            continue
        convolution, norm = modules.get(str(before.target)), modules[str(node.target)]
        # The result of the convolution must have no other use, and neither layer another call.
        alone = len(before.users) == 1 and calls.count(str(before.target)) == calls.count(str(node.target)) == 1
        if not alone or not _is_plain(convolution, norm):
            continue
        pairs.append(_FoldedConvolution(convolution, norm))
        name = f"folded_{len(pairs)}"
        traced.add_submodule(name, pairs[-1])
        before.target = name
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return pairs


def _is_plain(convolution: nn.Module | None, norm: nn.Module) -> bool:
    """Returns whether two modules are a convolution with zero padding and a batch norm with running statistics.

    Subclasses do not count, because they may have another `forward`.
    """
    if convolution is None or type(convolution) not in _CONVOLUTIONS or type(norm) not in _BATCH_NORMS:
        return False
    return convolution.padding_mode == "zeros" and norm.running_mean is not None


@final
class _FoldedConvolution(nn.Module):
    """A convolution with the folded weights of a convolution and of the batch norm behind it."""

    def __init__(self, convolution: Any, norm: Any) -> None:
        super().__init__()
        # In a tuple, so that the layers are no submodules, and their parameters are not listed twice.
        self.layers = convolution, norm
        self.convolve = _CONVOLUTIONS[type(convolution)]
        self.weight, self.bias = torch.empty(0), torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layers[0]
        return self.convolve(x, self.weight, self.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


@final
class Folded(nn.Module):
    """A network in evaluation mode without the batch norms that follow a convolution. Folded weights have no gradients.

    Attributes:
        body: The network.
        layers: The folded layers; empty if there are none.
        stale: Set this after a change of the network's weights. The next call computes the folded weights anew.
    """

    def __init__(self, body: nn.Module, layers: list[_FoldedConvolution]) -> None:
        super().__init__()
        self.body, self.layers, self.stale = body, layers, True
        self._batch_norms = _BatchNormTensors([layer.layers for layer in layers]) if layers else None
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits."""
        if self.stale:
            self._refresh()
            self.stale = False
        return self.body(x)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _refresh(self) -> None:
        if self._batch_norms is None:
            return
        for layer, scale, bias in zip(self.layers, *self._batch_norms.scales_and_biases(), strict=True):
            weight = layer.layers[0].weight
            layer.weight, layer.bias = weight * scale.view(-1, *[1] * (weight.ndim - 1)), bias


@final
class _BatchNormTensors:
    """The tensors of all folded batch norms. They are concatenated, because many operations on small tensors cost more."""

    def __init__(self, pairs: list[tuple[Any, Any]]) -> None:
        norms = [norm for _, norm in pairs]
        self._sizes = [len(norm.running_mean) for norm in norms]
        self._means, self._variances = [n.running_mean for n in norms], [n.running_var for n in norms]
        self._epsilons = torch.cat([torch.full_like(norm.running_mean, norm.eps) for norm in norms])
        self._gains = [torch.ones_like(n.running_mean) if n.weight is None else n.weight for n in norms]
        self._shifts = [torch.zeros_like(n.running_mean) if n.bias is None else n.bias for n in norms]
        self._biases = [torch.zeros_like(n.running_mean) if c.bias is None else c.bias for c, n in pairs]

    def scales_and_biases(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Returns the factor of the weights and the bias of each convolution, (channels,) each."""
        scales = torch.cat(self._gains) * (torch.cat(self._variances) + self._epsilons).rsqrt()
        biases = torch.addcmul(torch.cat(self._shifts), torch.cat(self._biases) - torch.cat(self._means), scales)
        return scales.split(self._sizes), biases.split(self._sizes)
