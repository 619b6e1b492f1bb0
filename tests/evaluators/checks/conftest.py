"""Networks trained on digits, test images, and functions as parts of networks, for the tests of checks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from evaluators import PGD


def trained(epsilon, seed):
    """Returns a small network trained on half of the digits, with FGSM adversarial training if epsilon is not 0."""
    x, y = digits(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            *(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()),
            *(nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(384, 10)),
        )
        optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        for _ in range(8):
            for batch in torch.randperm(len(x)).split(64):
                points = x[batch]
                if epsilon:
                    points = PGD(steps=1, step_size=1.25)(network, points, y[batch], epsilon)
                optimiser.zero_grad()
                F.cross_entropy(network(points), y[batch]).backward()
                optimiser.step()
    return network.eval()


def digits(half):
    dataset = load_digits()
    order = np.random.default_rng(0).permutation(len(dataset.target))[half::2]
    return torch.tensor(dataset.images[order] / 16, dtype=torch.float32)[:, None], torch.tensor(dataset.target[order])


@pytest.fixture(scope="session")
def networks():
    """Two networks trained on the digits, without and with adversarial training."""
    return {"usual": trained(0, 0), "adversarial": trained(0.1, 1)}


@pytest.fixture(scope="session")
def tested():
    x, y = digits(1)
    return x[:450], y[:450]


class Function(nn.Module):
    """A layer that applies a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.fixture
def function_layer():
    return Function


@pytest.fixture
def before():
    """Applies a function to the images of a network."""
    return lambda function, network: nn.Sequential(Function(function), network).eval()


@pytest.fixture
def after():
    """Applies a function to the logits of a network."""
    return lambda network, function: nn.Sequential(network, Function(function)).eval()
