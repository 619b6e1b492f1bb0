"""Networks that must not use the channels-last memory format."""

import subprocess
import sys

import pytest
from torch import nn

from evaluators.engine.channels_last import suits_channels_last


@pytest.mark.parametrize(
    ("layer", "suits"),
    [
        (nn.Conv2d(4, 8, 1, stride=2), False),
        (nn.Conv2d(16, 8, 1, stride=2, groups=4), False),
        (nn.Conv2d(8, 16, 1, stride=2), True),
        (nn.Conv2d(4, 8, 1), True),
        (nn.Conv2d(4, 8, 3, stride=2), True),
        (nn.Linear(4, 8), True),
    ],
)
def test_strided_pointwise_convolutions_of_few_channels_do_not_suit(layer, suits):
    assert suits_channels_last(nn.Sequential(nn.ReLU(), layer)) is suits


def test_a_residual_network_of_few_channels_trains():
    """The network runs in a separate process, because a failure would abort the process of the tests."""
    code = """
import torch
from nas.training.network import build_network
from search_spaces import macro
from search_spaces.spaces.macro import plain_architectures

torch.set_num_threads(1)
x = torch.rand(16, 1, 8, 8)
network = build_network(macro(stages=2), next(iter(plain_architectures(2))), x, 10, seed=0)
for _ in range(60):
    network(x).square().mean().backward()
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
