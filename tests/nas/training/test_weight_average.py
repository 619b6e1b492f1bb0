"""Average of the weights, which early stopping evaluates."""

import dataclasses
import math
import threading

import pytest
import torch
from torch import nn

from evaluators import FGSM, radii
from nas.data import Dataset, Split
from nas.training.config import TrainingConfig
from nas.training.early_stopping import AttackBudget
from nas.training.epoch import EpochMeasures
from nas.training.recipes import Standard
from nas.training.train import train
from nas.training.weight_average import ETA, WeightAverage


def layer(value):
    linear = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        linear.weight.fill_(value)
    return linear


def test_is_the_polynomial_decay_average_of_the_paper():
    values = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0]
    network = layer(0.0)
    average = WeightAverage(network)
    for value in values:
        network.weight.data.fill_(value)
        average.update()
    # The weights of a step enter the average with a share. Each later step multiplies this share by 1 - (its own share).
    shares = [(ETA + 1) / (step + ETA) for step in range(1, len(values) + 1)]
    left = [share * math.prod(1 - later for later in shares[n + 1 :]) for n, share in enumerate(shares)]
    wanted = sum(value * share for value, share in zip(values, left, strict=True))
    assert average.module.weight.item() == pytest.approx(wanted)


def test_average_of_constant_weights_is_these_weights():
    network = layer(2.5)
    average = WeightAverage(network)
    for _ in range(20):
        average.update()
    assert average.module.weight.item() == pytest.approx(2.5)


def test_is_mostly_the_last_ninth_of_the_steps():
    network = layer(0.0)
    average = WeightAverage(network)
    for step in range(900):
        network.weight.data.fill_(float(step >= 800))
        average.update()
    # The steps before the last ninth keep a share of about (8 / 9) ** 9.
    assert average.module.weight.item() == pytest.approx(1 - (8 / 9) ** 9, abs=0.01)


def test_batch_norms_statistics_are_averaged():
    network = nn.BatchNorm1d(1)
    average = WeightAverage(network)
    for value in (1.0, 3.0):
        network.running_mean.fill_(value)
        average.update()
    share = (ETA + 1) / (2 + ETA)
    assert average.module.running_mean.item() == pytest.approx((1 - share) + 3 * share)


class Layer(nn.Module):
    """A layer with tensors of several kinds. Each call replaces the buffer `seen`."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.tied = self.weight
        self.wave = nn.Parameter(torch.zeros(1, dtype=torch.complex64))
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, value):
        self.seen = torch.tensor(value)
        self.calls += 1
        self.weight.data.fill_(value)
        self.wave.data.fill_(complex(0, value))


def test_replaced_tied_and_complex_tensors_are_averaged_and_integers_copied():
    network = Layer()
    average = WeightAverage(network)
    for value in (1.0, 3.0):
        network(value)
        average.update()
    share = (ETA + 1) / (2 + ETA)
    wanted = pytest.approx((1 - share) + 3 * share)
    assert average.module.seen.item() == average.module.weight.item() == average.module.wave.imag.item() == wanted
    assert average.module.tied is average.module.weight
    assert average.module.calls == 2


def test_a_network_that_cannot_be_copied_is_named_with_the_remedy():
    network = nn.Linear(1, 1)
    network.lock = threading.Lock()
    with pytest.raises(
        TypeError, match=r"cannot be copied for its averaged weights \(TypeError: .*lock.* training\.average"
    ):
        WeightAverage(network)


@pytest.fixture
def data(images):
    x = images(96)
    split = Split(x, (x.mean((1, 2, 3)) * 40).long() % 3, "made up")
    return Dataset("made up", ("a", "b", "c"), split, split)


def test_rung_evaluates_the_average_and_selection_the_weights(data, monkeypatch):
    judged = []

    def spy(network, x, y, attack, epsilons, **rest):
        judged.append({name: value.clone() for name, value in network.state_dict().items()})
        return radii(network, x, y, attack, epsilons, **rest)

    monkeypatch.setattr("nas.training.train.radii", spy)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    followed = WeightAverage(network)
    config = TrainingConfig(
        recipe=Standard(), batch_size=32, selection=FGSM(), selection_from=0.75, precision="float32", average=False
    )
    original = torch.optim.SGD.step

    def step(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        followed.update()
        states.append({name: value.clone() for name, value in followed.module.state_dict().items()})
        return result

    states = []
    monkeypatch.setattr(torch.optim.SGD, "step", step)
    weights = []
    for _ in train(
        network, data, config, epsilon=0.05, epochs=4, seed=0, measures=EpochMeasures({2: AttackBudget(), 4: AttackBudget()})
    ):
        weights.append({name: value.clone() for name, value in network.state_dict().items()})
    assert len(judged) == 2
    assert all(torch.allclose(judged[0][name], value) for name, value in states[2 * 3 - 1].items())
    assert not any(torch.allclose(judged[0][name], value) for name, value in weights[1].items())
    assert all(torch.equal(judged[1][name], value) for name, value in weights[3].items())


def test_without_rungs_and_judging_nothing_is_averaged(data, monkeypatch):
    def refused(network):
        raise AssertionError("an average was begun")

    monkeypatch.setattr("nas.training.train.WeightAverage", refused)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    config = dataclasses.replace(TrainingConfig(), recipe=Standard(), batch_size=32, selection=FGSM(), average=False)
    assert len(list(train(network, data, config, epsilon=0.05, epochs=1, seed=0))) == 1
