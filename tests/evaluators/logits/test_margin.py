import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy, halfnorm
from scipy.stats import norm as normal
from torch import nn

from evaluators import FGSM, L2, Linf, margins, radii
from evaluators.engine.input_checks import check_epsilons
from evaluators.logits.margin import adaptive_epsilons, density_at_zero, margin_density

NORMS = [Linf(), L2()]


def labels(network, x):
    """Returns the predictions of the network as labels, with every tenth label changed."""
    with torch.no_grad():
        logits = network(x)
    y = logits.argmax(1)
    y[::10] = (y[::10] + 1) % logits.shape[1]
    return y


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_radii_of_a_linear_network_are_exact(linear, images, classes, device):
    network, x = linear(classes), images(100)
    y = labels(network, x)
    logit_margins = margins(network.to(device), x.to(device), y.to(device), NORMS)
    weight, bias = (p.detach().double().cpu().numpy() for p in network[1].parameters())
    logits = x.flatten(1).double().numpy() @ weight.T + bias
    for i, label in enumerate(y.tolist()):
        others = [j for j in range(classes) if j != label]
        gaps = np.array([logits[i, label] - logits[i, j] for j in others])
        assert logit_margins.margin[i] == pytest.approx(gaps.min(), abs=1e-5)
        for name, order in (("linf", 1), ("l2", 2)):
            steepness = [np.linalg.norm(weight[label] - weight[j], order) for j in others]
            assert logit_margins.radii[name][i] == pytest.approx(max((gaps / steepness).min(), 0), rel=1e-4, abs=1e-6)
    assert (logit_margins.radii["linf"][::10] == 0).all()
    assert logit_margins.zero_gradient_share == 0


@pytest.mark.parametrize("classes", [None, 1, 3, 9, 50])
def test_the_nearest_wrong_classes_are_kept(linear, images, classes):
    network, x = linear(10), images(60)
    y = labels(network, x)
    logit_margins = margins(network, x, y, NORMS, classes=classes)
    kept = min(classes or 9, 9)
    weight, bias = (p.detach().double().numpy() for p in network[1].parameters())
    logits = x.flatten(1).double().numpy() @ weight.T + bias
    for i, label in enumerate(y.tolist()):
        rivals = sorted(set(range(10)) - {label}, key=lambda j: -logits[i, j])[:kept]
        gaps = [logits[i, label] - logits[i, j] for j in rivals]
        np.testing.assert_allclose(logit_margins.differences[i], gaps, atol=1e-5)
        for name, order in (("linf", 1), ("l2", 2)):
            steepness = [np.linalg.norm(weight[label] - weight[j], order) for j in rivals]
            np.testing.assert_allclose(logit_margins.gradient_norms[name][i], steepness, rtol=1e-5)
            assert logit_margins.radii[name][i] == pytest.approx(max(min(np.divide(gaps, steepness)), 0), rel=1e-4, abs=1e-6)
    np.testing.assert_array_equal(logit_margins.margin, logit_margins.differences[:, 0])


class Ball(nn.Module):
    """Predicts class 0 within a distance of 3 from a centre, and class 1 outside."""

    def forward(self, x):
        distance = (x.flatten(1) - 0.5).square().sum(1)
        return torch.stack([9 - distance, torch.zeros_like(distance)], dim=1)


def test_a_curved_boundary_is_replaced_by_a_tangent(images):
    x = images(50, dtype=torch.float64)
    distance = (x.flatten(1) - 0.5).norm(dim=1).numpy()
    logit_margins = margins(Ball(), x, torch.zeros(50, dtype=torch.int64), [L2()])
    assert logit_margins.right.all()
    np.testing.assert_allclose(logit_margins.differences[:, 0], 9 - distance**2)
    np.testing.assert_allclose(logit_margins.gradient_norms["l2"][:, 0], 2 * distance)
    # The exact radius is 3 - distance.
    np.testing.assert_allclose(logit_margins.radii["l2"], (3 - distance) * (3 + distance) / (2 * distance))


class Count(torch.autograd.Function):
    """An identity layer that counts the images of its backward passes."""

    passed = 0

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        Count.passed += len(gradient)
        return gradient


