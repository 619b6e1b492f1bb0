"""Checks that a network is compatible with images and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evaluators.engine.frozen import frozen
from evaluators.engine.input_checks import check_logits
from nas.errors import NetworkError, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nas.data import Split


def check_compatible(source: str, network: nn.Module, test: Split, data: str) -> None:
    """Checks that a network accepts the images and has a logit for each label.

    Args:
        source: Name of the network, for messages.
        network: Network on the device of the images.
        test: Images (N, C, H, W) and labels (N,).
        data: Name of the data, for messages.

    Raises:
        NetworkError: the network fails on the images, accepts only one image, does not return logits (N, K), or has fewer
            logits than the labels need.
    """
    channels, height, width = test.x.shape[1:]
    images = f"the images of {data}, {channels} x {height} x {width} (channels, height, width)"
    with frozen(network):
        logits = _logits(network, test.x[:1], f"{source}: cannot take {images}")
        _logits(network, test.x[:3], f"{source}: takes only one image; it must take (N, {channels}, {height}, {width})")
    if not isinstance(logits, torch.Tensor):
        raise NetworkError(
            f"{source}: must return logits, a tensor (N, K), got {type(logits).__name__}; wrap it in a module that returns "
            "the logits alone"
        )
    try:
        check_logits(logits, 1)
    except (TypeError, ValueError) as error:
        raise NetworkError(f"{source}: {error}") from error
    classes, largest = logits.shape[1], int(test.y.max())
    if largest >= classes:
        raise NetworkError(
            f"{source}: has {classes} logits, but the labels of {data} are 0 to {largest}; use the data that the network "
            "was made for"
        )


def _logits(network: nn.Module, x: Tensor, message: str) -> object:
    try:
        with torch.no_grad():
            logits: object = network(x.clone())  # A first layer may work in place.
    except Exception as error:  # The type of the error depends on the network's layers.
        graph = isinstance(network, torch.fx.GraphModule)
        remedy = "; if it was exported with a fixed batch size, export it with dynamic_shapes and torch.export.Dim('batch')"
        raise NetworkError(f"{message}: {first_line(error)}{remedy if graph else ''}") from error
    return logits
