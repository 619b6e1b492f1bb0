"""Auto-PGD: schedule and steps, exact radii of linear networks, and comparisons with the package autoattack."""

import re

import pytest
import torch
from torch import nn

from evaluators import APGD, L2, PGD, Linf, TargetedAPGD, radii
from evaluators.attacks import GradientOracle, cross_entropy, dlr, margin
from evaluators.attacks.apgd import checkpoints, climb
from evaluators.engine.noise import ImageNoise

NORMS = (Linf(), L2())


def right_labels(network, x):
    with torch.no_grad():
        return network(x).argmax(1)


class Counting(nn.Module):
    """Records the number of images of each call."""

    def __init__(self, network):
        super().__init__()
        self.network, self.counts = network, []

    def forward(self, x):
        self.counts.append(len(x))
        return self.network(x)


class Peak(nn.Module):
    """Two logits whose margin loss has one maximum, -1. So no image is ever misclassified."""

    def __init__(self, top):
        super().__init__()
        self.top = top

    def forward(self, x):
        right = 1 + (x - self.top).flatten(1).square().sum(1)
        return torch.stack([right, torch.zeros_like(right)], 1)


def test_checkpoints_of_the_paper():
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(checkpoints(100).values()) == [22, 19, 16, 13, 10, 7, 6, 6]
    assert list(checkpoints(1000)) == [220, 410, 570, 700, 800, 870, 930, 990]
    assert checkpoints(1) == {1: 1}
    for steps in range(1, 200):
        periods = checkpoints(steps)
        assert sum(periods.values()) == max(periods) <= steps


@pytest.mark.parametrize("norm", NORMS)
def test_it_reaches_the_exact_radii_of_a_linear_network(norm, linear, images):
    network, x = linear(), images(300, low=0.35, high=0.65)
    y = right_labels(network, x)
    weight = network[1].weight.detach()
    with torch.no_grad():
        exact = -margin(network(x), y) / norm.dual((weight[0] - weight[1])[None])
    grid = torch.tensor([0.001 * 1.5**k for k in range(1, 12)])
    assert exact.median() < grid[-1]
    # Radii very close to an epsilon of the grid are left out, because rounding could move them.
    clear = ((exact[:, None] / grid - 1).abs() > 1e-3).all(1)
    assert clear.sum() > 250
    edges = torch.cat([grid.double(), torch.tensor([torch.inf])])
    expected = edges[torch.searchsorted(grid, exact)]
    image_radii = radii(network, x, y, APGD(norm=norm, loss=margin, steps=20), grid.tolist())
    assert image_radii[clear].tolist() == expected[clear].tolist()


@pytest.mark.parametrize("norm", NORMS)
def test_targets_reach_the_exact_radii_of_a_linear_network_of_several_classes(norm, linear, images):
    network, x = linear(5), images(200, low=0.35, high=0.65)
    y = right_labels(network, x)
    weight = network[1].weight.detach()
    with torch.no_grad():
        logits = network(x)
    rises = norm.dual((weight[:, None] - weight[None]).flatten(0, 1)).view(5, 5)
    exact = ((logits.gather(1, y[:, None]) - logits) / rises[y]).scatter(1, y[:, None], torch.inf).amin(1)
    attack = TargetedAPGD(norm=norm, targets=4, steps=30)
    assert (radii(network, x, y, attack, [float(exact.median())]) < torch.inf)[exact < 0.99 * exact.median()].all()
    fooled = right_labels(network, attack(network, x, y, 0.99 * exact)) != y
    assert not fooled.any()
    fooled = right_labels(network, attack(network, x, y, 1.01 * exact)) != y
    assert fooled.all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_step_shrinks_around_a_peak_inside_the_ball(norm, images):
    x = images(50, low=0.4, high=0.6)
    epsilon = 0.2 if norm == Linf() else 1.0
    top = x + norm.sample(x, torch.full((50, 1, 1, 1), 0.3 * epsilon), ImageNoise.of(1, torch.arange(50)))
    network, y = Peak(top), torch.zeros(50, dtype=torch.int64)
    with torch.no_grad():
        clean = norm.size(x - top)

    def distance(attack):
        # `Attack.__call__` would run the network on one image, but the network has 50 peaks, one for each image.
        target = GradientOracle(network, x, y, norm, torch.full((50,), epsilon), keep="nothing")
        delta = attack.perturb(target, x, torch.full((50, 1, 1, 1), epsilon), ImageNoise.of(0, torch.arange(50)))
        return norm.size(x + delta - top).max() / epsilon

    assert clean.max() > 0.25 * epsilon
    assert distance(APGD(norm=norm, loss=margin)) < 0.06
    assert distance(PGD(norm=norm, loss=margin, steps=100, step_size=2.0)) > 0.5


