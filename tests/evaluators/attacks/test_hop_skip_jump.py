"""HopSkipJump, which uses only the predicted class."""

import math
import re

import pytest
import torch
from torch import nn

from evaluators import L2, HopSkipJump, Linf, radii
from evaluators.attacks import GradientOracle
from evaluators.attacks.hop_skip_jump import estimate_direction, search_step
from evaluators.engine.noise import ImageNoise

BOTH = pytest.mark.parametrize("norm", [Linf(), L2()])


def labels(network, x):
    with torch.no_grad():
        return network(x).argmax(1)


def sizes(attack, network, x, y, seed=0):
    target = GradientOracle(
        network, x, y, attack.norm, torch.full((len(x),), attack.norm.largest(x[0].numel())), keep="nearest"
    )
    attack.minimise(target, x, ImageNoise.of(seed, torch.arange(len(x))))
    return target.sizes


class Asked(nn.Module):
    """Returns the predictions of another network as one-hot rows, and counts the forward passes."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.times = 0

    def forward(self, x):
        assert not x.requires_grad
        self.times += 1
        logits = self.network(x)
        return nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(x.dtype)


@BOTH
def test_the_radius_of_a_linear_network_is_nearly_found(norm, linear, images):
    network, x = linear(), images(12, low=0.35, high=0.65)
    y = labels(network, x)
    slope, gap = network[1].weight[1] - network[1].weight[0], network(x).diff(dim=1).abs().squeeze(1)
    exact = (gap / (slope.abs().sum() if norm == Linf() else slope.norm())).detach()
    few, many = (sizes(HopSkipJump(norm=norm, queries=n), network, x, y) for n in (500, 2500))
    assert (many >= exact * (1 - 1e-4)).all()
    # In L-infinity, the attack needs the sign of the gradient at each pixel. This is harder to estimate than the direction
    # that it needs in L2.
    assert (many / exact).median() < (1.15 if norm == Linf() else 1.05)
    assert (many / exact).max() < 1.6
    assert (few / exact).median() > (many / exact).median()


@BOTH
def test_it_uses_only_decisions(norm, conv, images):
    network, x = conv(), images()
    y = labels(network, x)
    attack = HopSkipJump(norm=norm, queries=300, probes=10)
    assert torch.equal(sizes(attack, Asked(network), x, y), sizes(attack, network, x, y))


@BOTH
@pytest.mark.parametrize("queries", [100, 150, 700])
def test_it_uses_at_most_its_queries(norm, queries, conv, images):
    network, x = Asked(conv()), images()
    sizes(HopSkipJump(norm=norm, queries=queries), network, x, labels(network.network, x))
    assert 0.2 * queries < network.times <= queries


@BOTH
def test_a_misclassified_image_has_radius_0(norm, conv, images):
    network, x = conv(), images()
    y = (labels(network, x) + 1) % 4
    assert (sizes(HopSkipJump(norm=norm, queries=200), network, x, y) == 0).all()


@BOTH
def test_an_image_does_not_depend_on_the_others(norm, conv, images):
    # Some images are misclassified, and some have no misclassified start. They must not affect the others.
    network, x = conv().double(), images(dtype=torch.float64)
    y = labels(network, x)
    y[::3] = (y[::3] + 1) % 4
    attack = HopSkipJump(norm=norm, queries=200, probes=5)
    whole = sizes(attack, network, x, y)
    assert whole.isinf().any()
    assert (whole == 0).any()
    torch.testing.assert_close(sizes(attack, network, x[:5], y[:5]), whole[:5], rtol=0, atol=1e-9)
    grid = [0.02 * k for k in range(1, 20)]
    assert torch.equal(*(radii(network, x, y, attack, grid, batch_size=size) for size in (16, 7)))


@BOTH
def test_the_seed_decides(norm, linear, images):
    network, x = linear(), images(8, low=0.35, high=0.65)
    y = labels(network, x)
    attack = HopSkipJump(norm=norm, queries=300, probes=20)
    first = sizes(attack, network, x, y, seed=1)
    assert torch.equal(sizes(attack, network, x, y, seed=1), first)
    assert (sizes(attack, network, x, y, seed=2) != first).all()


class Only(nn.Module):
    """Predicts class 1 where a function of the flat images is true."""

    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def forward(self, x):
        return nn.functional.one_hot(self.wrong(x.flatten(1)).long(), 2).to(x.dtype)


@BOTH
@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x.std(1) > 0.25,  # Noise is misclassified. The images themselves are nearly constant.
        lambda x: x.std(1) > 0.45,  # Only images of black and white pixels are misclassified.
        lambda x: (x.std(1) < 0.1) & ((x.mean(1) - 0.5).abs() > 0.1),  # Only grey images that are not mid-grey.
    ],
)
def test_a_start_is_found_among_noise_and_greys(norm, wrong):
    x = 0.5 + 0.02 * ImageNoise.of(0, torch.arange(12)).normal(torch.zeros(12, 1, 8, 8))
    distances = sizes(HopSkipJump(norm=norm, queries=300), Only(wrong), x, torch.zeros(12, dtype=torch.int64))
    assert distances.isfinite().all()
    assert (distances > 0).all()


@BOTH
@pytest.mark.parametrize("offset", [0.0, 0.1, 9.0])
def test_the_direction_is_the_mean_of_the_probes_weighted_by_their_answers(norm, offset):
    # The points are on the boundary, beyond it (most probes are misclassified), or far beyond it (all probes are).
    network = Only(lambda x: x.mean(1) > 0.5 - offset / 64)
    points, noise = torch.full((5, 1, 8, 8), 0.5, dtype=torch.float64), ImageNoise.of(4, torch.arange(5))
    target = GradientOracle(network, points, torch.zeros(5, dtype=torch.int64), norm, torch.ones(5), keep="nothing")
    width = torch.full((5,), 0.1, dtype=torch.float64)
    direction = estimate_direction(target, norm, points, width, 50, noise)
    probes = torch.stack([L2().ascent(noise.normal(points, draw)) for draw in range(50)])
    answers = torch.where((points + 0.1 * probes).flatten(2).mean(2) > 0.5 - offset / 64, 1.0, -1.0).double()
    mean = answers.mean(0)
    assert (mean.abs() < 0.5).all() if offset == 0 else (mean > 0.3).all()
    weights = answers - torch.where(mean == 1, 0, mean)
    expected = norm.ascent((weights[..., None, None, None] * probes).sum(0))
    torch.testing.assert_close(direction, expected, rtol=0, atol=1e-9)


def test_a_step_is_halved_until_it_fools_and_no_further():
    network = Only(lambda x: (x.mean(1) > 0.6) & (x.mean(1) < 0.7))
    points = torch.full((3, 1, 8, 8), 0.6)
    target = GradientOracle(network, points, torch.zeros(3, dtype=torch.int64), Linf(), torch.ones(3), keep="nothing")
    direction = torch.ones_like(points)
    direction[2] = -1  # No step in this direction fools the network.
    stepped = search_step(target, points, direction, torch.tensor([1.28, 0.04, 0.3]))
    torch.testing.assert_close(stepped.flatten(1).mean(1), torch.tensor([0.68, 0.64, 0.6]))


@BOTH
def test_an_image_without_a_misclassified_start_is_not_fooled(norm, images):
    network, x = Only(lambda x: torch.zeros(len(x), dtype=torch.bool)), images()
    y = torch.zeros(16, dtype=torch.int64)
    assert sizes(HopSkipJump(norm=norm, queries=200), network, x, y).isinf().all()
    assert torch.equal(HopSkipJump(norm=norm, queries=200)(network, x, y, 0.3), x)
    assert radii(network, x, y, HopSkipJump(norm=norm, queries=200), [0.3]).tolist() == [math.inf] * 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 99}, "queries must ... at least 100 ... got 99"),
        ({"probes": 0}, "probes must be at least 1, got 0"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=r".*".join(map(re.escape, message.split(" ... ")))):
        HopSkipJump(**settings)
