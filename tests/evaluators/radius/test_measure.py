import math
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from evaluators import (
    BIM,
    FGSM,
    FMN,
    L2,
    MIFGSM,
    PGD,
    EpsilonGrid,
    Linf,
    Norm,
    StepLL,
    UniformNoise,
    describe,
    error_curve,
    radii,
)
from evaluators.attacks import Attack, AttackEnsemble, MinimumNorm, cross_entropy, margin
from evaluators.engine.batches import Batches
from evaluators.engine.prepared import predict, prepare
from evaluators.radius.measure import measure

LINF_GRID = np.geomspace(2e-4, 0.3, 60).tolist()
L2_GRID = np.geomspace(2e-3, 2, 60).tolist()


def identify(attack):
    return "-".join(str(value) for value in describe(attack).values())


def right_labels(network, x):
    with torch.no_grad():
        return network(x).argmax(1)


def rounded_up(exact, grid):
    """Returns exact radii rounded up to the grid. Fails if floating-point errors could change the grid point of a radius."""
    grid = np.asarray(grid)
    assert np.abs(exact[exact > 0, None] / grid - 1).min() > 1e-5
    return np.where(exact > 0, np.append(grid, np.inf)[np.searchsorted(grid, exact)], 0)


def distances(network, x, y, order):
    """Returns the distances of images from the boundary of a linear network of two classes; 0 for misclassified images.

    `order` is the order of the dual norm, by which the margin is divided.
    """
    weight, bias = (p.detach().double() for p in network[1].parameters())
    sign = 1 - 2 * y.double()
    gap = sign * (x.flatten(1).double() @ (weight[0] - weight[1]) + bias[0] - bias[1])
    return (gap / (weight[0] - weight[1]).norm(order)).clamp(min=0).numpy()


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(),
        FGSM(loss=margin),
        StepLL(),
        PGD(steps=4, random_start=False),
        PGD(steps=10, random_start=True),
        PGD(steps=10, loss=margin),
    ],
    ids=identify,
)
def test_radii_of_a_linear_network_are_margin_over_the_l1_norm(linear, images, device, attack):
    network, x = linear(), images(200, low=0.35, high=0.65, seed=1)
    y = right_labels(network, x)
    y[::10] = 1 - y[::10]
    expected = rounded_up(distances(network, x, y, 1), LINF_GRID)
    image_radii = radii(network.to(device), x.to(device), y.to(device), attack, LINF_GRID)
    assert image_radii.dtype == torch.float64
    assert image_radii.device.type == "cpu"
    assert (expected == 0).sum() == 20
    assert len(np.unique(expected)) > 20
    np.testing.assert_array_equal(image_radii.numpy(), expected)


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(norm=L2()),
        FGSM(norm=L2(), loss=margin),
        StepLL(norm=L2()),
        PGD(norm=L2(), steps=4, random_start=False),
        PGD(norm=L2(), steps=60, random_start=True),
        PGD(norm=L2(), steps=60, loss=margin),
    ],
    ids=identify,
)
def test_radii_of_a_linear_network_are_margin_over_the_l2_norm(linear, images, device, attack):
    network, x = linear(), images(200, low=0.35, high=0.65, seed=1)
    y = right_labels(network, x)
    y[::10] = 1 - y[::10]
    expected = rounded_up(distances(network, x, y, 2), L2_GRID)
    image_radii = radii(network.to(device), x.to(device), y.to(device), attack, L2_GRID)
    assert len(np.unique(expected)) > 20
    np.testing.assert_array_equal(image_radii.numpy(), expected)


