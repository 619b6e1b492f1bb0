"""A custom network for `hardcell profile examples/custom_network.py:network --data digits`.

This example trains the network in a few seconds. Your function can load weights from a file instead.
"""

import torch
import torch.nn.functional as F
from torch import nn

from nas.data import open_data
from nas.data.config import DataConfig


def network():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # More threads do not help on 8x8 images.
    train = open_data(DataConfig(name="digits")).train
    layers = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    optimiser = torch.optim.Adam(layers.parameters(), lr=3e-3)
    for _ in range(15):
        for batch in torch.randperm(len(train.x)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(layers(train.x[batch]), train.y[batch]).backward()
            optimiser.step()
    return layers


def with_softmax():
    """Returns the same network with a softmax at the end, a mistake that the checks detect."""
    return nn.Sequential(network(), nn.Softmax(dim=1))
