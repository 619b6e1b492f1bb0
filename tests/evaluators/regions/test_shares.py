import re

import numpy as np
import pytest
import torch
from scipy.stats import beta

from evaluators import L2, Linf
from evaluators.curves.error_curves import binomial_interval
from evaluators.regions import Sampling
from evaluators.regions.shares import ball_shares


def cap(t, pixels):
    """Returns the share of a ball in `pixels` dimensions beyond a hyperplane at t radii from the centre."""
    tail = beta.sf(t**2, 0.5, (pixels + 1) / 2) / 2
    return tail if t >= 0 else 1 - tail


def half_space(linear, offset, pixels=16):
    """Returns a network that predicts 1 beyond a hyperplane at L2 distance `offset` from the grey image, else 0."""
    direction = torch.ones(pixels) / pixels**0.5
    weight = torch.stack([-direction, direction])
    return linear(weight=weight, bias=torch.tensor([1.0, -1.0]) * (0.5 * direction.sum() + offset))


@pytest.mark.parametrize("offset", [-0.1, 0.0, 0.05, 0.1])
def test_share_of_an_l2_ball_beyond_a_hyperplane_is_a_cap(linear, offset, device):
    network, centre = half_space(linear, offset), torch.full((1, 1, 4, 4), 0.5)
    shares = ball_shares(
        network.to(device),
        centre.to(device),
        torch.zeros(1, dtype=torch.int64, device=device),
        L2(),
        [0.2, 0.4],
        sampling=Sampling(samples=4000),
    )
    for r, radius in enumerate((0.2, 0.4)):
        wanted = cap(offset / radius, 16)
        assert abs(shares.share[0, r] - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / 4000)


def test_share_of_a_linf_ball_beyond_a_pixels_value(linear):
    weight = torch.zeros(2, 16)
    weight[1, 5] = 1.0
    network = linear(weight=weight, bias=torch.tensor([0.6, 0.0]))
    centres = torch.full((2, 1, 4, 4), 0.5)
    centres[1] = 0.9
    labels = torch.tensor([0, 1])
    shares = ball_shares(network, centres, labels, Linf(), [0.05, 0.2, 0.5], sampling=Sampling(samples=4000))
    # The second ball is cut to [0.9 - radius, 1].
    wanted = np.array([[0, 0.25, 0.4], [0, 0, 0.2 / 0.6]])
    np.testing.assert_allclose(shares.share, wanted, atol=0.03)
    assert (shares.counts[wanted == 0] == 0).all()


def test_counts_shares_and_intervals_are_consistent(conv, images):
    network, x = conv(), images(3)
    labels = torch.tensor([0, 1, 2])
    shares = ball_shares(network, x, labels, L2(), [0.5, 4.0], sampling=Sampling(samples=50, confidence=0.9))
    assert shares.counts.shape == (3, 2)
    np.testing.assert_array_equal(shares.share, shares.counts / 50)
    np.testing.assert_allclose(shares.interval, binomial_interval(shares.counts.astype(float), 50, 0.9))
    np.testing.assert_array_equal(shares.radii, [0.5, 4.0])


def test_batches_change_nothing(conv, images):
    network, x, labels = conv(), images(3), torch.tensor([0, 1, 2])
    whole = ball_shares(network, x, labels, L2(), [0.5, 4.0], sampling=Sampling(samples=40))
    parts = ball_shares(network, x, labels, L2(), [0.5, 4.0], sampling=Sampling(samples=40, batch_size=7))
    np.testing.assert_array_equal(whole.counts, parts.counts)


def test_network_is_left_as_it_was(conv, images):
    network = conv().train()
    ball_shares(network, images(1), torch.zeros(1, dtype=torch.int64), Linf(), [0.1], sampling=Sampling(samples=5))
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([4]), "y must hold labels from 0 to 3, the index of the network's last logit, got labels from 4 to 4"),
        (torch.tensor([0, 1]), "y must have shape (1,) to match x, got (2,)"),
    ],
)
def test_labels_that_are_refused(conv, images, labels, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ball_shares(conv(), images(1), labels, Linf(), [0.1])