@pytest.mark.parametrize(("norm", "order", "grid"), [(Linf(), 1, LINF_GRID), (L2(), 2, L2_GRID)], ids=["linf", "l2"])
@pytest.mark.parametrize("loss", [cross_entropy, margin])
@pytest.mark.parametrize("scale", [1e-24, 1e-6, 20.0, 40.0])
def test_radii_do_not_depend_on_the_scale_of_the_gradient(linear, images, norm, order, grid, loss, scale):
    # If the logits differ by about 57, the gradient of cross-entropy is near 1e-25. Its direction is right, but in float32
    # its square is 0. The derivative with respect to the true logit is rounded to 0. The rows of the weight are opposite, so
    # the derivative with respect to the other logit alone gives the right direction.
    weight = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    network, x = linear(weight=torch.cat([weight, -weight]), scale=scale), images(200, low=0.35, high=0.65, seed=1)
    y = right_labels(network, x)
    expected = rounded_up(distances(network, x, y, order), grid)
    points = x.clone().requires_grad_()
    loss(network(points), y).sum().backward()
    alive = points.grad.flatten(1).abs().amin(1) > 1e-37
    assert alive.sum() > 150
    image_radii = radii(network, x, y, FGSM(norm=norm, loss=loss), grid).numpy()
    np.testing.assert_array_equal(image_radii[alive], expected[alive])


def test_clamping_to_the_pixel_range_counts(linear):
    # The second pixel is at the end of its range and cannot move outwards, so half of the step is lost.
    weight = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    network = linear(weight=weight, bias=torch.tensor([1.3, 0.0]))
    x, y = torch.tensor([[[[0.2, 1.0]]]]), torch.tensor([0])
    grid = [0.02 * k for k in range(1, 10)]
    assert radii(network, x, y, FGSM(), grid).item() == pytest.approx(0.12)
    assert radii(network, x, y, PGD(random_start=False), grid).item() == pytest.approx(0.12)


def brute_force_fgsm(network, x, y, grid):
    """Returns the radii of FGSM by a plain implementation that tries every epsilon."""
    points = x.clone().requires_grad_()
    nn.functional.cross_entropy(network(points), y).backward()
    smallest = torch.full((len(x),), torch.inf, dtype=torch.float64)
    with torch.no_grad():
        for epsilon in reversed(grid):
            adversarial = (x + epsilon * points.grad.sign()).clamp(0, 1)
            smallest[network(adversarial).argmax(1) != y] = epsilon
        smallest[network(x).argmax(1) != y] = 0
    return smallest


def test_radii_equal_a_brute_force_over_the_grid(conv, images):
    network, x = conv().double(), images(200, dtype=torch.float64)
    y = right_labels(network, x)
    y[:20] = (y[:20] + 1) % 4
    grid = np.geomspace(0.002, 0.5, 16).tolist()
    expected = brute_force_fgsm(network, x, y, grid)
    assert len(expected.unique()) > 8
    assert torch.equal(radii(network, x, y, FGSM(), grid), expected)


def plain_pgd(network, x, y, epsilon, steps):
    """Returns whether each image is misclassified at each point of a plain PGD, (steps + 1, N)."""
    points, fooled = x.clone(), [right_labels(network, x) != y]
    for _ in range(steps):
        points = points.detach().requires_grad_()
        nn.functional.cross_entropy(network(points), y, reduction="sum").backward()
        step = points.detach() + epsilon / 4 * points.grad.sign()
        points = torch.max(torch.min(step, x + epsilon), x - epsilon).clamp(0, 1)
        fooled.append(right_labels(network, points) != y)
    return torch.stack(fooled)


def test_dropping_fooled_images_never_lowers_the_error(conv, images):
    network, x = conv().double(), images(200, dtype=torch.float64)
    y = right_labels(network, x)
    y[:20] = (y[:20] + 1) % 4
    grid = np.geomspace(0.005, 0.2, 8).tolist()
    image_radii = radii(network, x, y, PGD(steps=6, random_start=False), grid)
    for epsilon in grid:
        fooled = plain_pgd(network, x, y, epsilon, 6)[-1]
        assert 0.1 < fooled.double().mean() <= 1
        assert (image_radii[fooled] <= epsilon).all()


