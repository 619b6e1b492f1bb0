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
    pairs = [(w.detach(), g.detach()) for w, g in zip(weights, gradients, strict=True) if g is not None and w.ndim > 1]
    before = [(weight, weight.clone()) for weight, _ in pairs]
    # A pass in training mode changes the statistics of batch norm, and a layer may replace its buffers.
    places = [(module._buffers, name) for module in network.modules() for name in module._buffers]
    buffers = [(*place, buffer, buffer.clone()) for place in places if (buffer := place[0][place[1]]) is not None]
    try:
        for weight, slope in pairs:
            length = slope.norm()
            weight.add_(slope * torch.where(length > 0, size * weight.norm() / length, 0.0))
        yield
    finally:
        with torch.no_grad():
            for weight, value in before:
                weight.copy_(value)
            for tensors, name, buffer, value in buffers:
                tensors[name] = buffer.copy_(value)
