"""Adversarial weight perturbation: its size and direction, and gradients at the moved weights."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas.data import Dataset, Split
from nas.training.config import TrainingConfig
from nas.training.recipes import Standard
from nas.training.train import train
from nas.training.weight_perturbation import perturbed


@pytest.fixture
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3))


@pytest.fixture
def batch(images):
    x = images(32)
    return x, (x.mean((1, 2, 3)) * 60).long() % 3


def gradients(network, x, y):
    return torch.autograd.grad(F.cross_entropy(network(x), y), list(network.parameters()), allow_unused=True)


def test_each_layer_moves_along_its_gradient_by_a_share_of_its_length(network, batch):
    weights = list(network.parameters())
    before, slopes = [weight.detach().clone() for weight in weights], gradients(network, *batch)
    with perturbed(network, weights, slopes, 0.01):
        for weight, old, slope in zip(weights, before, slopes, strict=True):
            moved = weight.detach() - old
            if weight.ndim == 1:
                assert not moved.any()
            else:
                torch.testing.assert_close(moved, 0.01 * old.norm() * slope / slope.norm())


def test_weights_and_buffers_are_restored_bit_for_bit_also_after_an_error(network, batch):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights, slopes = list(network.parameters()), gradients(network.eval(), *batch)
    with perturbed(network.train(), weights, slopes, 0.1):
        network(batch[0])
    with pytest.raises(RuntimeError, match="shape"), perturbed(network, weights, slopes, 0.1):
        network(batch[0][..., :3])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_are_restored_if_the_move_itself_fails():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    weights = [layer.weight for layer in network]
    before = [weight.detach().clone() for weight in weights]
    with pytest.raises(RuntimeError, match="size"), perturbed(network, weights, [torch.ones(2, 2), torch.ones(3, 3)], 0.1):
        pass
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


def test_replaced_buffers_are_those_of_before():
    network = nn.Linear(2, 2)
    network.register_buffer("seen", before := torch.ones(3))
    with perturbed(network, [network.weight], [torch.ones(2, 2)], 0.1):
        network.seen = torch.zeros(3)
    assert network.seen is before


def test_missing_and_zero_gradients_move_nothing():
    network = nn.Linear(2, 2)
    before = network.weight.detach().clone()
    for slope in (None, torch.zeros(2, 2)):
        with perturbed(network, [network.weight], [slope], 0.5):
            assert torch.equal(network.weight, before)


CONFIG = TrainingConfig(
    recipe=Standard(), batch_size=32, weight_decay=0.0, schedule="linear", selection_from=1, average=False
)


def first_step(network, batch, size):
    """Returns the loss that the training reports, and the change of the weights, in one step on one batch."""
    split = Split(*batch, "made up")
    before = [weight.detach().clone() for weight in network.parameters()]
    config = dataclasses.replace(CONFIG, weight_perturbation=size)
    (epoch,) = train(network, Dataset("made up", ("a", "b", "c"), split, split), config, epsilon=0.05, epochs=1, seed=0)
    return epoch.loss, [after.detach() - old for after, old in zip(network.parameters(), before, strict=True)]


def test_a_step_follows_the_gradients_at_the_moved_weights(network, batch):
    weights, (x, y) = list(network.parameters()), batch
    loss, slopes = F.cross_entropy(network(x), y), gradients(network, x, y)
    with perturbed(network, weights, slopes, 0.1):
        expected = gradients(network, x, y)
    network[1].reset_running_stats()
    reported, moved = first_step(network, batch, 0.1)
    assert reported == pytest.approx(loss.item(), rel=1e-5)  # The loss is that of the weights themselves.
    for change, slope, other in zip(moved, expected, slopes, strict=True):
        ratio = change.norm() / slope.norm()
        torch.testing.assert_close(change, -ratio * slope, rtol=1e-3, atol=1e-5)
        if change.ndim > 1:
            assert not torch.allclose(change, -ratio * other, rtol=1e-3, atol=1e-5)
    # The statistics of batch norm are those of one pass, through the weights themselves.
    assert network[1].num_batches_tracked == 1


def test_there_is_no_perturbation_by_default(network, batch, monkeypatch):
    monkeypatch.setattr("nas.training.updates.perturbed", None)
    assert TrainingConfig().weight_perturbation == 0
    assert any(change.any() for change in first_step(network, batch, 0.0)[1])


def test_frozen_weights_are_not_moved(network, batch, monkeypatch):
    moved = []

    def noted(network, weights, gradients, size):
        moved.extend(weights)
        return perturbed(network, weights, gradients, size)

    monkeypatch.setattr("nas.training.updates.perturbed", noted)
    network[0].weight.requires_grad_(False)
    first_step(network, batch, 0.1)
    assert [id(weight) for weight in moved] == [id(weight) for weight in network.parameters() if weight.requires_grad]


@dataclasses.dataclass(frozen=True)
class Noted(Standard):
    """Notes whether its loss runs in bfloat16. Its points depend on the weights."""

    seen: list = dataclasses.field(default_factory=list)

    def points(self, network, x, y, noise):
        return x + 0 * network(x).square().mean()

    def loss(self, network, x, points, y):
        self.seen.append(network(points).dtype)
        return super().loss(network, x, points, y)


def test_both_losses_have_the_precision_of_the_training_and_the_graph_of_the_points(network, batch):
    recipe = Noted()
    split = Split(*batch, "made up")
    config = TrainingConfig(recipe=recipe, batch_size=32, precision="bfloat16", weight_perturbation=0.1, selection_from=1)
    list(train(network, Dataset("made up", ("a", "b", "c"), split, split), config, epsilon=0.05, epochs=1, seed=0))
    assert recipe.seen == [torch.bfloat16] * 2