@pytest.mark.parametrize("norm", [Linf(), L2()], ids=lambda n: n.name)
@pytest.mark.parametrize("kind", [FGSM, StepLL, PGD, UniformNoise])
def test_radii_do_not_depend_on_the_batch_size(conv, images, kind, norm):
    network, x = conv().double(), images(40, dtype=torch.float64)
    y = right_labels(network, x)
    y[::6] = (y[::6] + 1) % 4
    top = 0.5 if norm == Linf() else 4
    grid = np.geomspace(top / 100, top, 8).tolist()
    expected = radii(network, x, y, kind(norm=norm), grid)
    assert len(expected.unique()) >= 3
    for batch_size in (1, 7, 39):
        assert torch.equal(radii(network, x, y, kind(norm=norm), grid, batch_size=batch_size), expected)


@pytest.mark.parametrize("attack", [PGD(steps=1), UniformNoise()], ids=["pgd", "noise"])
def test_radii_depend_on_the_seed_alone(conv, images, attack):
    network, x = conv(), images(200)
    y = right_labels(network, x)
    grid = np.geomspace(0.005, 0.5, 12).tolist()
    first = radii(network, x, y, attack, grid, seed=1)
    torch.manual_seed(5)
    assert torch.equal(radii(network, x, y, attack, grid, seed=1), first)
    assert not torch.equal(radii(network, x, y, attack, grid, seed=2), first)


@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=3), UniformNoise()], ids=["fgsm", "pgd", "noise"])
def test_radii_lie_on_the_grid_and_their_error_never_falls(conv, images, attack):
    network, x = conv(), images(100)
    y = right_labels(network, x)
    y[:7] = (y[:7] + 1) % 4
    grid = [0.0, *np.geomspace(0.005, 1, 12).tolist()]
    image_radii = radii(network, x, y, attack, grid)
    assert set(image_radii.tolist()) <= {*grid, np.inf}
    curve = error_curve(image_radii.numpy(), grid)
    assert curve.error[0] == 0.07
    assert (np.diff(curve.error) >= 0).all()
    assert curve.error[-1] > 0.1


class Backward(torch.autograd.Function):
    """The identity. Its backward pass calls `seen` with the number of images."""

    @staticmethod
    def forward(ctx, x, seen):
        ctx.seen = seen
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        ctx.seen(len(gradient))
        return gradient, None


