import re

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom, binomtest, norm
from torch import nn

from evaluators import FGSM, L2, Smoothing, certify, error_curve, radii
from evaluators.attacks import margin
from evaluators.engine.noise import ImageNoise


def distances(network, x):
    """Returns each image's signed distance from the boundary of a linear network of two classes, (N,)."""
    weight, bias = (p.detach().double() for p in network[1].parameters())
    gap = x.flatten(1).double() @ (weight[0] - weight[1]) + bias[0] - bias[1]
    return (gap / (weight[0] - weight[1]).norm()).numpy()


def test_radii_of_a_linear_network_are_just_below_its_distances(linear, images, device):
    # Noise moves an image across the boundary of a linear network with probability Phi(-distance / sigma). So the smoothed
    # network predicts the same class, with probability p = Phi(distance / sigma). Its radius sigma * Phi^-1(p) is the
    # distance.
    network, x = linear(), images(300)
    distance = distances(network, x)
    y = torch.from_numpy((distance < 0).astype(np.int64))
    certificates = certify(network.to(device), x.to(device), y.to(device), Smoothing(sigma=0.5, n0=1000, n=2000, alpha=0.05))
    distance = np.abs(distance)
    assert set(certificates.predictions[certificates.predictions != y.numpy()]) <= {-1}
    too_large = (certificates.radii > distance).sum()
    # About 5 % of the 300 radii should be too large: 15, and neither many more nor many fewer.
    assert binom.ppf(0.001, 300, 0.05) <= too_large <= binom.ppf(0.999, 300, 0.05)
    chance = norm.cdf(distance / 0.5)
    # `low` and `high` are SciPy's bounds for the smallest and the largest count that the true probability allows. Images
    # close to the boundary are left out, because the first draws may select the other class there.
    low, high = (beta.ppf(0.05, k, 2001 - k) for k in binom.ppf([[1e-5], [1 - 1e-5]], 2000, chance))
    assert ((low - 1e-9 <= certificates.lower) & (certificates.lower <= high + 1e-9))[distance > 0.1].all()
    assert (distance > 0.1).sum() > 150
    abstained = certificates.predictions == -1
    assert 0 < abstained.sum() < 30
    assert distance[abstained].max() < 0.07
    assert (certificates.radii[abstained] == 0).all()
    np.testing.assert_allclose(certificates.radii[~abstained], 0.5 * norm.ppf(certificates.lower[~abstained]))


def test_no_attack_beats_the_certified_error_of_a_linear_network(linear, images):
    network, x = linear(), images(200)
    y = torch.from_numpy((distances(network, x) < 0).astype(np.int64))
    y[::10] = 1 - y[::10]
    epsilons = np.geomspace(0.001, 0.6, 30).tolist()
    certified = error_curve(certify(network, x, y, Smoothing(sigma=0.25)).radii, epsilons).error
    attacked = error_curve(radii(network, x, y, FGSM(norm=L2(), loss=margin), epsilons).numpy(), epsilons).error
    assert (certified >= attacked).all()
    assert (certified < attacked + 0.25).all()
    assert certified[0] < 0.25


class Constant(nn.Module):
    def forward(self, x):
        return torch.tensor([0.0, 1.0, 0.0]).expand(len(x), 3) + 0 * x.flatten(1)[:, :1]


@pytest.mark.parametrize(("sigma", "n", "alpha"), [(0.25, 1000, 0.001), (1.0, 50, 0.05), (0.1, 10, 0.001)])
def test_a_constant_network_has_the_largest_radius_there_is(images, sigma, n, alpha):
    y = torch.tensor([1, 0, 1, 2])
    certificates = certify(Constant(), images(4), y, Smoothing(sigma=sigma, n0=5, n=n, alpha=alpha))
    assert certificates.predictions.tolist() == [1, 1, 1, 1]
    np.testing.assert_allclose(certificates.lower, alpha ** (1 / n))
    largest = sigma * norm.ppf(alpha ** (1 / n))
    np.testing.assert_allclose(certificates.radii, [largest, 0, largest, 0])


def test_images_on_the_boundary_are_not_certified(linear):
    x = torch.full((100, 1, 8, 8), 0.5)
    certificates = certify(linear(), x, torch.zeros(100, dtype=torch.int64), Smoothing(sigma=0.5, n0=10, n=200))
    assert (certificates.predictions == -1).sum() >= 99
    assert (certificates.radii > 0).sum() <= 1


def test_bounds_are_scipys_for_a_plain_count_of_draws(linear, images):
    network, x = linear(4).double(), images(6, dtype=torch.float64)
    y = torch.tensor([0, 0, 1, 1, 3, 3])
    certificates = certify(network, x, y, Smoothing(sigma=0.15, n0=20, n=100, alpha=0.01), seed=3)
    for i in range(6):
        counts = []
        for stream, draws in ((0, 20), (1, 100)):
            images_of_noise = i * 2**32 + torch.arange(draws)
            noisy = x[i] + 0.15 * ImageNoise.of(3, images_of_noise, stream).normal(x[[i] * draws])
            with torch.no_grad():
                counts.append(np.bincount(network(noisy).argmax(1), minlength=4))
        chosen = counts[0].argmax()
        test = binomtest(int(counts[1][chosen]), 100, alternative="greater")
        assert certificates.lower[i] == pytest.approx(test.proportion_ci(0.99).low)
        assert certificates.predictions[i] == (chosen if certificates.lower[i] > 0.5 else -1)
        expected = 0.15 * norm.ppf(certificates.lower[i]) if certificates.predictions[i] == y[i] else 0
        assert certificates.radii[i] == pytest.approx(expected)
    assert len(set(certificates.predictions)) > 2
    assert 0 < (certificates.radii > 0).sum() < 6


