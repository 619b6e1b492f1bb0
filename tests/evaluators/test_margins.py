import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy
from torch import nn

from evaluators import FGSM, L2, Linf, adaptive_epsilons, margins, radii
from evaluators.inputs import check_epsilons
from evaluators.margins import density_at_zero

NORMS = [Linf(), L2()]


def labels(network, x):
    """Returns the network's own answers, every tenth changed."""
    with torch.no_grad():
        logits = network(x)
    y = logits.argmax(1)
    y[::10] = (y[::10] + 1) % logits.shape[1]
    return y


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_radii_of_a_linear_network_are_exact(linear, images, classes, device):
    network, x = linear(classes), images(100)
    y = labels(network, x)
    found = margins(network.to(device), x.to(device), y.to(device), NORMS)
    weight, bias = (p.detach().double().cpu().numpy() for p in network[1].parameters())
    logits = x.flatten(1).double().numpy() @ weight.T + bias
    for i, label in enumerate(y.tolist()):
        others = [j for j in range(classes) if j != label]
        gaps = np.array([logits[i, label] - logits[i, j] for j in others])
        assert found.margin[i] == pytest.approx(gaps.min(), abs=1e-5)
        for name, order in (("linf", 1), ("l2", 2)):
            steepness = [np.linalg.norm(weight[label] - weight[j], order) for j in others]
            assert found.radii[name][i] == pytest.approx(max((gaps / steepness).min(), 0), rel=1e-4, abs=1e-6)
    assert (found.radii["linf"][::10] == 0).all()
    assert found.gradient_free == 0


def test_first_order_radii_of_a_linear_network_are_what_fgsm_finds(linear, images):
    network, x = linear(), images(100, low=0.3, high=0.7)
    y = labels(network, x)
    grid = np.geomspace(1e-4, 0.3, 40)
    first_order = margins(network, x, y, [Linf()]).radii["linf"]
    found = radii(network, x, y, FGSM(), grid.tolist()).numpy()
    assert (first_order <= found * (1 + 1e-4)).all()
    assert (found <= np.maximum(first_order, grid[0]) * grid[1] / grid[0] * (1 + 1e-4)).all()


def test_entropy_is_scipys(conv, images):
    network, x = conv(), images(20)
    with torch.no_grad():
        logits = 5 * network(x)
    found = margins(nn.Sequential(network, Times(5)), x, logits.argmax(1), [])
    np.testing.assert_allclose(found.entropy, entropy(logits.double().softmax(1), axis=1), rtol=1e-4)


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def test_the_scale_of_the_logits_changes_margins_and_not_radii(conv, images):
    network, x = conv().double(), images(20, dtype=torch.float64)
    y = labels(network, x)
    here, there = margins(network, x, y, NORMS), margins(nn.Sequential(network, Times(100)), x, y, NORMS)
    np.testing.assert_allclose(there.margin, 100 * here.margin, rtol=1e-9)
    for name in ("linf", "l2"):
        np.testing.assert_allclose(there.radii[name], here.radii[name], rtol=1e-9)


def test_batches_change_nothing(conv, images):
    network, x = conv().double(), images(50, dtype=torch.float64)
    y = labels(network, x)
    whole, parts = margins(network, x, y, NORMS), margins(network, x, y, NORMS, batch_size=7)
    np.testing.assert_allclose(parts.margin, whole.margin, rtol=1e-9)
    np.testing.assert_allclose(parts.radii["l2"], whole.radii["l2"], rtol=1e-9)


class Round(nn.Module):
    def forward(self, x):
        return x.round()


class Detach(nn.Module):
    def forward(self, x):
        return x.detach()


@pytest.mark.parametrize("kind", [Round, Detach])
def test_without_gradients_the_radii_are_infinite(linear, images, kind):
    network, x = nn.Sequential(kind(), linear(3)), images(50)
    found = margins(network, x, labels(network, x), NORMS)
    assert found.gradient_free == 1
    for name in ("linf", "l2"):
        assert np.isinf(found.radii[name][found.margin > 0]).all()
        assert (found.radii[name][found.margin <= 0] == 0).all()