class Counting(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.counts = network, []
        # `radii` traces networks to fold their batch norm, but none with a hook. A trace would call `Backward` only once.
        self.register_forward_hook(lambda module, inputs, output: None)

    def forward(self, x):
        return self.network(Backward.apply(x, self.counts.append))


def test_a_single_step_attack_takes_one_gradient_per_image_for_the_whole_grid(conv, images):
    network, x = Counting(conv()), images(100)
    y = right_labels(network, x)
    y[:13] = (y[:13] + 1) % 4
    grid = np.geomspace(1e-4, 0.02, 16).tolist()
    image_radii = radii(network, x, y, FGSM(), grid, batch_size=32)
    assert image_radii.isinf().any()
    assert sum(network.counts) == 87


def test_an_iterative_attack_drops_misclassified_images(conv, images):
    network, x = Counting(conv().double()), images(100, dtype=torch.float64)
    y = right_labels(network, x)
    y[:13] = (y[:13] + 1) % 4
    walk = plain_pgd(network, x, y, 0.15, 10)[:10]
    # A correctly classified image costs one gradient at each point, up to and including its first misclassified one.
    first = torch.where(walk.any(0), walk.int().argmax(0) + 1, 10)[13:]
    assert 2 < first.double().mean() < 9
    network.counts.clear()
    radii(network, x, y, PGD(steps=10, random_start=False), [0.15], batch_size=100)
    assert sum(network.counts) == first.sum()


@pytest.mark.parametrize("attack", [PGD(steps=3, random_start=False), BIM(steps=3), MIFGSM(steps=3)], ids=identify)
def test_attacks_that_start_at_the_clean_image_take_its_gradient_once_for_the_whole_grid(conv, images, attack):
    network, x = Counting(conv()), images(100)
    y, grid = right_labels(network, x), [1e-6, 2e-6, 3e-6, 4e-6]
    image_radii = radii(network, x, y, attack, grid)
    assert image_radii.isinf().all()
    assert sum(network.counts) == 100 * (1 + len(grid) * 2)
    one_by_one = [radii(network, x, y, attack, [epsilon]) for epsilon in (0.05, 0.1)]
    assert torch.equal(radii(network, x, y, attack, [0.05, 0.1]), torch.minimum(*one_by_one))


def test_attacks_with_a_random_start_take_every_gradient(conv, images):
    network, x = Counting(conv()), images(100)
    radii(network, x, right_labels(network, x), PGD(steps=3), [1e-6, 2e-6])
    assert sum(network.counts) == 100 * 2 * 3


def test_an_attack_loop_fills_its_passes_as_images_are_dropped(conv, images):
    network, x = Counting(conv()), images(300)
    y, attack = right_labels(network, x), PGD(steps=10, random_start=False)
    with prepare(network, x, y) as prepared:
        by_batch = {}
        for size, loop in ((300, 300), (40, 40), (40, 300)):
            network.counts.clear()
            by_batch[size, loop] = measure(replace(prepared, batches=Batches(size, loop)), attack, [0.15])
            assert max(network.counts) <= size
            passes = len(network.counts)
            if loop == size == 40:
                more = passes
        assert passes < more
    assert all(torch.equal(radius, by_batch[300, 300]) for radius in by_batch.values())


@pytest.mark.parametrize("attack", [FGSM(), FGSM(norm=L2()), PGD(), PGD(norm=L2()), UniformNoise()], ids=identify)
def test_a_constant_network_is_never_fooled(linear, images, attack):
    x = images(10)
    constant = linear(weight=torch.zeros(3, 64), bias=torch.tensor([0.0, 1.0, 0.0]))
    detached = nn.Sequential(Detach(), linear(3))
    y = torch.tensor([1, 0] * 5)
    assert radii(constant, x, y, attack, [0.1, 0.2]).tolist() == [torch.inf, 0.0] * 5
    image_radii = radii(detached, x, right_labels(detached, x), FGSM(norm=attack.norm), [0.1, 0.2])
    assert image_radii.isinf().all()


class Detach(nn.Module):
    def forward(self, x):
        return x.detach()


def test_misclassified_images_need_no_gradient(conv, images):
    network, x = Counting(conv()), images(10)
    y = (right_labels(network, x) + 1) % 4
    assert radii(network, x, y, FGSM(), [0.1]).tolist() == [0.0] * 10
    assert radii(network, x, y, PGD(), [0.1]).tolist() == [0.0] * 10
    assert network.counts == []


def test_network_is_left_as_it_was(conv, images):
    network, x = conv(), images()
    y = right_labels(network, x)
    network.train()
    network[0].bias.requires_grad_(False)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    radii(network, x, y, PGD(), [0.05, 0.1])
    assert all(module.training for module in network.modules())
    assert [p.requires_grad for p in network.parameters()] == [True, False] + [True] * 6
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"x": torch.full((4, 1, 8, 8), 2.0)}, ValueError, "x must ... [0, 1] ... got [2, 2]"),
        ({"x": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)}, TypeError, "divide uint8 images by 255"),
        ({"x": torch.zeros(0, 1, 8, 8)}, ValueError, "x must hold at least one image"),
        ({"y": torch.tensor([0, 1, 2, 4])}, ValueError, "y must hold labels from 0 to 3"),
        ({"y": torch.eye(4, dtype=torch.int64)}, ValueError, "pass class indices, not one-hot rows"),
        ({"y": [0, 1, 2, 3]}, TypeError, "y must ... int64 ... got list"),
        ({"epsilons": [1, 8]}, ValueError, "pixels are in [0, 1], so write 8/255 rather than 8"),
        ({"epsilons": [0.2, 0.1]}, ValueError, "epsilons must be strictly increasing, got [0.2, 0.1]"),
        ({"epsilons": []}, ValueError, "epsilons must hold at least one value"),
        (
            {"network": nn.Flatten(0)},
            ValueError,
            "the network must ... (4, K) ... got (256,)",
        ),
    ],
)
def test_inputs_that_are_refused(conv, change, kind, message):
    given = {"network": conv(), "x": torch.zeros(4, 1, 8, 8), "y": torch.arange(4), "epsilons": [0.1, 0.2]} | change
    with pytest.raises(kind, match=r".*".join(map(re.escape, message.split(" ... ")))):
        radii(attack=FGSM(), **given)