def test_batches_change_nothing_and_seeds_do(conv, images):
    network, x = conv().double(), images(10, dtype=torch.float64)
    y = torch.zeros(10, dtype=torch.int64)
    runs = [
        certify(network, x, y, Smoothing(sigma=0.5, n0=10, n=60), seed=s, batch_size=b)
        for s, b in [(0, None), (0, 7), (1, None)]
    ]
    np.testing.assert_array_equal(runs[0].lower, runs[1].lower)
    np.testing.assert_array_equal(runs[0].predictions, runs[1].predictions)
    assert (runs[0].lower != runs[2].lower).any()
    part = certify(network, x[:4], y[:4], Smoothing(sigma=0.5, n0=10, n=60))
    np.testing.assert_array_equal(part.lower, runs[0].lower[:4])


def test_many_draws_are_counted_in_parts(monkeypatch, linear, images):
    network, x = linear(), images(5)
    y = torch.zeros(5, dtype=torch.int64)
    whole = certify(network, x, y, Smoothing(sigma=0.5, n=300))
    monkeypatch.setattr("evaluators.smoothing._HELD", 64)
    np.testing.assert_array_equal(certify(network, x, y, Smoothing(sigma=0.5, n=300)).lower, whole.lower)


def test_noise_leaves_the_pixel_range():
    class Outside(nn.Module):
        """Predicts class 1 where some pixels are below 0 and some above 1."""

        def forward(self, x):
            outside = (x.flatten(1).amin(1) < 0) & (x.flatten(1).amax(1) > 1)
            return torch.stack([0.5 * torch.ones_like(outside), outside], dim=1).to(x)

    x = torch.zeros(3, 1, 8, 8)
    x[..., :4] = 1
    certificates = certify(Outside(), x, torch.ones(3, dtype=torch.int64), Smoothing(sigma=0.25))
    assert (certificates.predictions == 1).all()


def test_network_is_left_as_it_was(conv, images):
    network, x = conv(), images(2)
    network.train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    certify(network, x, torch.zeros(2, dtype=torch.int64), Smoothing(sigma=0.5, n0=2, n=20))
    assert all(module.training for module in network.modules())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0}, "sigma must ... positive ... got 0"),
        ({"sigma": float("inf")}, "sigma must ... positive ... got inf"),
        ({"alpha": 0.5}, "alpha ... must ... between 0 and 0.5 ... got 0.5"),
        ({"alpha": 0}, "alpha ... must ... between 0 and 0.5 ... got 0"),
        ({"n0": 0}, "n0 must ... at least 1 ... got 0"),
        ({"n0": 2.5}, "n0 must ... at least 1 ... got 2.5"),
        ({"n": 9}, "n must ... at least 10 ... got 9"),
        ({"n": 1e4}, "n must ... at least 10 ... got 10000.0"),
    ],
)
def test_settings_that_are_refused(change, message):
    with pytest.raises(ValueError, match=r".*".join(map(re.escape, message.split(" ... ")))):
        Smoothing(**({"sigma": 0.25} | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.full((4, 1, 8, 8), 2.0)}, "x must ... [0, 1] ... got [2, 2]"),
        ({"y": torch.arange(1, 5)}, "y must hold labels from 0 to 3"),
        ({"y": torch.arange(3)}, "y must ... (4,) ... got (3,)"),
    ],
)
def test_inputs_that_are_refused(conv, change, message):
    case = {"x": torch.zeros(4, 1, 8, 8), "y": torch.arange(4)} | change
    with pytest.raises(ValueError, match=r".*".join(map(re.escape, message.split(" ... ")))):
        certify(conv(), **case, smoothing=Smoothing(sigma=0.25))


def test_a_number_is_no_smoothing(conv, images):
    with pytest.raises(TypeError, match=r"Smoothing\(sigma=0\.25\), got 0\.5"):
        certify(conv(), images(2), torch.zeros(2, dtype=torch.int64), 0.5)


def test_images_and_labels_of_another_type_are_refused(conv):
    with pytest.raises(TypeError, match="divide uint8 images by 255"):
        certify(conv(), torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4), Smoothing(sigma=0.25))
    with pytest.raises(TypeError, match="y must be an int64 tensor of class indices, got list"):
        certify(conv(), torch.zeros(4, 1, 8, 8), [0, 1, 2, 3], Smoothing(sigma=0.25))


def test_logits_must_be_finite_under_noise_too(images):
    class Root(nn.Module):
        """Returns NaN for pixels below 0."""

        def forward(self, x):
            return x.flatten(1)[:, :2].sqrt()

    with pytest.raises(ValueError, match="the network must return finite logits, got NaN"):
        certify(Root(), images(4), torch.zeros(4, dtype=torch.int64), Smoothing(sigma=1.0))