def test_gradient_free_counts_among_the_right_images(images):
    class Half(nn.Module):
        """Follows its pixels only where the first is above a half."""

        def forward(self, x):
            follows = x[:, 0, 0, :1] > 0.5
            return torch.where(follows, x.flatten(1)[:, :2] * torch.tensor([1.0, -1.0]), torch.tensor([1.0, 0.0]))

    x = images(40)
    y = torch.zeros(40, dtype=torch.int64)
    y[:10] = 1
    expected = (x[10:, 0, 0, 0] <= 0.5).double().mean().item()
    assert 0.2 < expected < 0.8
    assert margins(Half(), x, y, NORMS).gradient_free == pytest.approx(expected)


def test_network_is_left_as_it_was(conv, images):
    network, x = conv(), images()
    y = labels(network, x)
    network.train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    margins(network, x, y, NORMS)
    assert all(module.training for module in network.modules())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not x.requires_grad


@pytest.mark.parametrize(
    ("x", "y", "kind", "message"),
    [
        (torch.full((4, 1, 8, 8), 2.0), torch.arange(4), ValueError, "x must have pixels in [0, 1], got [2, 2]"),
        (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4), TypeError, "divide uint8 images by 255"),
        (torch.zeros(4, 1, 8, 8), torch.arange(1, 5), ValueError, "y must hold labels from 0 to 3"),
        (torch.zeros(4, 1, 8, 8), torch.eye(4, dtype=torch.int64), ValueError, "pass class indices, not one-hot rows"),
        (torch.zeros(4, 1, 8, 8), torch.arange(3), ValueError, "y must have shape (4,) to go with x, got (3,)"),
        (torch.zeros(4, 1, 8, 8), [0, 1, 2, 3], TypeError, "y must be an int64 tensor of class indices, got list"),
        (torch.zeros(4, 1, 8, 8), np.arange(4), TypeError, "y must be an int64 tensor of class indices, got ndarray"),
    ],
)
def test_inputs_that_are_refused(conv, x, y, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        margins(conv(), x, y, NORMS)


def test_labels_of_another_number_of_images_are_refused_whatever_the_batch_size(conv):
    with pytest.raises(ValueError, match=re.escape("y must have shape (4,) to go with x, got (2,)")):
        margins(conv(), torch.zeros(4, 1, 8, 8), torch.arange(2), NORMS, batch_size=2)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 30.0])
def test_density_of_half_normal_margins(sigma):
    samples = np.abs(np.random.default_rng(0).normal(0, sigma, 20_000))
    assert density_at_zero(samples) == pytest.approx(np.sqrt(2 / np.pi) / sigma, rel=0.05)


def test_density_of_uniform_margins():
    assert density_at_zero(np.random.default_rng(0).uniform(0, 4, 20_000)) == pytest.approx(0.25, rel=0.05)


def test_density_leaves_misclassified_images_out():
    right = np.abs(np.random.default_rng(0).normal(0, 1, 500))
    assert density_at_zero(np.append(right, -np.ones(300))) == density_at_zero(right)


@pytest.mark.parametrize("margin", [np.linspace(1, 2, 9), -np.ones(50), np.ones(50), np.array([])])
def test_no_density_without_ten_different_right_images(margin):
    assert density_at_zero(margin) is None


some_radii = st.lists(st.one_of(st.sampled_from([0.0, np.inf]), st.floats(1e-9, 1e6)), max_size=50).map(np.array)


@given(first_order=some_radii, pixels=st.sampled_from([2, 48, 64, 784, 3072, 3 * 64 * 64, 3 * 224 * 224]))
def test_adaptive_epsilons_are_a_grid_that_every_measurement_takes(first_order, pixels):
    for norm in NORMS:
        grid = adaptive_epsilons(first_order, norm.largest(pixels))
        check_epsilons(grid, norm.largest(pixels))
        assert 4 <= len(grid) <= 16
        assert grid[0] > 0


def test_adaptive_epsilons_span_the_radii():
    first_order = np.append(np.geomspace(0.001, 0.1, 1000), [0.0, np.inf])
    grid = adaptive_epsilons(first_order, 1.0)
    usable = first_order[:-2]
    # From where ten of the thousand images lie below, to 1.5 times the 90 % quantile.
    assert grid[0] == pytest.approx(np.quantile(usable, 0.01), rel=0.01)
    assert grid[-1] == pytest.approx(np.quantile(usable, 0.9) * 1.5, rel=0.01)
    steps = np.diff(np.log(grid))
    assert len(grid) == 12
    assert steps.max() < 1.1 * steps.min()
    assert len(adaptive_epsilons(first_order, 1.0, points=5)) == 5