@pytest.mark.parametrize("norm", NORMS)
def test_it_returns_the_best_evaluated_point(norm, conv, images):
    network, x = conv(), images()
    y = right_labels(network, x)
    seen = []

    def recorded(logits, y):
        seen.append(margin(logits, y).detach())
        return margin(logits, y)

    adversarial = APGD(norm=norm, loss=recorded, steps=25, restarts=2)(network, x, y, 0.02)
    assert len(seen) == 2 * (25 + 1)
    with torch.no_grad():
        torch.testing.assert_close(margin(network(adversarial), y), torch.stack(seen).amax(0))


def test_more_restarts_only_add_fooled_images(conv, images):
    network, x = conv(classes=10), images(200)
    y = right_labels(network, x)
    once, thrice = (radii(network, x, y, APGD(steps=5, restarts=restarts), [0.01, 0.02, 0.04, 0.08]) for restarts in (1, 3))
    assert (thrice <= once).all()
    assert (thrice < once).any()


def test_it_targets_the_classes_with_the_largest_logits():
    # The second logit is the nearest to the first, but no pixel changes it. The third logit is lower, and every pixel
    # changes it.
    layer = nn.Linear(64, 3)
    weight = torch.zeros(3, 64)
    weight[2] = 1
    layer.load_state_dict({"weight": weight, "bias": torch.tensor([0.0, -1.0, -2.0 - 32.0])})
    network = nn.Sequential(nn.Flatten(), layer)
    x, y = torch.full((4, 1, 8, 8), 0.5), torch.zeros(4, dtype=torch.int64)
    assert (right_labels(network, TargetedAPGD(targets=1, steps=20)(network, x, y, 0.1)) == 0).all()
    assert (right_labels(network, TargetedAPGD(targets=2, steps=20)(network, x, y, 0.1)) == 2).all()


@pytest.mark.parametrize(("classes", "epsilon"), [(2, 0.3), (3, 0.05), (4, 0.1)])
def test_there_may_be_fewer_classes_than_targets(classes, epsilon, conv, images):
    network, x = conv(classes), images(40)
    y = right_labels(network, x)
    attack = TargetedAPGD(steps=10)
    walks = Counting(network)
    attack(walks, x, y, epsilon)
    # One image to check the network, one pass over the clean images, and then 11 passes per target: the start and 10 steps.
    assert walks.counts == [1, 40] + [40] * (classes - 1) * 11
    weaker = (right_labels(network, PGD(steps=10)(network, x, y, epsilon)) != y).sum()
    assert (right_labels(network, attack(network, x, y, epsilon)) != y).sum() >= weaker > 0


def test_a_fooled_image_costs_nothing_more(conv, images):
    network, x = Counting(conv(10)), images(100)
    y = right_labels(network, x)
    for attack in (APGD(steps=20), TargetedAPGD(steps=20, targets=3)):
        network.counts.clear()
        adversarial = attack(network, x, y, 0.02, stop_when_fooled=True)
        walk = network.counts[1:]
        assert walk == sorted(walk, reverse=True)
        fooled = int((right_labels(network, adversarial) != y).sum())
        assert 0 < fooled < 100
        assert walk[-1] <= 100 - fooled + 5


def test_dlr_does_not_depend_on_the_scale_of_the_logits(conv, images):
    network, x = conv(10), images(100)
    y = right_labels(network, x)
    # Scaling by a power of two is exact. The gradient of cross-entropy is zero at the scaled logits.
    large = nn.Sequential(network, Scale(2.0**14))
    grid = [0.01, 0.02, 0.04]
    for attack in (APGD(loss=dlr, steps=20), TargetedAPGD(steps=20, targets=2)):
        expected = radii(network, x, y, attack, grid)
        assert radii(large, x, y, attack, grid).tolist() == expected.tolist()
    masked = radii(large, x, y, APGD(steps=20), grid).isfinite().sum()
    assert masked < 0.7 * radii(network, x, y, APGD(steps=20), grid).isfinite().sum()


