import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from evaluators import latency, macs, parameters


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
    norm_and_relu = (2 + 1) * 8 * 8 * 8
    assert macs(network(), (3, 8, 8)) == first + norm_and_relu + second + depthwise + 2560


def test_macs_of_pooling_count_the_pixels_of_its_windows():
    pools = nn.Sequential(nn.MaxPool2d(3, stride=2, padding=1), nn.AvgPool2d((2, 1)))
    assert macs(pools, (3, 8, 8)) == 3 * 4 * 4 * 9 + 3 * 2 * 4 * 2


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU(), nn.GELU(), nn.Softplus(), nn.Sigmoid(), nn.Tanh()], ids=str
)
def test_macs_of_an_activation_are_one_per_value(activation):
    assert macs(activation, (3, 4, 5)) == 60


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm([4, 3, 5])], ids=str)
def test_macs_of_normalisation_are_two_per_value(norm):
    assert macs(norm, (4, 3, 5)) == 2 * 60


def test_macs_of_convolutions_and_linear_layers_are_those_of_torch():
    convolutions = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, dilation=2), nn.Conv2d(8, 8, 3, groups=4), nn.Flatten(), nn.LazyLinear(7)
    )
    convolutions(torch.zeros(1, 3, 21, 17))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        convolutions(torch.zeros(1, 3, 21, 17))
    assert macs(convolutions, (3, 21, 17)) == counter.get_total_flops() // 2 > 0


def test_macs_without_memory_for_weights():
    with torch.device("meta"):
        on_meta = network()
    assert macs(on_meta, (3, 8, 8)) == macs(network(), (3, 8, 8))


def test_macs_count_every_use_of_a_layer():
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
    # A batch of one 1x1 image has no variance, so batch norm would fail in training mode.
    assert macs(nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)).train(), (2, 1, 1)) == 8 + 2 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_macs_of_a_matrix_product(dtype):
    class Attention(nn.Module):
        def forward(self, x):
            x = x.flatten(2).transpose(1, 2).to(dtype)
            return x @ x.transpose(1, 2)

    assert macs(Attention(), (5, 2, 2)) == 4 * 4 * 5


def test_latency_is_the_median_of_the_passes_after_warm_up(monkeypatch):
    """By a fake clock, the passes take 9, 9, 1, 2 and 30 seconds. The first two are warm-up."""
    clock = iter([0, 9, 10, 19, 20, 21, 30, 32, 40, 70])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert latency(network(), (3, 8, 8), repeats=3, warm_up=2) == 2


def test_latency_runs_batches_in_evaluation_mode_on_the_device_of_the_network(device):
    seen = []

    class Watch(nn.Module):
        def forward(self, x):
            seen.append((tuple(x.shape), x.device.type, x.dtype, self.training, torch.is_inference_mode_enabled()))
            return x

    watched = nn.Sequential(Watch(), network()).to(device).double()
    assert latency(watched, (3, 8, 8), batch_size=4, repeats=2, warm_up=1) > 0
    assert seen == 3 * [((4, 3, 8, 8), device.type, torch.float64, False, True)]
    assert watched.training


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"repeats": 0}])
def test_latency_of_no_images_or_no_passes_is_refused(wrong):
    with pytest.raises(ValueError, match="batch_size and repeats must be at least 1"):
        latency(network(), (3, 8, 8), **wrong)
