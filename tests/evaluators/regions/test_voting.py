import math
import re

import numpy as np
import pytest
import torch
from scipy.stats import binom, entropy
from torch import nn

from evaluators import L2, Linf
from evaluators.curves.error_curves import binomial_interval
from evaluators.regions import Sampling
from evaluators.regions.sampling import ball_points
from evaluators.regions.voting import disagreement, low_margin_share, mean_interval, vote_entropy


def half_plane(linear, angle, offset=0.0, scale=1.0, pixels=16):
    """Returns a network that predicts 1 beyond a hyperplane, else 0. The margin is 2 * scale * distance from the hyperplane.

    `angle` is the angle between the normal of the hyperplane and the first axis.
    """
    direction = torch.zeros(pixels)
    direction[:2] = torch.tensor([math.cos(angle), math.sin(angle)])
    bias = torch.tensor([1.0, -1.0]) * (0.5 * direction.sum() + offset)
    return linear(weight=torch.stack([-direction, direction]), bias=bias, scale=scale)


def grey(n=1):
    return torch.full((n, 1, 4, 4), 0.5)


@pytest.mark.parametrize("angle", [0.3, 1.0, 2.5])
def test_two_hyperplanes_disagree_in_a_double_wedge(linear, angle, device):
    networks = [half_plane(linear, a).to(device) for a in (0.4, 0.4 + angle)]
    disagreements = disagreement(networks, grey().to(device), L2(), [0.1, 0.3], sampling=Sampling(samples=4000))
    wanted = angle / math.pi
    assert (abs(disagreements.share - wanted) <= 4 * math.sqrt(wanted * (1 - wanted) / 4000)).all()
    np.testing.assert_allclose(disagreements.entropy, disagreements.share * math.log(2), rtol=1e-9)


def test_two_hyperplanes_in_a_linf_ball(linear):
    # The networks disagree in two wedges between an axis and a diagonal of a square. Each wedge is an eighth of the square.
    networks = [half_plane(linear, math.pi / 2), half_plane(linear, 3 * math.pi / 4)]
    disagreements = disagreement(networks, grey(), Linf(), [0.2], sampling=Sampling(samples=4000))
    assert disagreements.share[0, 0] == pytest.approx(0.25, abs=0.03)
    moved = disagreement(
        [half_plane(linear, 0.0, offset) for offset in (0.0, 0.1)],
        grey(),
        Linf(),
        [0.05, 0.2],
        sampling=Sampling(samples=4000),
    )
    np.testing.assert_allclose(moved.share, [[0.5, 0.25]], atol=0.03)


def test_equal_networks_disagree_nowhere(conv, images):
    disagreements = disagreement([conv(), conv(), conv()], images(3), Linf(), [0, 0.1, 1.0], sampling=Sampling(samples=20))
    assert (disagreements.counts == 0).all()
    assert (disagreements.entropy == 0).all()
    assert (disagreements.mean_share_interval[:, 0] == 0).all()
    np.testing.assert_allclose(disagreements.mean_share_interval[:, 1], 1 - 0.025 ** (1 / 3))


def test_at_epsilon_0_the_images_themselves_are_classified(conv, images):
    networks, x = [conv(seed=seed) for seed in range(4)], images(20)
    disagreements = disagreement(networks, x, L2(), [0.0], sampling=Sampling(samples=3))
    with torch.no_grad():
        votes = torch.stack([network(x).argmax(1) for network in networks])
    np.testing.assert_array_equal(disagreements.share[:, 0], (votes != votes[0]).any(0))
    counts = torch.nn.functional.one_hot(votes, 4).sum(0)
    np.testing.assert_allclose(disagreements.entropy[:, 0], entropy(counts, axis=1), atol=1e-12)
    assert disagreements.entropy.max() > 0


def test_fields_of_a_disagreement_are_consistent(conv, images):
    networks, x = [conv(seed=seed) for seed in range(3)], images(5)
    disagreements = disagreement(networks, x, Linf(), [0.1, 0.5], sampling=Sampling(samples=30, confidence=0.9))
    np.testing.assert_array_equal(disagreements.share, disagreements.counts / 30)
    np.testing.assert_allclose(disagreements.interval, binomial_interval(disagreements.counts.astype(float), 30, 0.9))
    np.testing.assert_allclose(disagreements.mean_share, disagreements.share.mean(0))
    np.testing.assert_allclose(disagreements.mean_share_interval, mean_interval(disagreements.share, 0.9))
    np.testing.assert_allclose(disagreements.mean_entropy, disagreements.entropy.mean(0))
    np.testing.assert_allclose(
        disagreements.mean_entropy_interval, math.log(3) * mean_interval(disagreements.entropy / math.log(3), 0.9)
    )
    parts = disagreement(networks, x, Linf(), [0.1, 0.5], sampling=Sampling(samples=30, batch_size=7))
    np.testing.assert_array_equal(parts.counts, disagreements.counts)
    np.testing.assert_allclose(parts.entropy, disagreements.entropy)


