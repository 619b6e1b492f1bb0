"""A candidate as it is trained, attacked and exported: its architecture's network behind its normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from evaluators.engine.channels_last import suits_channels_last

if TYPE_CHECKING:
    from search_spaces import Architecture, SearchSpace


@final
class Normalised(nn.Module):
    """Normalises pixels in [0, 1] by channel, then applies a network: images (N, C, H, W) to logits (N, K)."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, mean: Tensor, std: Tensor) -> None:
        """Takes the network, and the mean and standard deviation of each channel, (C,)."""
        super().__init__()
        self.body = body
        self.register_buffer("mean", mean.clone().view(1, -1, 1, 1))
        self.register_buffer("std", std.clone().view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits."""
        return self.body((x - self.mean) / self.std)  # type: ignore[no-any-return]


def build_network(space: SearchSpace, architecture: Architecture, train: Tensor, num_classes: int, seed: int) -> Normalised:
    """Returns the network of an architecture with weights drawn from seed, normalised for images train (N, C, H, W).

    Its weights are laid out channels last where that is safe: small convolutions then train about a fifth faster on a CPU.
    """
    std, mean = torch.std_mean(train, dim=(0, 2, 3))
    channels, height, width = train.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = space.build(architecture, (channels, height, width), num_classes)
    network = Normalised(body, mean.cpu(), std.cpu().clamp(min=1e-3))
    network = network.to(train.device)
    return network.to(memory_format=torch.channels_last) if suits_channels_last(network) else network
