import pytest
import torch
from torch import nn

from evaluators import macs, parameters


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 10),
    )


def test_parameters_by_hand():
    convolutions = (3 * 9 + 1) * 8 + 8 * 9 * 16 + (9 + 1) * 16
    assert parameters(network()) == convolutions + 2 * 8 + 256 * 10 + 10


def test_parameters_that_are_frozen_count():
    assert parameters(network().requires_grad_(False)) == parameters(network())


def test_macs_by_hand():
    first, second, depthwise = 8 * 8 * 8 * 27, 4 * 4 * 16 * 72, 4 * 4 * 16 * 9
    assert macs(network(), (3, 8, 8)) == first + second + depthwise + 2560


def test_macs_count_one_use_of_a_layer_each():
    layer = nn.Linear(16, 16)
    assert macs(nn.Sequential(nn.Flatten(), layer, layer), (1, 4, 4)) == 2 * 256


def test_macs_leave_the_network_as_it_was(device):
    given = network().to(device).train()
    given[1].eval()
    state = {name: value.clone() for name, value in given.state_dict().items()}
    macs(given, (3, 8, 8))
    assert [module.training for module in given.modules()] == [True, True, False, True, True, True, True, True]
    assert all(p.requires_grad and p.grad is None for p in given.parameters())
    assert {p.device.type for p in given.parameters()} == {device.type}
    assert all(torch.equal(value, state[name]) for name, value in given.state_dict().items())


def test_macs_of_a_network_in_double_precision_and_of_one_in_training_mode():
    assert macs(network().double(), (3, 8, 8)) == macs(network(), (3, 8, 8))
    # A batch of one 1x1 image has no variance: batch normalisation must not be in training mode.
    assert macs(nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)).train(), (2, 1, 1)) == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_macs_of_a_matrix_product(dtype):
    class Attention(nn.Module):
        def forward(self, x):
            x = x.flatten(2).transpose(1, 2).to(dtype)
            return x @ x.transpose(1, 2)

    assert macs(Attention(), (5, 2, 2)) == 4 * 4 * 5