class Counted(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(Count.apply(x))


@pytest.mark.parametrize(("classes", "passes"), [(None, 9), (3, 3), (1, 1)])
def test_costs_one_backward_pass_per_image_and_wrong_class(linear, images, classes, passes):
    network, x = linear(10), images(40)
    Count.passed = 0
    margins(Counted(network), x, labels(network, x), NORMS, batch_size=16, classes=classes)
    assert Count.passed == 40 * passes


def test_gradients_that_are_small_or_many_keep_their_norms(linear, images):
    network, x = linear(3), images(30)
    y = labels(network, x)
    here, there = margins(network, x, y, NORMS), margins(nn.Sequential(network, Times(1e-25)), x, y, NORMS)
    for name in ("linf", "l2"):
        np.testing.assert_allclose(there.radii[name], here.radii[name], rtol=1e-5)
    # In half precision, the sum of 64 gradients of 2,000 would be infinite.
    signs = 1.0 - 2 * (torch.arange(64) % 2)
    half = linear(weight=torch.stack([1000 * signs, -1000 * signs]), bias=torch.tensor([4.0, 0.0])).half()
    grey = torch.full((2, 1, 8, 8), 0.5, dtype=torch.float16)
    logit_margins = margins(half, grey, torch.zeros(2, dtype=torch.int64), NORMS)
    np.testing.assert_allclose(logit_margins.radii["linf"], 4 / 128_000)
    np.testing.assert_allclose(logit_margins.radii["l2"], 4 / 16_000)


def test_first_order_radii_of_a_linear_network_are_what_fgsm_finds(linear, images):
    network, x = linear(), images(100, low=0.3, high=0.7)
    y = labels(network, x)
    grid = np.geomspace(1e-4, 0.3, 40)
    first_order = margins(network, x, y, [Linf()]).radii["linf"]
    image_radii = radii(network, x, y, FGSM(), grid.tolist()).numpy()
    assert (first_order <= image_radii * (1 + 1e-4)).all()
    assert (image_radii <= np.maximum(first_order, grid[0]) * grid[1] / grid[0] * (1 + 1e-4)).all()


def test_entropy_is_scipys(conv, images):
    network, x = conv(), images(20)
    with torch.no_grad():
        logits = 5 * network(x)
    logit_margins = margins(nn.Sequential(network, Times(5)), x, logits.argmax(1), [])
    np.testing.assert_allclose(logit_margins.entropy, entropy(logits.double().softmax(1), axis=1), rtol=1e-4)


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
    logit_margins = margins(network, x, labels(network, x), NORMS)
    assert logit_margins.zero_gradient_share == 1
    for name in ("linf", "l2"):
        assert np.isinf(logit_margins.radii[name][logit_margins.margin > 0]).all()
        assert (logit_margins.radii[name][logit_margins.margin <= 0] == 0).all()


def test_the_share_without_gradient_is_among_the_correct_images(images):
    class Half(nn.Module):
        """Depends on the pixels only if the first pixel is above 0.5."""

        def forward(self, x):
            follows = x[:, 0, 0, :1] > 0.5
            return torch.where(follows, x.flatten(1)[:, :2] * torch.tensor([1.0, -1.0]), torch.tensor([1.0, 0.0]))

    x = images(40)
    y = torch.zeros(40, dtype=torch.int64)
    y[:10] = 1
    expected = (x[10:, 0, 0, 0] <= 0.5).double().mean().item()
    assert 0.2 < expected < 0.8
    assert margins(Half(), x, y, NORMS).zero_gradient_share == pytest.approx(expected)


def test_one_wrong_class_with_a_gradient_is_enough(images):
    class OneMoves(nn.Module):
        def forward(self, x):
            moving = x.flatten(1).mean(1)
            return torch.stack([torch.full_like(moving, 2.0), moving, torch.full_like(moving, -1.0)], dim=1)

    logit_margins = margins(OneMoves(), images(10), torch.zeros(10, dtype=torch.int64), NORMS)
    assert logit_margins.zero_gradient_share == 0
    np.testing.assert_allclose(logit_margins.radii["linf"], 2 - images(10).flatten(1).mean(1), rtol=1e-5)


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
        (torch.zeros(4, 1, 8, 8), torch.arange(3), ValueError, "y must have shape (4,) to match x, got (3,)"),
        (torch.zeros(4, 1, 8, 8), [0, 1, 2, 3], TypeError, "y must be an int64 tensor of class indices, got list"),
        (torch.zeros(4, 1, 8, 8), np.arange(4), TypeError, "y must be an int64 tensor of class indices, got ndarray"),
    ],
)
def test_inputs_that_are_refused(conv, x, y, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        margins(conv(), x, y, NORMS)


def test_labels_of_another_number_of_images_are_refused_whatever_the_batch_size(conv):
    with pytest.raises(ValueError, match=re.escape("y must have shape (4,) to match x, got (2,)")):
        margins(conv(), torch.zeros(4, 1, 8, 8), torch.arange(2), NORMS, batch_size=2)


def test_zero_wrong_classes_are_refused(conv, images):
    with pytest.raises(ValueError, match=r"classes must be at least 1.* got 0"):
        margins(conv(), images(4), torch.arange(4), NORMS, classes=0)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 30.0])
def test_density_of_half_normal_margins(sigma):
    samples = np.abs(np.random.default_rng(0).normal(0, sigma, 20_000))
    assert density_at_zero(samples) == pytest.approx(np.sqrt(2 / np.pi) / sigma, rel=0.05)


def test_density_of_uniform_margins():
    assert density_at_zero(np.random.default_rng(0).uniform(0, 4, 20_000)) == pytest.approx(0.25, rel=0.05)


def test_density_leaves_misclassified_images_out():
    right = np.abs(np.random.default_rng(0).normal(0, 1, 500))
    assert density_at_zero(np.append(right, -np.ones(300))) == density_at_zero(right)