@pytest.mark.parametrize(
    "attack", [FGSM(), PGD(random_start=False), PGD(norm=L2(), random_start=False), FMN(), UniformNoise()], ids=identify
)
def test_a_network_that_breaks_down_under_attack_is_not_robust(attack):
    """Non-finite logits count as misclassified, for all attacks."""

    class Breaks(nn.Module):
        def forward(self, x):
            return torch.where(x.flatten(1)[:, :2].amax() > 0.52, torch.nan, x.flatten(1)[:, :2])

    image_radii = radii(Breaks(), torch.tensor([[[[0.5, 0.4]]]]), torch.tensor([0]), attack, [0.01, 0.1])
    assert image_radii.item() == 0.1


def test_predict_works_in_batches(conv, images):
    network, x = conv(), images(10)
    torch.testing.assert_close(predict(network, x, Batches(3)), predict(network, x), rtol=0, atol=1e-6)
    assert not predict(network, x).requires_grad


@pytest.mark.parametrize("tolerance", [0.1, 0.01])
@pytest.mark.parametrize(
    ("attack", "order"),
    [
        (FGSM(loss=margin), 1),
        (PGD(steps=5, random_start=False), 1),
        (PGD(norm=L2(), steps=40, loss=margin), 2),
        (FGSM(norm=L2()), 2),
    ],
    ids=["fgsm", "pgd", "pgd-l2", "fgm"],
)
def test_bisection_finds_the_exact_radii_of_a_linear_network(linear, images, device, attack, order, tolerance):
    network, x = linear(), images(100, low=0.35, high=0.65, seed=1)
    y = right_labels(network, x)
    y[::10] = 1 - y[::10]
    exact = distances(network, x, y, order)
    grid = [0.001, 0.01, 0.1, 0.3] if order == 1 else [0.01, 0.1, 1, 2]
    assert (exact < grid[0]).sum() > 10
    image_radii = radii(
        network.to(device), x.to(device), y.to(device), attack, EpsilonGrid(epsilons=grid, tolerance=tolerance)
    ).numpy()
    assert (image_radii[exact == 0] == 0).all()
    right = exact > 0
    # Up to rounding, a misclassified point is on or beyond the boundary.
    assert (image_radii[right] >= exact[right] * (1 - 1e-4) - 1e-6).all()
    assert (image_radii[right] <= exact[right] * (1 + tolerance) * (1 + 1e-2) + 1e-6).all()


def test_bisection_never_raises_a_radius_of_the_grid_and_stays_in_its_range(conv, images):
    network, x = conv(), images(60)
    y = right_labels(network, x)
    grid = [0.01, 0.03, 0.1]
    coarse = radii(network, x, y, PGD(steps=5), grid)
    fine = radii(network, x, y, PGD(steps=5), EpsilonGrid(epsilons=grid, tolerance=0.05))
    assert (fine <= coarse).all()
    assert coarse.isfinite().sum() > 10
    assert (fine < coarse)[coarse.isfinite()].double().mean() > 0.8
    assert torch.equal(fine.isinf(), coarse.isinf())


@pytest.mark.parametrize("tolerance", [0, 1, -0.1, math.nan])
def test_tolerances_that_are_refused(conv, images, tolerance):
    x = images(2)
    with pytest.raises(ValueError, match=r"^tolerance must be between 0 and 1\b.* got "):
        radii(conv(), x, torch.zeros(2).long(), PGD(), EpsilonGrid(epsilons=[0.1], tolerance=tolerance))


