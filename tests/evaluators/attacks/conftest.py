import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def trained():
    """A small network trained on scikit-learn's digits, and held-out images."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.from_numpy(digits.images).float().div(16)[:, None]
    y = torch.from_numpy(digits.target).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(192, 10)
        )
        optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(8):
            for index in torch.randperm(1200).split(100):
                optimiser.zero_grad()
                nn.functional.cross_entropy(network(x[index]), y[index]).backward()
                optimiser.step()
    return network.eval(), x[1200:1260], y[1200:1260]
