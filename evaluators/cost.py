"""Costs of a network that need no training: parameters, multiply-accumulates and latency."""

from __future__ import annotations

import math
import statistics
import time
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from evaluators.engine.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn
    from torch._ops import OpOverload


def parameters(network: nn.Module) -> int:
    """Returns the number of parameters of a network, frozen ones included.

    Example:
        >>> from torch import nn
        >>> from evaluators import parameters
        >>> parameters(nn.Conv2d(3, 16, 3))
        448
    """
    return sum(parameter.numel() for parameter in network.parameters())


def macs(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Returns the number of multiply-accumulates (MACs) of one image in evaluation mode.

    The operations are counted as in the tables of NAS-Bench-201:

    - One per product of a convolution or a matrix multiplication.
    - One per pixel of a pooling window.
    - Two per value of a normalisation (scale and shift).
    - One per value of an activation.
    - None for additions, copies and changes of shape.

    Args:
        network: Maps images (1, C, H, W) to logits.
        input_shape: Shape of one image, (C, H, W).

    Example:
        >>> from torch import nn
        >>> from evaluators import macs
        >>> macs(nn.Conv2d(3, 16, 3, padding=1), (3, 32, 32))  # 16 * 3 * 3 * 3 * 32 * 32
        442368
    """
    weights, counter = _weights(network), _Counter()
    with frozen(network), torch.no_grad(), counter:
        network(torch.zeros(1, *input_shape, device=weights.device, dtype=weights.dtype))
    return counter.operations // 2


def latency(
    network: nn.Module, input_shape: tuple[int, ...], *, batch_size: int = 1, repeats: int = 20, warm_up: int = 3
) -> float:
    """Returns the median time of a forward pass of one batch, in seconds.

    The time is measured on the network's device, in evaluation mode, without gradients, on random images. It depends on
    the machine and on its load.

    Args:
        network: Maps images (N, C, H, W) to logits.
        input_shape: Shape of one image, (C, H, W).
        batch_size: Number of images in the batch, N.
        repeats: Number of measured passes.
        warm_up: Number of passes before the measured ones. These first passes are slower, because they set up caches.

    Raises:
        ValueError: batch_size or repeats is below 1.
    """
    if batch_size < 1 or repeats < 1:
        raise ValueError(f"batch_size and repeats must be at least 1, got {batch_size} and {repeats}")
    x = torch.rand(batch_size, *input_shape).to(_weights(network))
    seconds = []
    with frozen(network), torch.inference_mode():
        for _ in range(warm_up + repeats):
            # GPU kernels run asynchronously: earlier kernels must not count, and the pass must be complete.
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            start = time.perf_counter()
            network(x)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[warm_up:])


def _weights(network: nn.Module) -> Tensor:
    """Returns one floating-point parameter of a network, for its device and dtype; an empty tensor if there is none."""
    return next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(0))


@final
class _Counter(TorchDispatchMode):
    """Counts the operations of the functions in `_FORMULAS` and of convolutions, two per multiply-accumulate.

    Convolutions, except transposed ones, are not computed: only the shapes are needed, and the outputs are zeros. torch's
    own FlopCounterMode takes ten times as long for a network of many small layers.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: int = 0

    def __torch_dispatch__(
        self, func: OpOverload[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _ATEN.convolution.default and not args[6]:
            x, weight, _, stride, padding, dilation = args[:6]
            sides = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
            shape = [(side + 2 * p - d * (kernel - 1) - 1) // s + 1 for side, kernel, s, p, d in sides]
            result = x.new_zeros(x.shape[0], weight.shape[0], *shape)
            self.operations += 2 * result.numel() * weight[0].numel()
            return result
        result = func(*args, **(kwargs or {}))
        formula = _FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **(kwargs or {}), out_val=result)
        return result


def _per_value(macs_: int) -> Callable[..., int]:
    """Returns the formula of functions with `macs_` multiply-accumulates per value."""
    return lambda x, *_, **__: 2 * macs_ * x.numel()


def _pool(x: Tensor, kernel: Sequence[int], *_: Any, out_val: Tensor | tuple[Tensor, ...], **__: Any) -> int:
    """Returns the operations of pooling: one multiply-accumulate per pixel of each window."""
    values = out_val if isinstance(out_val, Tensor) else out_val[0]
    windows = [*kernel] if len(kernel) > 1 else [*kernel] * (x.ndim - 2)
    return 2 * values.numel() * math.prod(windows)


_ATEN = torch.ops.aten
_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    **dict.fromkeys((_ATEN.avg_pool2d, _ATEN.max_pool2d_with_indices), _pool),
    # Global and adaptive pooling: each pixel is in one window, if the output size divides the input size.
    **dict.fromkeys((_ATEN.mean, _ATEN._adaptive_avg_pool2d), _per_value(1)),
    **dict.fromkeys(
        (
            _ATEN.native_batch_norm,
            _ATEN._native_batch_norm_legit_no_training,
            _ATEN.cudnn_batch_norm,
            _ATEN._batch_norm_no_update,
            _ATEN.native_layer_norm,
            _ATEN.native_group_norm,
        ),
        _per_value(2),
    ),
    **dict.fromkeys(
        (
            *(_ATEN.relu, _ATEN.relu_, _ATEN.leaky_relu, _ATEN.leaky_relu_, _ATEN.elu, _ATEN.elu_, _ATEN.hardtanh),
            *(_ATEN.hardtanh_, _ATEN.gelu, _ATEN.gelu_, _ATEN.silu, _ATEN.silu_, _ATEN.softplus, _ATEN.sigmoid),
            *(_ATEN.sigmoid_, _ATEN.tanh, _ATEN.tanh_, _ATEN.mish, _ATEN.hardswish, _ATEN.hardswish_, _ATEN.hardsigmoid),
        ),
        _per_value(1),
    ),
}