@dataclass(frozen=True, kw_only=True)
class Halving(MinimumNorm):
    """Evaluates points at 1.5, 1.001 and 0.9 times the distance to the boundary of a linear network of two classes."""

    norm: Norm = Linf()

    def minimise(self, target, x, noise):
        values, gradient = target.value_and_gradient(x, margin)
        length = (-values / self.norm.dual(gradient)).view(-1, 1, 1, 1)
        for beyond in (1.5, 1.001, 0.9):
            target.wrong(x + beyond * length * self.norm.ascent(gradient))


@pytest.mark.parametrize(("norm", "order"), [(Linf(), 1), (L2(), 2)])
def test_a_minimum_norm_attack_runs_once_for_the_whole_grid(linear, images, norm, order):
    network, x = linear(), images(60, low=0.35, high=0.65, seed=1)
    y = right_labels(network, x)
    y[::10] = 1 - y[::10]
    passes = []
    network.register_forward_hook(lambda module, inputs, output: passes.append(len(output)))
    exact = distances(network, x, y, order)
    passes.clear()
    grid = LINF_GRID if order == 1 else L2_GRID
    image_radii = radii(network, x, y, Halving(norm=norm), grid, batch_size=100)
    assert passes == [60, 54, 54, 54, 54]
    np.testing.assert_array_equal(image_radii.numpy(), rounded_up(exact * 1.001, grid))
    sizes = radii(network, x, y, Halving(norm=norm), EpsilonGrid(epsilons=grid, tolerance=0.01)).numpy()
    np.testing.assert_allclose(sizes, exact * 1.001, rtol=1e-3)


@dataclass(frozen=True, kw_only=True)
class Both(AttackEnsemble):
    first: Attack
    second: Attack
    norm: Norm = Linf()

    def members(self):
        return self.first, self.second


@pytest.mark.parametrize("second", [PGD(steps=8, loss=margin), Halving()], ids=["ball", "minimum-norm"])
def test_an_ensemble_is_the_worst_case_of_its_members(linear, images, second):
    network, x = linear(), images(60, low=0.35, high=0.65)
    y = right_labels(network, x)
    y[:5] = 1 - y[:5]
    grid = np.geomspace(0.001, 0.1, 9).tolist()
    first = PGD(steps=1, step_size=0.5)
    image_radii = radii(network, x, y, Both(first=first, second=second), grid, seed=3)
    alone = [radii(network, x, y, attack, grid, seed=3 + k) for k, attack in enumerate((first, second))]
    assert (image_radii == 0).sum() == 5
    assert torch.equal(image_radii, torch.minimum(*alone))
    assert not torch.equal(image_radii, alone[0])


@dataclass(frozen=True, kw_only=True)
class Recording(Attack):
    """Fools no image, and records the epsilons of each batch in `tried`."""

    tried: list
    norm: Norm = Linf()

    def perturb(self, target, x, epsilon, noise):
        self.tried.append(epsilon.flatten().tolist())
        return torch.zeros_like(x)


def test_a_member_is_given_only_images_whose_radius_it_could_lower(linear, images):
    network, x = linear(), images(80, low=0.35, high=0.65, seed=1)
    y = right_labels(network, x)
    exact, tried = distances(network, x, y, 1), []
    grid = [0.005, 0.02, 0.08]

    image_radii = radii(network, x, y, Both(first=FGSM(), second=Recording(tried=tried)), grid, batch_size=100)
    np.testing.assert_array_equal(image_radii.numpy(), rounded_up(exact, grid))
    wanted = [(epsilon, int((exact > epsilon).sum())) for epsilon in grid]
    assert [(pytest.approx(batch[0]), len(batch)) for batch in tried] == [(e, n) for e, n in wanted if n]


@dataclass(frozen=True, kw_only=True)
class Downwards(Both):
    downwards = True