class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"rho": -0.1}, "rho must be between 0 and 1, a share of the steps, got -0.1"),
        ({"rho": float("nan")}, "rho must be between 0 and 1, a share of the steps, got nan"),
    ],
)
def test_apgd_refuses_settings(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        APGD(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"targets": 0}, "targets must be at least 1, got 0"),
        ({"rho": 1.1}, "rho must be between 0 and 1, a share of the steps, got 1.1"),
    ],
)
def test_targeted_apgd_refuses_settings(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TargetedAPGD(**settings)


def test_dlr_with_two_classes_is_refused(conv, images):
    network, x = conv(2), images()
    with pytest.raises(ValueError, match="use margin"):
        APGD(loss=dlr)(network, x, right_labels(network, x), 0.1)


@pytest.fixture(scope="module")
def autopgd():
    return pytest.importorskip("pyautoattack.autopgd_base")


@pytest.mark.parametrize("steps", [20, 100])
@pytest.mark.parametrize(("norm", "epsilon"), [(Linf(), 0.09), (L2(), 0.5)])
def test_a_run_has_the_pixels_of_autoattack(autopgd, many_digits, norm, epsilon, steps):
    # In single precision, rounding could decide whether a loss has risen.
    x, y = many_digits[1][:100].double(), many_digits[2][:100]
    network = nn.Sequential(*many_digits[0])
    network.double()
    try:
        torch.set_default_dtype(torch.float64)
        oracle = autopgd.APGDAttack(
            network, n_iter=steps, norm={"linf": "Linf", "l2": "L2"}[norm.name], eps=epsilon, loss="ce"
        )
        oracle.init_hyperparam(x)
        starts = []

        def noted(x):
            starts.append(x.detach())
            return network(x)

        sizes = torch.full((100,), epsilon)
        target = GradientOracle(noted, x, y, norm, sizes, keep="nothing")
        adversarial_x, _ = climb(
            lambda points: target.value_and_gradient(points, cross_entropy),
            x,
            sizes.view(-1, 1, 1, 1),
            ImageNoise.of(0, torch.arange(100)),
            norm,
            steps=steps,
            rho=0.75,
        )
        expected = oracle.attack_single_run(x, y, x_init=starts[0])[0]
    finally:
        torch.set_default_dtype(torch.float32)
        network.float()
    assert norm.size(starts[0] - x).max() > 0.5 * epsilon
    assert ((adversarial_x - expected).flatten(1).abs().amax(1) < 1e-6).sum() >= 98


@pytest.mark.parametrize("attack", [APGD(), APGD(loss=dlr), TargetedAPGD(targets=3)], ids=["ce", "dlr", "targeted"])
@pytest.mark.parametrize(("norm", "epsilon"), [(Linf(), 0.08), (L2(), 0.5)])
def test_errors_are_autoattacks(autopgd, many_digits, attack, norm, epsilon):
    network, x, y = many_digits
    name = {"linf": "Linf", "l2": "L2"}[norm.name]
    if isinstance(attack, TargetedAPGD):
        adversarial = TargetedAPGD(norm=norm, targets=3, steps=50)(network, x, y, epsilon, stop_when_fooled=True)
        oracle = autopgd.APGDAttack_targeted(network, n_iter=50, norm=name, eps=epsilon, n_target_classes=3)
    else:
        adversarial = APGD(norm=norm, loss=attack.loss)(network, x, y, epsilon, stop_when_fooled=True)
        oracle = autopgd.APGDAttack(network, norm=name, eps=epsilon, loss="dlr" if attack.loss is dlr else "ce")
    with torch.random.fork_rng(devices=[]):
        expected = int((right_labels(network, oracle.perturb(x.clone(), y)) != y).sum())
    fooled = int((right_labels(network, adversarial) != y).sum())
    assert 20 < expected < 180
    assert expected - 2 <= fooled <= expected + 4
