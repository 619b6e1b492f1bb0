"""Input checks of all evaluators, run once in the public functions."""

from __future__ import annotations

import math
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.parameter import is_lazy

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor


def check_module(network: nn.Module) -> None:
    """Checks that a network is an nn.Module with initialised layers, and that torch's inference mode is off.

    Raises:
        TypeError: network is not an nn.Module.
        ValueError: torch's inference mode is on, or the network has a lazy layer that is not initialised.
    """
    if not isinstance(network, nn.Module):
        got = "a class; create an instance" if isinstance(network, type) else f"{type(network).__name__}; wrap it in one"
        raise TypeError(f"network must be an nn.Module, got {got}")
    if torch.is_inference_mode_enabled():
        raise ValueError("attacks need gradients, which torch.inference_mode() disables; use torch.no_grad() instead")
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(f"the lazy layer of {name} is not initialised; call the network on a batch of images first")


def as_grid(epsilons: Iterable[float]) -> list[float]:
    """Returns epsilons as a list of floats.

    Raises:
        TypeError: epsilons is not a sequence of numbers.
    """
    if isinstance(epsilons, int | float) or (isinstance(epsilons, torch.Tensor) and epsilons.ndim == 0):
        raise TypeError(f"epsilons must be a list, got one number; write [{float(epsilons):g}]")
    return [float(epsilon) for epsilon in epsilons]


def check_images(x: Tensor) -> None:
    """Checks that x holds images (N, ...), floating point, finite, with pixels in [0, 1].

    Raises:
        TypeError: x is not a floating-point tensor.
        ValueError: x is empty, does not have the shape (N, ...), is not finite, has pixels outside [0, 1], or was created
            in torch's inference mode.
    """
    if not isinstance(x, torch.Tensor):
        remedy = "; use torch.from_numpy(x)" if type(x).__name__ == "ndarray" else ""
        raise TypeError(f"x must be a tensor of images, got {type(x).__name__}{remedy}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point with pixels in [0, 1], got {x.dtype}; divide uint8 images by 255")
    if x.is_inference():
        raise ValueError("x was created in torch.inference_mode() and cannot have gradients; use x.clone() outside of it")
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"x must hold at least one image, with shape (N, ...), got shape {tuple(x.shape)}")
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("x must be finite, got NaN or infinite pixels")
    if low < 0 or high > 1:
        remedy = "divide images of 0 to 255 by 255" if low >= 0 and high > 2 else "put normalisation inside the network"
        raise ValueError(f"x must have pixels in [0, 1], got [{low:.3g}, {high:.3g}]; {remedy}")


def check_format(network: nn.Module, x: Tensor, *, convertible: bool = True) -> None:
    """Checks, for a network that fails on images x, that at least one of its parameters has the dtype of the images.

    Args:
        network: The network.
        x: The images, (N, ...).
        convertible: Whether the caller can convert the images, and not only the network, as a remedy.

    Raises:
        ValueError: the network has floating-point parameters, but none with the dtype of the images.
    """
    formats = sorted({str(p.dtype) for p in network.parameters() if p.is_floating_point()})
    if formats and str(x.dtype) not in formats:
        remedy = f"x.to({formats[0]}), or " if convertible else ""
        raise ValueError(
            f"the network's parameters are {', '.join(formats)}, but the images x are {x.dtype}; use "
            f"{remedy}network.to({x.dtype})"
        )


def check_labels(y: Tensor, n: int, classes: int | None = None) -> None:
    """Checks that y holds n class indices, (n,) int64, below `classes` if that is given.

    Raises:
        TypeError: y is not a tensor of int64.
        ValueError: y does not have the shape (n,), or a label is out of range.
    """
    if not isinstance(y, torch.Tensor):
        raise TypeError(f"y must be an int64 tensor of class indices, got {type(y).__name__}; use torch.as_tensor(y)")
    if y.dtype != torch.int64:
        remedy = "y.argmax(1) for one-hot rows" if y.ndim == 2 else "y.long()"
        raise TypeError(f"y must be an int64 tensor of class indices, got {y.dtype}; use {remedy}")
    if y.shape != (n,):
        remedy = "; pass class indices, not one-hot rows: y.argmax(1)" if y.ndim == 2 else ""
        raise ValueError(f"y must have shape ({n},) to match x, got {tuple(y.shape)}{remedy}")
    low, high = int(y.min()), int(y.max())
    if low < 0 or (classes is not None and high >= classes):
        top = " upwards" if classes is None else f" to {classes - 1}, the index of the network's last logit"
        raise ValueError(f"y must hold labels from 0{top}, got labels from {low} to {high}")


def check_epsilons(epsilons: Sequence[float], largest: float) -> None:
    """Checks that epsilons are finite, not negative, strictly increasing and at most `largest`.

    Raises:
        ValueError: an epsilon is out of range, or epsilons are not strictly increasing.
    """
    check_increasing(epsilons)
    for epsilon in epsilons:
        if not (math.isfinite(epsilon) and 0 <= epsilon <= largest * (1 + 1e-6)):
            raise ValueError(
                f"epsilon must be between 0 and {largest:.4g}, the size of the pixel range in this norm, got {epsilon:g}; "
                "pixels are in [0, 1], so write 8/255 rather than 8"
            )


def check_increasing(epsilons: Sequence[float]) -> None:
    """Checks that there is at least one epsilon and that epsilons are strictly increasing.

    Raises:
        ValueError: epsilons is empty or not strictly increasing.
    """
    if len(epsilons) == 0:
        raise ValueError("epsilons must hold at least one value")
    if any(b <= a for a, b in pairwise(epsilons)):
        raise ValueError(f"epsilons must be strictly increasing, got {list(epsilons)}")


def check_logits(logits: Tensor, n: int) -> None:
    """Checks that a network's output holds finite logits, (n, K) with K >= 2.

    Raises:
        TypeError: logits is not a floating-point tensor.
        ValueError: logits does not have the shape (n, K) with K >= 2, or is not finite.
    """
    if not isinstance(logits, torch.Tensor):
        raise TypeError(
            f"the network must return a tensor of logits, got {type(logits).__name__}; wrap it to return only the logits"
        )
    if logits.ndim != 2 or logits.shape[0] != n or logits.shape[1] < 2:
        one = logits.shape in ((n,), (n, 1))
        remedy = "; for two classes return two logits, such as torch.cat([-z, z], 1)" if one else ""
        raise ValueError(f"the network must return logits of shape ({n}, K) with K >= 2, got {tuple(logits.shape)}{remedy}")
    if not logits.is_floating_point():
        raise TypeError(
            f"the network must return floating-point logits, got {logits.dtype}; return the scores before argmax"
        )
    if not bool(torch.isfinite(logits).all()):
        value = "NaN" if bool(torch.isnan(logits).any()) else "infinity"
        raise ValueError(f"the network must return finite logits, got {value}; did its training diverge?")
