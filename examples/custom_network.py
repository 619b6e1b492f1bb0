"""A network of one's own, for `hardcell profile examples/custom_network.py:network --data digits`.

It is trained on the spot, in seconds; yours would load its weights instead.
"""

import torch
import torch.nn.functional as F
from torch import nn

from nas.data import open_data
from nas.data.config import DataConfig


def network():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # On images as small as these, more only wait for each other.
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
    """The same, but for a softmax at the end, which the checks find."""
    return nn.Sequential(network(), nn.Softmax(dim=1))