def test_density_is_that_of_half_normal_margins():
    samples = np.abs(np.random.default_rng(0).normal(0, 2, 20_000))
    at = np.linspace(0, 12, 300)
    density = margin_density(np.append(samples, -samples), at)
    np.testing.assert_allclose(density, halfnorm.pdf(at, scale=2), atol=0.02)
    assert np.trapezoid(density, at) == pytest.approx(1, abs=0.002)
    assert margin_density(samples, np.zeros(1))[0] == density_at_zero(samples)
    assert (margin_density(samples, np.array([-1.0, -0.01])) == 0).all()


def test_density_is_a_sum_of_gaussians_at_the_margins_and_the_negated_margins():
    samples = np.random.default_rng(1).exponential(1, 40)
    width = 40**-0.2 * np.std(samples, ddof=1)
    for at in (0.0, 0.3, 2.0):
        expected = np.mean(normal.pdf(at, samples, width) + normal.pdf(at, -samples, width))
        assert margin_density(samples, np.array([at]))[0] == pytest.approx(expected)


def test_density_at_zero_is_off_by_0_8_bandwidths_times_the_slope():
    samples = np.random.default_rng(0).exponential(1, 50_000)
    width = 50_000**-0.2
    assert density_at_zero(samples) == pytest.approx(1 - 0.8 * width, abs=0.03)


@pytest.mark.parametrize(("centre", "exact"), [(10, 0.3989), (5, 0.3989)])
def test_density_of_margins_far_from_zero_is_not_smeared(centre, exact):
    samples = np.random.default_rng(0).normal(centre, 1, 1000)
    assert margin_density(samples, np.array([float(centre)]))[0] == pytest.approx(exact, abs=0.04)


@pytest.mark.parametrize("margin", [np.linspace(1, 2, 9), -np.ones(50), np.ones(50), np.array([])])
def test_no_density_without_ten_different_right_images(margin):
    assert density_at_zero(margin) is None


some_radii = st.lists(st.one_of(st.sampled_from([0.0, np.inf]), st.floats(1e-9, 1e6)), max_size=50).map(np.array)


@given(first_order=some_radii, pixels=st.sampled_from([2, 48, 64, 784, 3072, 3 * 64 * 64, 3 * 224 * 224]))
def test_adaptive_epsilons_are_a_valid_grid(first_order, pixels):
    for norm in NORMS:
        grid = adaptive_epsilons(first_order, norm.largest(pixels))
        check_epsilons(grid, norm.largest(pixels))
        assert 4 <= len(grid) <= 20
        assert grid[0] > 0


def test_adaptive_epsilons_span_the_radii():
    first_order = np.append(np.geomspace(0.001, 0.1, 1000), [0.0, np.inf])
    grid = adaptive_epsilons(first_order, 1.0)
    usable = first_order[:-2]
    # The grid reaches from the radius with ten of the thousand images below it to 1.5 times the 90 % quantile.
    assert np.quantile(usable, 0.01) / 10 ** (1 / 6) < grid[0] <= np.quantile(usable, 0.01)
    assert np.quantile(usable, 0.9) * 1.5 <= grid[-1] < np.quantile(usable, 0.9) * 1.5 * 10 ** (1 / 6)
    steps = np.diff(np.log10(grid))
    assert np.abs(steps - 1 / 6).max() < 0.002
    assert (
        len(adaptive_epsilons(first_order, 1.0, points=5)) < len(grid) < len(adaptive_epsilons(first_order, 1.0, points=24))
    )


@pytest.mark.parametrize("factor", [1.0, 1.7, 3.0])
@pytest.mark.parametrize("decades", [1, 2, 3])
def test_grids_of_two_networks_share_values(factor, decades):
    here = adaptive_epsilons(np.geomspace(0.01, 0.1, 500), 1.0)
    there = adaptive_epsilons(factor * np.geomspace(0.01 / 10 ** (decades - 1), 0.1, 500), 1.0)
    low, high = max(here[0], there[0]), min(here[-1], there[-1])
    fewer = min(([e for e in grid if low <= e <= high] for grid in (here, there)), key=len)
    # The coarse grid is a subset of the fine grid, except for a last point that is lowered to the largest epsilon.
    assert len(set(here) & set(there)) >= len(fewer) - 1 >= 3


def test_gradients_are_measured_inside_no_grad(conv, images):
    network, x = conv(), images(6)
    y = network(x).argmax(1)
    wanted = margins(network, x, y, [Linf()])
    with torch.no_grad():
        logit_margins = margins(network, x, y, [Linf()])
    np.testing.assert_array_equal(logit_margins.radii["linf"], wanted.radii["linf"])
    assert np.isfinite(logit_margins.radii["linf"]).all()


def test_gradients_that_are_not_finite_give_a_warning(linear):
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = linear()

        def forward(self, x):
            return self.head(x.sqrt())

    x = torch.full((2, 1, 8, 8), 0.5)
    x[0, 0, 0, 0] = 0
    with pytest.warns(UserWarning, match="NaN or infinite entries at 1 of 2 points"):
        margins(Root(), x, Root()(x).argmax(1), [Linf()])


def test_a_grid_has_points():
    with pytest.raises(ValueError, match="points must be at least 1, got 0"):
        adaptive_epsilons(np.array([0.1]), 1.0, 0)