def test_a_member_that_searches_downwards_tries_the_largest_epsilon_below_each_radius(linear, images):
    network, x = linear(), images(80, low=0.35, high=0.65, seed=1)
    y = right_labels(network, x)
    exact, tried = distances(network, x, y, 1), []
    grid = [0.005, 0.02, 0.08]

    image_radii = radii(network, x, y, Downwards(first=FGSM(), second=Recording(tried=tried)), grid, batch_size=100)
    np.testing.assert_array_equal(image_radii.numpy(), rounded_up(exact, grid))
    below = [max(epsilon for epsilon in grid if epsilon < radius) for radius in exact if radius > grid[0]]
    assert len(set(below)) > 1
    assert sorted(epsilon for batch in tried for epsilon in batch) == pytest.approx(sorted(below))


@pytest.mark.parametrize("tolerance", [None, 0.01])
def test_a_member_goes_down_from_the_known_radius_as_long_as_it_succeeds(linear, images, tolerance):
    network, x = linear(), images(60, low=0.35, high=0.65)
    y = right_labels(network, x)
    exact = distances(network, x, y, 1)
    grid = EpsilonGrid(epsilons=np.geomspace(0.001, 0.2, 60).tolist(), tolerance=tolerance)
    shares = []

    @dataclass(frozen=True, kw_only=True)
    class Far(MinimumNorm):
        """Finds no point nearer than three times the distance from the boundary."""

        norm: Norm = Linf()

        def minimise(self, target, x, noise):
            target.wrong(
                (x + 3 * target.gradient(x, margin).sign() * torch.tensor(exact).view(-1, 1, 1, 1)).clamp(0, 1).float()
            )

    with prepare(network, x, y) as prepared:
        known = measure(prepared, Far(), grid)
        below = measure(
            prepared, PGD(steps=5, random_start=False), grid, known=known, downwards=True, progress=shares.append
        )
    assert (known.isfinite() & (known > 1.5 * torch.tensor(exact))).sum() > 30
    assert shares == sorted(shares)
    if tolerance is None:
        np.testing.assert_array_equal(below.numpy(), rounded_up(exact, grid.epsilons))
    else:
        assert (below.numpy() >= exact * (1 - 1e-4) - 1e-6).all()
        assert (below.numpy() <= exact * 1.02 + 1e-6).all()


@pytest.mark.parametrize("tolerance", [None, 1e-2, 1e-4])
def test_the_search_downwards_reaches_small_radii_from_infinite_ones(linear, images, tolerance):
    network, x = linear(), images(40, low=0.35, high=0.65)
    y = right_labels(network, x)
    grid = EpsilonGrid(epsilons=np.geomspace(0.001, 0.9, 30).tolist(), tolerance=tolerance)
    attack = PGD(steps=1, step_size=1.0, random_start=False)
    with prepare(network, x, y) as prepared:
        known = torch.full((40,), torch.inf, dtype=torch.float64)
        upwards = measure(prepared, attack, grid)
        below = measure(prepared, attack, grid, known=known, downwards=True)
    assert upwards.isfinite().all()
    np.testing.assert_allclose(below.numpy(), upwards.numpy(), rtol=0 if tolerance is None else 2 * tolerance, atol=1e-7)


def test_the_first_member_of_an_ensemble_searches_upwards(linear, images):
    network, x = linear(), images(20, low=0.35, high=0.65)
    tried = []

    radii(network, x, right_labels(network, x), Downwards(first=Recording(tried=tried), second=FGSM()), [0.01, 0.02, 0.04])
    assert [batch[0] for batch in tried] == pytest.approx([0.01, 0.02, 0.04])


def test_progress_rises_to_1(conv, images):
    network, x = conv(), images(40)
    y = right_labels(network, x)
    for attack in (FGSM(), PGD(steps=2), Both(first=PGD(steps=1), second=PGD(steps=2))):
        seen = []
        radii(network, x, y, attack, [0.001, 0.002], batch_size=16, progress=seen.append)
        assert seen == sorted(seen)
        assert len(seen) > 3
        assert seen[-1] == 1
