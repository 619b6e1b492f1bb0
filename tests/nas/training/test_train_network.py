"""`nas.train`: training of one network without a search."""

import threading

import pytest
import torch
from torch import nn

import nas
from evaluators import L2, radii
from evaluators.engine.channels_last import is_channels_last
from nas.data import open_data
from nas.data.config import DataConfig
from nas.training.config import TrainingConfig
from nas.training.recipes import NFGSM, Standard
from nas.training.train_network import Trained
from nas.training.updates import NoGradientError

CONFIG = TrainingConfig(batch_size=32)


@pytest.fixture(autouse=True)
def repeatable():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def data():
    return open_data(DataConfig(limit=300))


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def conv(view=False):
    class Viewed(nn.Module):
        def forward(self, x):
            return x.view(len(x), -1)

    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), Viewed() if view else nn.Flatten(), nn.Linear(512, 10)
    )


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def test_a_network_is_trained_in_place_and_returned_with_its_history(data):
    network, seen = linear(), []
    trained = nas.train(network, data, "n_fgsm", epochs=4, epsilon=0.1, config=CONFIG, on_epoch=seen.append)
    assert isinstance(trained, Trained)
    assert trained.network is network
    assert not network.training
    assert trained.history == tuple(seen)
    assert [epoch.epoch for epoch in seen] == [1, 2, 3, 4]
    assert seen[-1].loss < seen[0].loss
    best = min(epoch.adversarial_error for epoch in seen if epoch.adversarial_error is not None)
    x, y = data.validation.x, data.validation.y
    assert float((radii(network, x, y, CONFIG.selection, [0.1], seed=0) <= 0.1).double().mean()) == pytest.approx(best)


def test_data_may_be_a_name_its_settings_or_a_dataset(data):
    networks = []
    for source in (data, DataConfig(limit=300)):
        torch.manual_seed(0)
        networks.append(nas.train(linear(), source, Standard(), epochs=1, config=CONFIG).network)
    assert same(*networks)
    assert len(nas.train(linear(), "digits", "standard", epochs=1).history) == 1


def test_data_may_be_tensors_of_which_a_fifth_is_held_out(data):
    x, y = data.train.x[:100], torch.arange(100) % 2
    sizes = []

    class Noted(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return x

    nas.train(nn.Sequential(Noted(), linear()), (x, y), "standard", epochs=1, config=TrainingConfig(batch_size=80))
    assert max(sizes) == 80
    assert 20 in sizes


def test_same_seed_same_weights(data):
    networks = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        networks.append(nas.train(conv(), data, "n_fgsm", epochs=2, epsilon=0.1, config=CONFIG, seed=seed).network)
    assert same(networks[0], networks[1])
    assert not same(networks[0], networks[2])


def test_a_recipe_sets_the_radius_and_the_norm_of_the_errors(data, monkeypatch):
    asked = []

    def noted(network, x, y, attack, epsilons, *, seed):
        asked.append((attack.norm, epsilons))
        return radii(network, x, y, attack, epsilons, seed=seed)

    monkeypatch.setattr("nas.training.train.radii", noted)
    nas.train(linear(), data, NFGSM(norm=L2(), epsilon=0.5), epochs=1, config=CONFIG)
    nas.train(linear(), data, NFGSM(epsilon=0.07), epochs=1, epsilon=0.03, config=CONFIG)
    nas.train(linear(), data, "standard", epochs=1, config=CONFIG)
    assert [(norm.name, *epsilons) for norm, epsilons in asked[::2]] == [("l2", 0.5), ("linf", 0.03), ("linf", 8 / 255)]


@pytest.mark.parametrize(("view", "converted"), [(False, True), (True, False)])
def test_convolutions_are_in_the_channels_last_format_where_the_network_allows_it(data, view, converted):
    network = nas.train(conv(view), data, "standard", epochs=1, config=CONFIG).network
    # With one input channel, both formats have the same strides, so the test looks at the activations.
    with torch.no_grad():
        features = network[:3](data.train.x[:4])
    weight = network[0].weight
    assert weight.stride() == ((9, 1, 3, 1) if converted else (9, 9, 3, 1)) or features.is_contiguous() is not converted


class Locked(nn.Module):
    """A network that cannot be copied."""

    def __init__(self, body):
        super().__init__()
        self.body, self.lock = body, threading.Lock()

    def forward(self, x):
        return self.body(x)


def test_the_format_of_a_network_that_cannot_be_copied_is_kept(data):
    network = Locked(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 10)))
    nas.train(network, data, "standard", epochs=1, config=TrainingConfig(average=False))
    assert not is_channels_last(network)
    nas.train(network.body, data, "standard", epochs=1, config=TrainingConfig(average=False))
    assert is_channels_last(network)


@pytest.mark.parametrize("shape", [(64,), (8, 8), (1, 2, 4, 8)])
def test_images_may_have_any_shape_without_augmentation(data, shape):
    x = data.train.x.reshape(-1, *shape)
    history = nas.train(linear(), (x, data.train.y), epochs=2, epsilon=0.1, config=CONFIG).history
    assert history[-1].loss < history[0].loss


def test_a_network_without_gradients_is_refused(data):
    class Rounded(nn.Module):
        def forward(self, x):
            return x.detach()

    with pytest.raises(NoGradientError, match=r"the loss has no gradient for the weights; .* detach a tensor, use argmax"):
        nas.train(nn.Sequential(linear(), Rounded()), data, "standard", epochs=1)


def test_few_images_are_said_at_the_line_of_the_caller(data):
    with pytest.warns(UserWarning, match=r"^batch_size is 64, but there are only 36 training images") as warnings:
        nas.train(
            linear(), (data.train.x[:45], torch.arange(45) % 3), "standard", config=TrainingConfig(epochs=1, batch_size=64)
        )
    assert {warning.filename for warning in warnings} == {__file__}


def test_missing_classes_are_said(data):
    labels = torch.full((45,), 2)
    with pytest.warns(UserWarning, match=r"^the (training|validation) split has no image of classes 0, 1; use more images"):
        nas.train(linear(), (data.train.x[:45], labels), "standard", epochs=1, config=CONFIG)
