"""Folding of batch norm into the convolutions before it, for a network in evaluation mode.

While it is folded, a network runs its own code. Only a folded convolution uses other weights, and the batch norm behind it
returns its input. The folded weights are computed anew each time, which costs far less than the passes through batch norm.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Largest difference between the logits of the folded and the original network, relative to the largest logit.
TOLERANCE = 1e-4
PROBES = 4
_CONVOLUTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
}
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@final
class Folding:
    """The batch norms of a network that can be folded into the convolutions before them.

    Args:
        network: Network in evaluation mode, from images (N, ...) to logits (N, K).
        x: Images to compare the logits on, (N, ...).
    """

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        self._network, self._candidates = network, _find_pairs(network)
        self._pairs: list[_Pair] = []
        self.check(x)

    def __len__(self) -> int:
        return len(self._pairs)

    def check(self, x: Tensor) -> None:
        """Chooses anew which layers to fold, as the network may have changed.

        Layers with hooks are not folded, as the hooks would see other values. No layer is folded if the logits of the
        folded network differ on the first images.

        Args:
            x: Images to compare the logits on, (N, ...).
        """
        self._pairs = [pair for pair in self._candidates if _is_plain(pair.convolution, pair.norm)]
        if self._pairs and not agree(self._network, self._folded, x[:PROBES]):
            self._pairs = []

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Folds the layers inside the context. There, the gradient of the logits does not reach their weights."""
        self._refresh()
        pairs = self._pairs
        for pair in pairs:
            pair.convolution.__dict__["forward"], pair.norm.__dict__["forward"] = pair.convolve, pair.normalise
        try:
            yield
        finally:
            for pair in pairs:
                del pair.convolution.__dict__["forward"], pair.norm.__dict__["forward"]
                pair.weight = pair.bias = None

    def _folded(self, x: Tensor) -> Tensor:
        with self.applied():
            return self._network(x)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _refresh(self) -> None:
        if not self._pairs:
            return
        for pair, scale, bias in zip(self._pairs, *_scales_and_biases(self._pairs), strict=True):
            weight = pair.convolution.weight
            pair.weight, pair.bias = weight * scale.view(-1, *[1] * (weight.ndim - 1)), bias


def folded_weights(network: nn.Module) -> list[Tensor]:
    """Returns the folded weights of a network; none outside of `Folding.applied`."""
    convolutions = (module for module in network.modules() if type(module) in _CONVOLUTIONS)
    pairs = (getattr(module.__dict__.get("forward"), "__self__", None) for module in convolutions)
    return [pair.weight for pair in pairs if isinstance(pair, _Pair) and pair.weight is not None]


def agree(network: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], probes: Tensor) -> bool:
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


def has_hooks(module: nn.Module) -> bool:
    """Returns whether a module itself has hooks on its passes."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name, None) for name in hooks)


def _find_pairs(network: nn.Module) -> list[_Pair]:
    """Returns each convolution with the batch norm behind it. Neither has another use. Returns none if tracing fails."""
    modules = dict(network.named_modules())
    if not any(type(module) in _CONVOLUTIONS for module in modules.values()):
        return []
    try:
        # Of a copy, as a network that keeps values of a pass would keep those of the tracer.
        graph = fx.symbolic_trace(copy.deepcopy(network)).graph
    except Exception:  # Copies and traces may raise any error. The network itself still runs.
        return []
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    pairs = []
    for node in graph.nodes:
        before = node.args[0] if len(node.args) == 1 else None
        if not isinstance(before, fx.Node) or node.op != "call_module" or before.op != "call_module":
            continue
        names = str(before.target), str(node.target)
        if len(before.users) == 1 and all(name in modules and calls.count(name) == 1 for name in names):
            pairs.append(_Pair(*(modules[name] for name in names)))
    return pairs


def _is_plain(convolution: nn.Module, norm: nn.Module) -> bool:
    """Returns whether two modules are a convolution with zero padding and a batch norm with running statistics.

    Subclasses do not count, because they may have another `forward`, and neither do modules with hooks.
    """
    if type(convolution) not in _CONVOLUTIONS or type(norm) not in _BATCH_NORMS:
        return False
    own = "forward" in convolution.__dict__ or "forward" in norm.__dict__ or has_hooks(convolution) or has_hooks(norm)
    return not own and convolution.padding_mode == "zeros" and norm.running_mean is not None


@final
class _Pair:
    """A convolution and the batch norm behind it, and the two functions that replace their `forward`."""

    def __init__(self, convolution: Any, norm: Any) -> None:
        self.convolution, self.norm = convolution, norm
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None

    def convolve(self, x: Tensor) -> Tensor:
        """Returns the output of the batch norm."""
        layer = self.convolution
        if self.weight is None or self.norm.training:
            return _own(layer, x)
        convolve = _CONVOLUTIONS[type(layer)]
        return convolve(x, self.weight, self.bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    def normalise(self, x: Tensor) -> Tensor:
        """Returns x, as `convolve` has done the work."""
        return _own(self.norm, x) if self.weight is None or self.norm.training else x

    def __deepcopy__(self, memo: dict[int, Any]) -> _Pair:
        # A copy of a folded network is not folded, as nobody would compute its folded weights anew.
        return _Pair(copy.deepcopy(self.convolution, memo), copy.deepcopy(self.norm, memo))


def _own(module: nn.Module, x: Tensor) -> Tensor:
    """Returns the output of a module's own class."""
    return type(module).forward(module, x)  # type: ignore[no-any-return]


def _scales_and_biases(pairs: Sequence[_Pair]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Returns the factor of the weights and the bias of each folded convolution, (channels,) each.

    The tensors of all layers are concatenated, because many operations on small tensors cost more.
    """
    norms = [pair.norm for pair in pairs]
    means, sizes = [norm.running_mean for norm in norms], [len(norm.running_mean) for norm in norms]
    variances = torch.cat(torch._foreach_add([norm.running_var for norm in norms], [norm.eps for norm in norms]))
    gains = [torch.ones_like(m) if norm.weight is None else norm.weight for norm, m in zip(norms, means, strict=True)]
    shifts = [torch.zeros_like(m) if norm.bias is None else norm.bias for norm, m in zip(norms, means, strict=True)]
    biases = [pair.convolution.bias for pair in pairs]
    biases = [torch.zeros_like(m) if bias is None else bias for bias, m in zip(biases, means, strict=True)]
    scales = torch.cat(gains) * variances.rsqrt()
    folded = torch.addcmul(torch.cat(shifts), torch.cat(biases) - torch.cat(means), scales)
    return scales.split(sizes), folded.split(sizes)
