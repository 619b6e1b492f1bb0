"""One wrapper for inputs and outputs: resizes and normalises images inside a network, and selects its logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.analysis.networks.options import channel_values
from nas.analysis.networks.outputs import AdapterError, select_output

if TYPE_CHECKING:
    from nas.analysis.networks.options import NetworkOptions


def adapted(network: nn.Module, options: NetworkOptions) -> nn.Module:
    """Returns a network with the adaptations of the options; the network itself if there are none.

    Args:
        network: Network in evaluation mode, from images (N, C, H, W) to an output that holds logits (N, K).
        options: Options of the user.
    """
    return AdaptedNetwork(network, options).eval() if options.adaptations() else network


@final
class AdaptedNetwork(nn.Module):
    """A network that takes images (N, C, H, W) with pixels in [0, 1], and returns the selected part of its output.

    Images are resized first, then normalised as (x - mean) / std. Both are differentiable, so that attacks work in the
    pixels of the data set.

    Args:
        body: Network that is adapted.
        options: Options of the user.
    """

    def __init__(self, body: nn.Module, options: NetworkOptions) -> None:
        super().__init__()
        self.output, self.side = options.output, options.resize
        self.mean: Tensor | None
        self.std: Tensor | None
        for name in ("mean", "std"):
            value = getattr(options, name)
            column = None if value is None else torch.tensor(channel_values(value), dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, column, persistent=False)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Returns the selected output for images x (N, C, H, W), usually logits (N, K).

        Raises:
            AdapterError: an option does not match the images or the output.
        """
        if self.side is not None:
            x = resized(x, self.side)
        if self.mean is not None and self.std is not None:
            x = normalised(x, self.mean, self.std)
        output = self.body(x)
        return output if self.output is None else select_output(output, self.output)


def resized(x: Tensor, side: int) -> Tensor:
    """Returns images (N, C, H, W) resized to (N, C, side, side) by bilinear interpolation.

    If the images shrink, the filter is widened against aliasing, as torchvision's Resize does.

    Raises:
        AdapterError: x is not (N, C, H, W).
    """
    if x.ndim != 4:
        raise AdapterError(f"--resize {side}: needs images (N, C, H, W), got {tuple(x.shape)}")
    shrinks = max(x.shape[2:]) > side
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False, antialias=shrinks)


def normalised(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Returns (x - mean) / std for images (N, C, H, W).

    Raises:
        AdapterError: mean or std has neither one number nor one per channel.
    """
    for name, values in (("mean", mean), ("std", std)):
        # Broadcasting would turn grey images into images with several channels.
        if values.shape[1] not in (1, x.shape[1]):
            raise AdapterError(
                f"--{name}: must be one number, or one per channel, got {values.shape[1]} numbers for images with "
                f"{x.shape[1]} channel{'s' * (x.shape[1] > 1)}"
            )
    return (x - mean) / std
