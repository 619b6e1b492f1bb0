import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import nn

from evaluators import L2, PGD, EpsilonGrid, Linf, radii
from evaluators.attacks import margin
from evaluators.bounds.propagation import NoBound, ProvableRadii, provable_radii
from evaluators.regions import Sampling
from evaluators.regions.shares import ball_shares

NORMS = [Linf(), L2()]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 5])
def test_radii_of_a_linear_network_are_margin_over_dual_norm(linear, images, norm, classes, device):
    network, x = linear(classes).double(), images(20, low=0.3, high=0.7, dtype=torch.float64)
    proof = provable_radii(network.to(device), x.to(device), norm)
    weight, bias = (p.detach().cpu().numpy() for p in network[1].parameters())
    logits = x.flatten(1).numpy() @ weight.T + bias
    np.testing.assert_array_equal(proof.predictions, logits.argmax(1))
    inside = 0
    for i, label in enumerate(proof.predictions):
        steep = np.linalg.norm(weight[label] - np.delete(weight, label, 0), 1 if norm.name == "linf" else 2, axis=1)
        wanted = ((logits[i, label] - np.delete(logits[i], label)) / steep).min()
        assert proof.lipschitz[i] == pytest.approx(wanted, rel=1e-4)
        # The radius may be larger where the pixel range cuts the ball.
        assert proof.radii[i] >= wanted * (1 - 1e-4)
        if wanted < 0.3:
            inside += 1
            assert proof.radii[i] == pytest.approx(wanted, rel=1e-4)
    assert inside > 5


def test_a_linear_network_in_single_precision_loses_little(linear, images):
    network, x = linear(3), images(20, low=0.3, high=0.7)
    single = provable_radii(network, x, L2()).radii
    double = provable_radii(network.double(), x.double(), L2()).radii
    assert (single < double).all()
    np.testing.assert_allclose(single, double, atol=1e-4)


def test_the_pixel_range_cuts_the_linf_ball(linear):
    weight = torch.randn(2, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    network = linear(weight=weight.float()).double().requires_grad_(False)
    x = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64).round(decimals=1)
    x[:, :, :4] = 0
    proof = provable_radii(network, x, Linf())
    for i, label in enumerate(proof.predictions):
        d = (network[1].weight[label] - network[1].weight[1 - label]).numpy()
        gap = float(d @ x[i].flatten().numpy() + (network[1].bias[label] - network[1].bias[1 - label]))
        room = np.where(d > 0, x[i].flatten().numpy(), 1 - x[i].flatten().numpy())

        def left(r, d=d, gap=gap, room=room):
            return gap - np.abs(d) @ np.minimum(r, room)

        exact = brentq(left, 0, 1) if left(1) < 0 else 1.0
        assert proof.radii[i] == pytest.approx(exact, rel=1e-4)
        assert proof.lipschitz[i] < proof.radii[i]


class Mixed(nn.Module):
    """A network with many kinds of operations: constants, a shortcut, a concatenation, max pooling, means, methods."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4]).view(1, 1, 1, 1))
        self.register_buffer("std", torch.tensor([0.6]).view(1, 1, 1, 1))
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem((x - self.mean) / self.std)
        x = F.relu(self.branch(x) + x)
        x = torch.cat([self.pool(x), F.avg_pool2d(x, 2)], 1)
        return self.head(F.dropout(x, 0.5, training=False).mean((2, 3)).view(x.size(0), -1))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.branch = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.pool, self.head = nn.AdaptiveAvgPool2d(2), nn.Linear(16, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x * 2 - 1))
        return self.head(torch.flatten(self.pool((x + self.branch(x)).relu()), 1))


def made(kind, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = kind().eval()
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_var.uniform_(0.3, 1.5)
                layer.running_mean.normal_()
                nn.init.uniform_(layer.weight, -1, 1)
    return network


def conv_net():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3), nn.Tanh()
    )


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.sampled_from([Residual, conv_net]), st.sampled_from(NORMS))
def test_no_attack_fools_within_the_radius(seed, kind, norm):
    network = made(kind, seed)
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    proof = provable_radii(network, x, norm)
    assert (proof.radii >= proof.lipschitz).all()
    assert (proof.radii > 0).mean() > 0.9
    assert (proof.radii <= norm.largest(64)).all()
    attacked(network, x, proof, norm)


def attacked(network, x, proof, norm):
    """Checks that no attack within the provable radius changes the class of an image."""
    y, radius = torch.as_tensor(proof.predictions), torch.as_tensor(proof.radii).to(x.dtype)
    for attack in (PGD(norm=norm, loss=margin, steps=25), PGD(norm=norm, loss=margin, steps=25, random_start=False)):
        points = attack(network, x, y, radius)
        with torch.no_grad():
            assert (network(points).argmax(1) == y).all()


@pytest.mark.parametrize("norm", NORMS)
def test_trained_networks_are_not_fooled_and_their_radii_not_far_too_small(norm):
    network = made(Residual, 0)
    x = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5
    y = torch.arange(200) % 3
    x[y == 1, :, :4] += 0.4
    x[y == 2, :, :, 4:] += 0.4
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(30):
        optimiser.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimiser.step()
    proof = provable_radii(network, x[:30], norm)
    assert (proof.predictions == y[:30].numpy()).mean() > 0.9
    attacked(network, x[:30], proof, norm)
    reached = radii(
        network, x[:30], y[:30], PGD(norm=norm, loss=margin), EpsilonGrid(epsilons=[norm.largest(64) / 2], tolerance=0.1)
    ).numpy()
    assert np.median(proof.radii / reached) > 0.1


class Negated(nn.Module):
    """Applies a network to the negated image, which it computes with three different negations."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(torch.neg(-(x.neg())))


