"""Networks trained on digits, with held-out images and their labels, for the tests of attacks."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn


def trained_on_digits(make, optimise, *, train, batch, epochs, test):
    """Returns a network in evaluation mode, and the `test` images that follow the `train` images, with their labels."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = make()
        optimiser = optimise(network.parameters())
        for _ in range(epochs):
            for index in torch.randperm(train).split(batch):
                optimiser.zero_grad()
                nn.functional.cross_entropy(network(x[index]), y[index]).backward()
                optimiser.step()
    network.eval()
    x, y = x[train : train + test], y[train : train + test]
    with torch.no_grad():
        assert (network(x).argmax(1) == y).float().mean() > 0.9
    return network, x, y


@pytest.fixture(scope="session")
def trained():
    """A network with pooling, and 60 images."""
    return trained_on_digits(
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(192, 10)),
        ),
        lambda parameters: torch.optim.Adam(parameters, lr=0.01),
        train=1200,
        batch=100,
        epochs=8,
        test=60,
    )


@pytest.fixture(scope="session")
def digits():
    """A network with strides, and 80 images."""
    return trained_on_digits(
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)),
        ),
        lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        train=1000,
        batch=50,
        epochs=6,
        test=80,
    )


@pytest.fixture(scope="session")
def many_digits():
    """A network without batch norm, whose parameters need no gradient, and 200 images: for comparisons of error rates."""
    network, x, y = trained_on_digits(
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, 10)),
        ),
        lambda parameters: torch.optim.Adam(parameters, lr=5e-3),
        train=1000,
        batch=64,
        epochs=8,
        test=200,
    )
    return network.requires_grad_(False), x, y
