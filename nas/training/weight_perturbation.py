"""Adversarial weight perturbation: the gradients of the loss at weights that are moved towards a higher loss.

The training then finds flatter minima of the loss, and the error on new images is closer to that on training images.

Source: Wu, Xia and Wang, "Adversarial Weight Perturbation Helps Robust Generalization", NeurIPS 2020, arXiv:2004.05884, with
one step. As in the authors' experiments, only tensors of two or more axes are moved, not biases and gains.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn


@contextmanager
def perturbed(
    network: nn.Module, weights: Sequence[Tensor], gradients: Sequence[Tensor | None], size: float
) -> Iterator[None]:
    """Moves the weights of a network inside the context. At exit, its weights and buffers are those of before.

    Args:
        network: The network.
        weights: Its weights.
        gradients: Gradient of the loss for each weight; None for no gradient.
        size: Length of the perturbation of each tensor, as a share of the tensor's own length.
    """
    pairs = [(w, g) for w, g in zip(weights, gradients, strict=True) if g is not None and w.ndim > 1]
    moved, slopes = [w.detach() for w, _ in pairs], [g.detach() for _, g in pairs]
    # A pass in training mode changes the statistics of batch norm.
    kept = [*moved, *(buffer.detach() for buffer in network.buffers())]
    before = [tensor.clone() for tensor in kept]
    for weight, slope in zip(moved, slopes, strict=True):
        length = slope.norm()
        weight.add_(slope * torch.where(length > 0, size * weight.norm() / length, 0.0))
    try:
        yield
    finally:
        for tensor, value in zip(kept, before, strict=True):
            tensor.copy_(value)
