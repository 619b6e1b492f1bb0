"""Bound propagation rules of layers and operations, in one table each.

The rules need upper bounds on operator norms. Power iteration gives lower bounds and is not valid here. The L2 operator norm
of a zero-padded convolution has two upper bounds, and the smaller one is used:

- The norm of the circular convolution on the padded image. The outputs of the circular convolution include all outputs of
  the zero-padded one, so its norm is at least as large. This norm is the maximum over all frequencies of the norm of a small
  matrix.
- The square root of the largest row sum times the largest column sum of the absolute values of the convolution's matrix.

To add a layer, write a function with the arguments of `LayerRule` and add a line to `LAYERS`.

Source: Sedghi, Gupta and Long, "The Singular Values of Convolutional Layers", ICLR 2019, arXiv:1805.10408, for circular
convolutions. The extension to zero padding and strides is ours: such a convolution has a subset of the circular outputs.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.bounds.rules import (
    ABOVE,
    Balls,
    Bound,
    NoRuleError,
    added,
    affine,
    averaging,
    concatenated,
    rising,
    scaled,
    shifted,
    sums,
)

# Arguments: the layer, the bound on its input, the balls around the images, and the name of the layer's node in the trace.
LayerRule = Callable[[Any, Bound, Balls, str], Bound]
TraceTarget = Callable[..., Any] | str

# Largest size of a kernel's Fourier transform: output channels times input channels times grid points. A larger transform is
# not computed, and only the second of the two bounds above is used.
_MOST_FREQUENCIES = 1 << 24


def linear(layer: nn.Linear, bound: Bound, balls: Balls, step: str) -> Bound:
    """Returns the bound on the output of a linear layer, with the exact operator norm."""
    weight = layer.weight

    def gain() -> float:
        return ABOVE * float(torch.linalg.matrix_norm(weight, ord=2 if balls.euclidean else math.inf))

    return affine(layer, lambda v: F.linear(v, weight.abs()), weight.norm(dim=1), gain, bound, balls, step)


def conv(layer: nn.Conv2d, bound: Bound, balls: Balls, step: str) -> Bound:
    """Returns the bound on the output of a convolution.

    Raises:
        NoRuleError: the layer does not pad with zeros.
    """
    if layer.padding_mode != "zeros":
        raise NoRuleError(f"there is no rule for Conv2d with padding_mode {layer.padding_mode!r}")
    weight = layer.weight

    def absolute(value: Tensor) -> Tensor:
        return F.conv2d(value, weight.abs(), None, layer.stride, layer.padding, layer.dilation, layer.groups)

    def gain() -> float:
        probe = torch.ones_like(bound.centre[:1])
        rows, columns = sums(absolute, probe)
        operator_norm = min(math.sqrt(rows * columns), circular_norm(layer, probe.shape[2:])) if balls.euclidean else rows
        return ABOVE * operator_norm

    rows = weight.flatten(1).norm(dim=1).view(-1, 1, 1)
    return affine(layer, absolute, rows, gain, bound, balls, step)


def circular_norm(layer: nn.Conv2d, size: torch.Size | tuple[int, int]) -> float:
    """Returns an upper bound on the L2 operator norm of a zero-padded convolution of images of size (H, W).

    The bound is almost exact for stride 1 and images much larger than the kernel. It is infinite if the computation would
    need too much memory.
    """
    kernel = layer.weight
    spans = [dilation * (k - 1) + 1 for dilation, k in zip(layer.dilation, kernel.shape[2:], strict=True)]
    pads = [span - 1 if isinstance(layer.padding, str) else 2 * int(layer.padding[n]) for n, span in enumerate(spans)]
    grid = [max(span, pixels + pad) for span, pixels, pad in zip(spans, size, pads, strict=True)]
    if kernel.shape[0] * kernel.shape[1] * math.prod(grid) > _MOST_FREQUENCIES:
        return math.inf
    spread = kernel.new_zeros(*kernel.shape[:2], *spans)
    spread[:, :, :: layer.dilation[0], :: layer.dilation[1]] = kernel
    # Each group is a separate convolution, and the norm of the layer is the largest norm of a group.
    frequencies = torch.fft.rfft2(spread, s=grid).unflatten(0, (layer.groups, -1))
    return float(torch.linalg.matrix_norm(frequencies.permute(0, 3, 4, 1, 2), ord=2).max())


def batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, bound: Bound, balls: Balls, step: str) -> Bound:
    """Returns the bound on the output of batch norm in evaluation mode, an affine map of each channel.

    Raises:
        NoRuleError: the layer has no running statistics.
    """
    if layer.running_mean is None or layer.running_var is None:
        raise NoRuleError(f"there is no rule for {type(layer).__name__} without running statistics")
    shape = (-1, *[1] * (bound.centre.ndim - 2))
    scale = (layer.running_var + layer.eps).rsqrt()
    scale = (scale if layer.weight is None else scale * layer.weight).view(shape)
    return affine(
        layer, lambda v: v * scale.abs(), scale.abs(), lambda: ABOVE * float(scale.abs().max()), bound, balls, step
    )


def max_pool(layer: nn.MaxPool2d, bound: Bound, balls: Balls, step: str) -> Bound:
    """Returns the bound on the output of max pooling.

    For L2 balls, the Lipschitz constant is multiplied by the square root of the number of windows that can contain a pixel.

    Raises:
        NoRuleError: the layer returns indices.
    """
    if layer.return_indices:
        raise NoRuleError("there is no rule for MaxPool2d with return_indices")
    sides = (layer.kernel_size, layer.stride, layer.dilation)
    kernel, stride, dilation = (side if isinstance(side, tuple) else (side, side) for side in sides)
    # With dilation, windows are counted for stride 1. A larger stride cannot put a pixel into more windows.
    steps = [s if d == 1 else 1 for s, d in zip(stride, dilation, strict=True)]
    windows = math.prod(math.ceil(k / s) for k, s in zip(kernel, steps, strict=True))
    maximum = rising(layer, bound)
    return Bound(
        maximum.centre, maximum.lower, maximum.upper, bound.reach * (math.sqrt(windows) if balls.euclidean else 1.0)
    )


def _leaky(layer: nn.LeakyReLU, bound: Bound, balls: Balls, step: str) -> Bound:
    if not 0 <= layer.negative_slope <= 1:
        raise NoRuleError(f"there is no rule for LeakyReLU with a negative_slope of {layer.negative_slope}")
    return rising(layer, bound)


# Looked up by exact type, because a subclass may compute something else.
LAYERS: dict[type[nn.Module], LayerRule] = {
    nn.Linear: linear,
    nn.Conv2d: conv,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.MaxPool2d: max_pool,
    nn.LeakyReLU: _leaky,
    **dict.fromkeys([nn.ReLU, nn.ReLU6, nn.Tanh, nn.Sigmoid], lambda layer, bound, balls, step: rising(layer, bound)),
    **dict.fromkeys(
        [nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.ZeroPad2d], averaging
    ),
}
RISING: set[TraceTarget] = {torch.relu, F.relu, F.relu6, torch.tanh, torch.sigmoid, "relu", "relu_", "tanh", "sigmoid"}
AVERAGING: set[TraceTarget] = {
    *(torch.flatten, torch.mean, torch.sum, torch.reshape, torch.permute, torch.squeeze, torch.unsqueeze),
    *(torch.zeros_like, F.avg_pool2d, F.adaptive_avg_pool2d, F.pad, operator.getitem),
    *("flatten", "mean", "sum", "reshape", "view", "permute", "squeeze", "unsqueeze", "contiguous"),
}
# Operations that may return a view of their input.
VIEWS: set[TraceTarget] = {
    *(torch.flatten, torch.reshape, torch.permute, torch.squeeze, torch.unsqueeze, operator.getitem),
    *("flatten", "reshape", "view", "permute", "squeeze", "unsqueeze", "contiguous"),
}
NEGATION: set[TraceTarget] = {operator.neg, torch.neg, torch.negative, "neg", "negative"}
SIGNS = {"+": 1, "-": -1}
ARITHMETIC: dict[TraceTarget, str] = {
    **dict.fromkeys([operator.add, torch.add, "add", operator.iadd, "add_"], "+"),
    **dict.fromkeys([operator.sub, torch.sub, "sub", operator.isub, "sub_"], "-"),
    **dict.fromkeys([operator.mul, torch.mul, "mul", operator.imul, "mul_"], "*"),
    **dict.fromkeys([operator.truediv, torch.div, "div", operator.itruediv, "div_"], "/"),
}


def operation(target: TraceTarget, args: tuple[Any, ...], kwargs: dict[str, Any], balls: Balls, step: str) -> Bound:
    """Returns the bound on the result of a function or method with at least one bound among its arguments.

    Args:
        target: Function, or name of the method.
        args: Positional arguments, with bounds in place of tensors that depend on the image.
        kwargs: Keyword arguments.
        balls: Balls around the images.
        step: Name of the operation's node in the traced network, for the cache of operator norms and for messages.

    Raises:
        NoRuleError: the operation has no rule for these arguments.
    """
    kwargs = {name: value for name, value in kwargs.items() if name != "inplace"}
    if not args:
        pass
    elif target is torch.cat:
        parts, dim = args[0], kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
        if all(isinstance(part, Bound) for part in parts):
            return concatenated(list(parts), dim, balls)
    elif isinstance(args[0], Bound) and not any(isinstance(value, Bound) for value in args[1:]):
        if target is F.dropout and kwargs.get("training") is False:
            return args[0]
        if target in NEGATION:
            return scaled(args[0], -1.0, balls, step)
        if target in RISING and len(args) == 1:
            return rising(_callable(target), args[0])
        if target in AVERAGING:
            return averaging(lambda value: _callable(target)(value, *args[1:], **kwargs), args[0], balls, step)
    if len(args) == 2 and not kwargs and target in ARITHMETIC:
        result = _arithmetic(ARITHMETIC[target], args[0], args[1], balls, step)
        if result is not None:
            return result
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    raise NoRuleError(f"there is no rule for the operation {name} with these arguments")


def _callable(target: TraceTarget) -> Callable[..., Tensor]:
    target = "relu" if target == "relu_" else target
    return getattr(Tensor, target) if isinstance(target, str) else target


def _arithmetic(sign: str, first: Any, second: Any, balls: Balls, step: str) -> Bound | None:
    """Returns the bound on a sum, difference, product or quotient of bounds and constants; None if there is no rule."""
    if isinstance(first, Bound) and isinstance(second, Bound):
        return added(first, second, SIGNS[sign]) if sign in SIGNS else None
    if isinstance(first, Bound):
        if sign in SIGNS:
            return shifted(first, second, SIGNS[sign])
        return scaled(first, second if sign == "*" else 1 / torch.as_tensor(second, dtype=torch.float64), balls, step)
    if sign == "-":
        return shifted(scaled(second, -1.0, balls, step), first)
    return shifted(second, first) if sign == "+" else scaled(second, first, balls, step) if sign == "*" else None