def test_vote_entropy_of_known_votes():
    votes = torch.tensor([[0, 0, 0], [0, 1, 1], [0, 1, 2], [0, 0, 3]])
    np.testing.assert_allclose(vote_entropy(votes, 5), [0, math.log(2), math.log(4)])


def test_low_margin_is_a_slab(linear):
    # The margin is 2 * 3 times the distance from the hyperplane. So it is below 0.3 at distances below 0.05.
    network = half_plane(linear, 0.0, scale=3.0)
    low_margin = low_margin_share(network, grey(), Linf(), [0.04, 0.1, 0.5], threshold=0.3, sampling=Sampling(samples=4000))
    np.testing.assert_allclose(low_margin.share, [[1.0, 0.5, 0.1]], atol=0.03)
    assert low_margin.share[0, 0] == 1


def test_low_margin_uses_the_same_points(conv, images):
    network, x = conv(), images(2)
    low_margin = low_margin_share(network, x, L2(), [1.0], 0.1, sampling=Sampling(samples=40, seed=3, batch_size=9))
    points = torch.cat([points for _, points in ball_points(x, L2(), [1.0], Sampling(samples=40, seed=3, batch_size=100))])
    with torch.no_grad():
        largest = network(points).topk(2).values
    np.testing.assert_array_equal(low_margin.counts[:, 0], (largest[:, 0] - largest[:, 1] < 0.1).view(2, 40).sum(1))


@pytest.mark.parametrize("n", [1, 10, 60])
@pytest.mark.parametrize("p", [0.02, 0.3, 0.9])
def test_mean_interval_covers_the_mean_of_coin_flips(n, p):
    hits = np.arange(n + 1)
    ends = np.array([mean_interval((np.arange(n) < k).astype(float)) for k in hits])
    covers = (ends[:, 0] <= p) & (p <= ends[:, 1])
    assert binom.pmf(hits, n, p)[covers].sum() >= 0.95
    # Up to rounding, the interval is never narrower than the exact binomial one, because it holds for all distributions.
    exact = binomial_interval(hits.astype(float), n)
    assert (ends[:, 1] >= exact[:, 1] - 1e-9).all()
    assert (ends[:, 0] <= exact[:, 0] + 1e-9).all()


def test_mean_interval_at_its_ends_and_near_them():
    ends = mean_interval(np.array([[0.0, 1.0, 1e-12, 1 - 1e-12, 0.5]] * 20))
    assert ends[0, 0] == 0
    assert ends[1, 1] == 1
    np.testing.assert_allclose(ends[0, 1], 1 - 0.025 ** (1 / 20))
    np.testing.assert_allclose(ends[1, 0], 0.025 ** (1 / 20))
    np.testing.assert_allclose(ends[2:4], ends[:2], atol=1e-9)
    np.testing.assert_allclose(ends[4].sum(), 1)
    assert mean_interval(np.zeros((5, 2, 3))).shape == (2, 3, 2)


def test_networks_are_left_as_they_were(conv, images):
    networks = [conv(seed=seed).train() for seed in range(2)]
    disagreement(networks, images(1), Linf(), [0.1], sampling=Sampling(samples=3))
    assert all(module.training for network in networks for module in network.modules())


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"networks": [nn.Flatten()]}, ValueError, "networks must hold at least two networks, got 1"),
        ({"networks": [nn.Flatten(), "b"]}, TypeError, "network must be an nn.Module, got str"),
        (
            {"networks": [nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Linear(16, 3))]},
            ValueError,
            "networks must have the same number of classes, got 16, 3",
        ),
    ],
)
def test_inputs_that_are_refused(change, kind, message):
    arguments = {"networks": [nn.Flatten()] * 2, "centres": grey(), "norm": Linf(), "epsilons": [0.1]} | change
    with pytest.raises(kind, match=re.escape(message)):
        disagreement(**arguments)


def test_confidence_of_a_mean_is_checked():
    with pytest.raises(ValueError, match=r"confidence must be between 0 and 1.* got 95"):
        mean_interval(np.zeros(3), 95)


def test_a_threshold_below_every_margin_is_refused(linear):
    with pytest.raises(ValueError, match=r"threshold must be above 0.* got 0"):
        low_margin_share(linear(pixels=16), grey(), Linf(), [0.1], 0.0)