@pytest.mark.parametrize("norm", NORMS)
def test_minus_signs_change_no_radius(linear, images, norm):
    network, x = linear(4).double(), images(12, low=0.3, high=0.7, dtype=torch.float64)
    flipped = linear(weight=-network[1].weight.detach(), bias=network[1].bias.detach()).double()
    wanted, proof = (provable_radii(one, x, norm) for one in (network, Negated(flipped)))
    np.testing.assert_array_equal(proof.predictions, wanted.predictions)
    np.testing.assert_allclose(proof.radii, wanted.radii, rtol=1e-4)
    attacked(network, x, proof, norm)


class TwoPixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(2, 12), nn.Linear(12, 12), nn.Linear(24, 3)

    def forward(self, x):
        h = torch.relu(self.first(x * 4 - 2))
        return self.head(torch.cat([h, h + torch.relu(self.second(h))], 1))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(4))
def test_two_pixels_by_brute_force(norm, seed):
    network = made(TwoPixels, seed).double()
    axis = torch.linspace(0, 1, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        classes = network(grid).argmax(1)
    x = torch.rand(20, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    proof = provable_radii(network, x, norm)
    for centre, label, radius in zip(x, proof.predictions, proof.radii, strict=True):
        distance = norm.size(grid - centre)[classes != int(label)]
        nearest = float(distance.min()) if len(distance) else np.inf
        assert radius <= nearest
        if nearest < 0.2:
            assert radius > 0.02 * (nearest - 0.01)


@pytest.mark.parametrize("norm", NORMS)
def test_radii_of_linear_networks_with_sums_or_concatenations_are_exact(norm, images):
    class Doubled(nn.Module):
        def __init__(self, weight, how):
            super().__init__()
            self.head, self.how = nn.Linear(*reversed(weight.shape)), how
            self.head.load_state_dict({"weight": weight, "bias": torch.zeros(len(weight))})

        def forward(self, x):
            x = x.flatten(1) - 0.5
            return self.head(x + x if self.how == "sum" else torch.cat([x, x], 1))

    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = images(10, low=0.4, high=0.6, dtype=torch.float64)
    wanted = None
    for network in (Doubled(weight, "sum"), Doubled(torch.cat([weight, weight], 1), "cat"), Doubled(0.5 * weight, "sum")):
        radii = provable_radii(network.double(), x, norm).lipschitz
        wanted = radii if wanted is None else wanted
        np.testing.assert_allclose(radii, wanted, rtol=1e-4)
    logits = (x.flatten(1) - 0.5) @ weight.T
    label = logits.argmax(1)
    difference = weight[label][:, None] - weight
    steep = difference.norm(dim=2) if norm.name == "l2" else difference.abs().sum(2)
    gap = logits.gather(1, label[:, None]) - logits
    exact = torch.where(steep > 0, gap / steep, torch.inf).amin(1)
    np.testing.assert_allclose(wanted, exact, rtol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_a_network_with_many_kinds_of_operations_has_bounds(norm, images):
    network, x = made(Mixed, 1), images(8)
    proof = provable_radii(network, x, norm)
    assert isinstance(proof, ProvableRadii)
    assert (proof.radii > 0).all()
    attacked(network, x, proof, norm)


def test_all_points_in_the_ball_of_an_adversarial_image_are_adversarial(images):
    network, x = made(TwoPixels, 1), images(20).flatten(1)[:, :2]
    with torch.no_grad():
        y = network(x).argmax(1)
    adversarial = PGD(loss=margin, steps=20)(network, x, y, 0.9)
    proof = provable_radii(network, adversarial, Linf())
    wrong = proof.predictions != y.numpy()
    assert wrong.sum() > 3
    for image, label, radius in zip(adversarial[wrong], y[wrong], proof.radii[wrong], strict=True):
        assert (
            ball_shares(network, image[None], label[None], Linf(), [radius], sampling=Sampling(samples=100)).share[0, 0] == 1
        )


def test_the_radius_of_a_constant_network_is_the_size_of_the_pixel_range(linear, images):
    network = linear(weight=torch.zeros(2, 64), bias=torch.tensor([1.0, 0.0]))
    for norm in NORMS:
        proof = provable_radii(network, images(3), norm)
        assert (proof.radii == norm.largest(64)).all()
        assert (proof.lipschitz == norm.largest(64)).all()


def test_tied_logits_have_radius_0(linear, images):
    network = linear(weight=torch.ones(2, 64), bias=torch.zeros(2))
    assert (provable_radii(network, images(3), Linf()).radii == 0).all()


def test_batches_change_nothing_and_the_network_is_left_as_it_was(images):
    network, x = made(Mixed, 2).train(), images(7)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    whole, parts = (provable_radii(network, x, L2(), batch_size=size) for size in (7, 2))
    np.testing.assert_allclose(whole.radii, parts.radii, rtol=1e-5)
    assert all(module.training for module in network.modules())
    assert network.stem[2].inplace
    assert all(p.requires_grad and p.grad is None and p.dtype == torch.float32 for p in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


class Forward(nn.Module):
    """A linear layer on a function of the flattened pixels."""

    def __init__(self, f):
        super().__init__()
        self.f, self.head = f, nn.Linear(64, 2)

    def forward(self, x):
        return self.head(self.f(x.flatten(1)))


def used_again(x):
    y = x + 0
    return F.relu(y - 0.5, inplace=True) + y.sub_(0.5) + y


def through_a_view(x):
    y = x - 0.5
    z = y.view(y.size(0), -1)
    z.relu_()
    return y + 0


class Counting(nn.Module):
    """Returns different logits at each call, which a trace cannot represent."""

    def __init__(self):
        super().__init__()
        self.calls, self.head = 0, nn.Linear(64, 2)

    def forward(self, x):
        self.calls += 1
        return self.head(x.flatten(1)) * self.calls


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 2)), "there is no rule for GELU (2)"),
        (Forward(lambda x: x * x), "there is no rule for the operation mul with these arguments"),
        (Forward(lambda x: x if x.sum() > 0 else -x), "the network cannot be traced by torch.fx: "),
        (Forward(used_again), "sub_ changes in place a value that is used again"),
        (Forward(through_a_view), "relu_ changes in place a value that is used again"),
        (Counting(), "the network's logits differ from those of its trace"),
        (Forward(lambda x: x.sigmoid().sort(1).values), "there is no rule for the operation sort with these arguments"),
    ],
)
def test_networks_without_bounds_give_the_reason(network, reason, images):
    proof = provable_radii(network, images(3), Linf())
    assert isinstance(proof, NoBound)
    assert proof.reason.startswith(reason)


