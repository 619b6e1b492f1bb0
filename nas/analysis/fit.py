"""Checks that a network is compatible with images and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evaluators.engine.frozen import frozen
from evaluators.engine.input_checks import check_logits
from nas.analysis.networks.outputs import AdapterError, describe_output, likely_output
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
        logits = _logits(source, network, test.x[:1], f"cannot take {images}")
        _logits(source, network, test.x[:3], f"takes only one image; it must take (N, {channels}, {height}, {width})")
    if not isinstance(logits, torch.Tensor):
        likely = likely_output(logits)
        wrap = "wrap it in a module that returns the logits alone"
        remedy = f"choose the part with the logits, such as --output {likely} (output={likely!r})" if likely else wrap
        raise NetworkError(f"{source}: must return logits, a tensor (N, K), got {describe_output(logits)}; {remedy}")
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


def _logits(source: str, network: nn.Module, x: Tensor, message: str) -> object:
    try:
        with torch.no_grad():
            logits: object = network(x.clone())  # A first layer may work in place.
    except AdapterError as error:
        raise NetworkError(f"{source}: {error}") from error
    except Exception as error:  # The type of the error depends on the network's layers.
        graph = any(isinstance(module, torch.fx.GraphModule) for module in network.modules())
        remedy = "; if it was exported with a fixed batch size, export it with dynamic_shapes and torch.export.Dim('batch')"
        raise NetworkError(f"{source}: {message}: {first_line(error)}{remedy if graph else ''}") from error
    return logits
