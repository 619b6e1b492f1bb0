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
CONVOLUTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
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
        """Selects the layers to fold again, because the network may have changed.

        Layers with hooks are not folded, because the hooks would see other values. No layer is folded if the logits of the
        folded network differ on the first images.

        Args:
            x: Images to compare the logits on, (N, ...).
        """
        self._pairs = [pair for pair in self._candidates if pair.is_plain()]
        if self._pairs and not agree(self._network, self._folded, x[:PROBES]):
            self._pairs = []

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Folds the layers inside the context. There, the gradient of the logits does not reach their weights.

        A layer that gets hooks or other weights inside the context is not folded in later passes. A folded convolution that
        is called without its batch norm returns the output of the batch norm.
        """
        pairs = self._pairs
        if any("forward" in pair.convolution.__dict__ for pair in pairs):  # A context around this one has folded them.
            yield
            return
        try:
            self._refresh()
            for pair in pairs:
                pair.convolution.__dict__["forward"], pair.norm.__dict__["forward"] = pair.convolve, pair.normalise
            yield
        finally:
            for pair in pairs:
                for layer in (pair.convolution, pair.norm):
                    layer.__dict__.pop("forward", None)
                pair.unfold()

    def _folded(self, x: Tensor) -> Tensor:
        with self.applied():
            return self._network(x)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _refresh(self) -> None:
        if not self._pairs:
            return
        for pair, scale, bias in zip(self._pairs, *_scales_and_biases(self._pairs), strict=True):
            weight = pair.convolution.weight
            pair.fold(weight * scale.view(-1, *[1] * (weight.ndim - 1)), bias)


def folded_weights(network: nn.Module) -> list[Tensor]:
    """Returns the folded weights of a network; none outside of `Folding.applied`."""
    convolutions = (module for module in network.modules() if type(module) in CONVOLUTIONS)
    pairs = (getattr(module.__dict__.get("forward"), "__self__", None) for module in convolutions)
    return [pair.weight for pair in pairs if isinstance(pair, _Pair) and pair.weight is not None]


def agree(network: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], probes: Tensor) -> bool:
    """Returns whether the logits of two networks differ by at most TOLERANCE times the largest logit.

    They are compared for a batch of images and for a single image.
    """
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
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(hooks)


def _find_pairs(network: nn.Module) -> list[_Pair]:
    """Returns each convolution with the batch norm behind it. Both are used only once. Returns [] if tracing fails."""
    modules = dict(network.named_modules())
    if not any(type(module) in CONVOLUTIONS for module in modules.values()):
        return []
    try:
        # Traces a copy: a network that stores values of a pass would store the tracer's objects.
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
        if len(before.users) > 1 or any(name not in modules or calls.count(name) > 1 for name in names):
            continue
        convolution, norm = (modules[name] for name in names)
        if type(convolution) in CONVOLUTIONS and type(norm) in _BATCH_NORMS:  # Subclasses may have another `forward`.
            pairs.append(_Pair(convolution, norm))
    return pairs


@final
class _Pair:
    """A convolution and the batch norm behind it, and the two functions that replace their `forward`."""

    def __init__(self, convolution: Any, norm: Any) -> None:
        self.convolution, self.norm = convolution, norm
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self._sources: tuple[Any, ...] = ()
        self._normalised = False
        self._types = type(convolution), type(norm)
        self._convolve: Callable[..., Any] = CONVOLUTIONS[type(convolution)]

    def is_plain(self) -> bool:
        """Returns whether the layers have zero padding and running statistics, and no hooks or own `forward`."""
        convolution, norm = self.convolution, self.norm
        if any("forward" in layer.__dict__ or has_hooks(layer) for layer in (convolution, norm)):
            return False
        # The class changes with a parametrisation such as weight norm. Tensors of inference mode have no versions.
        return (
            (type(convolution), type(norm)) == self._types
            and convolution.padding_mode == "zeros"
            and norm.running_mean is not None
            and not convolution.weight.is_inference()
        )

    def fold(self, weight: Tensor, bias: Tensor) -> None:
        """Sets the folded weights."""
        self.weight, self.bias, self._sources = weight, bias, self._versions()

    def unfold(self) -> None:
        """Drops the folded weights."""
        self.weight, self.bias, self._sources, self._normalised = None, None, (), False

    def convolve(self, x: Tensor) -> Tensor:
        """Returns the output of the batch norm, or that of the convolution if the layers are not folded or have changed."""
        layer, weight, bias = self.convolution, self.weight, self.bias
        changed = self.norm.training or has_hooks(layer) or has_hooks(self.norm) or self._versions() != self._sources
        if weight is None or changed:
            self._normalised = False
            return _forward_of_class(layer, x)
        self._normalised = True
        return self._convolve(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)  # type: ignore[no-any-return]

    def normalise(self, x: Tensor) -> Tensor:
        """Returns x if `convolve` has done the work of the batch norm, else the output of the batch norm."""
        normalised, self._normalised = self._normalised, False
        return x if normalised else _forward_of_class(self.norm, x)

    def _versions(self) -> tuple[Any, ...]:
        """Returns the tensors of the layers that enter the folded weights, as identities and versions."""
        places = [(layer._parameters, name) for layer in (self.convolution, self.norm) for name in ("weight", "bias")]
        places += [(self.norm._buffers, "running_mean"), (self.norm._buffers, "running_var")]
        tensors = [tensors[name] for tensors, name in places if tensors[name] is not None]
        return (*map(id, tensors), *[tensor._version for tensor in tensors])

    def __deepcopy__(self, memo: dict[int, Any]) -> _Pair:
        # A copy of a folded network is not folded, because nothing updates its folded weights.
        return _Pair(copy.deepcopy(self.convolution, memo), copy.deepcopy(self.norm, memo))


def _forward_of_class(module: nn.Module, x: Tensor) -> Tensor:
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