def test_a_change_in_place_through_a_view_is_detected_at_an_image_of_zeros():
    """The change multiplies values by 4. At an image of zeros it has no effect, so the logits do not reveal it."""

    def quadrupled(x):
        y = x * 1.0
        y.flatten(1).mul_(4)
        return y.flatten(1)

    class Layered(nn.Module):
        def __init__(self, view):
            super().__init__()
            self.view, self.head = view, nn.Linear(64, 2)

        def forward(self, x):
            y = x.flatten(1) * 1.0
            self.view(y).mul_(4)
            return self.head(y)

    views = (nn.Flatten(), nn.Identity(), nn.Dropout())
    for network in (Forward(quadrupled), *map(Layered, views)):
        proof = provable_radii(network.eval(), torch.zeros(1, 1, 8, 8), Linf())
        assert isinstance(proof, NoBound)
        assert proof.reason == "mul_ changes in place a value that is used again"


def test_concatenation_accepts_axis_for_dim(images):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.head = nn.Linear(64, 4), nn.Linear(64, 4), nn.Linear(8, 2)

        def forward(self, x):
            x = x.flatten(1)
            return self.head(torch.cat([self.left(x), self.right(x)], **self.how))

    network, x = Joined(), images(3)
    network.how = {"dim": 1}
    wanted = provable_radii(network, x, Linf()).radii
    network.how = {"axis": 1}
    np.testing.assert_array_equal(provable_radii(network, x, Linf()).radii, wanted)
    assert (wanted > 0).all()


def test_class_indices_are_no_logits(images):
    class Classes(nn.Module):
        def forward(self, x):
            return (x.flatten(1)[:, :2] > 0.5).long()

    with pytest.raises(TypeError, match=r"floating-point logits, got torch\.int64"):
        provable_radii(Classes(), images(2), Linf())


def test_hooks_are_a_reason_for_no_bounds(linear, images):
    network = linear()
    network[1].register_forward_hook(lambda *_: None)
    assert provable_radii(network, images(2), L2()) == NoBound("the network has forward hooks, which cannot be traced")


def test_a_linear_layer_on_rows_of_pixels_has_bounds(images):
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(x).mean((1, 2))

    class Squeezed(Rows):
        def forward(self, x):
            return self.head(x[:, 0, 0])

    assert isinstance(provable_radii(Rows(), images(2), L2()), ProvableRadii)
    assert isinstance(provable_radii(Squeezed(), images(2), L2()), ProvableRadii)


def test_a_norm_by_name_is_refused(linear, images):
    with pytest.raises(TypeError, match="norm must be Linf\\(\\) or L2\\(\\), got 'linf'"):
        provable_radii(linear(), images(2), "linf")
