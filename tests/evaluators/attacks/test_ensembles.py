"""Ensembles of attacks, also with masked gradients and with images that Square does not support."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from evaluators import FMN, L2, PGD, AutoAttack, EpsilonGrid, Linf, MinimumNormEnsemble, Norm, radii
from evaluators.attacks import Attack, AttackEnsemble, FastPGD, Strong, margin


class Scaled(nn.Module):
    def __init__(self, network, scale):
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x):
        return self.scale * self.network(x)


GRIDS = {"linf": [0.02, 0.04, 0.08, 0.16], "l2": [0.1, 0.3, 0.6, 1.2]}
SMALL = {"steps": 20, "targets": 3, "queries": 100}


@pytest.mark.parametrize("norm", [Linf(), L2()], ids=lambda norm: norm.name)
@pytest.mark.parametrize("attack", [AutoAttack(**SMALL), Strong(queries=100)], ids=lambda a: type(a).__name__)
def test_ensembles_are_no_weaker_than_pgd(trained, attack, norm):
    image_radii = radii(*trained, dataclasses.replace(attack, norm=norm), GRIDS[norm.name])
    pgd = radii(*trained, PGD(norm=norm, steps=40, step_size=0.1), GRIDS[norm.name])
    assert 0.1 < (pgd <= GRIDS[norm.name][1]).double().mean() < 0.9
    for epsilon in GRIDS[norm.name]:
        assert (image_radii <= epsilon).sum() >= (pgd <= epsilon).sum()


@pytest.mark.parametrize("attack", [AutoAttack(**SMALL), Strong(queries=100)], ids=lambda a: type(a).__name__)
def test_ensembles_do_not_depend_on_the_scale_of_the_logits(trained, attack):
    network, x, y = trained
    plain = radii(network, x, y, attack, GRIDS["linf"])
    scaled = radii(Scaled(network, 1000.0), x, y, attack, GRIDS["linf"])
    masked = radii(Scaled(network, 1000.0), x, y, PGD(steps=20), GRIDS["linf"])
    assert (masked > plain).double().mean() > 0.2
    assert (scaled != plain).double().mean() <= 0.05


@pytest.mark.parametrize("norm", [Linf(), L2()], ids=lambda norm: norm.name)
def test_the_minimum_norm_ensemble_is_as_strong_as_every_member(trained, norm):
    grid = GRIDS[norm.name]
    image_radii = radii(*trained, MinimumNormEnsemble(norm=norm, steps=30), EpsilonGrid(epsilons=grid, tolerance=0.02))
    members = MinimumNormEnsemble(norm=norm, steps=30).members()
    assert len(members) == 4
    for member in members:
        alone = radii(*trained, member, EpsilonGrid(epsilons=grid, tolerance=0.02))
        # A member of the ensemble draws other random numbers than the same attack alone, and bisects from another radius.
        assert (image_radii <= alone * 1.05).double().mean() >= 0.95
        assert image_radii.quantile(0.5, interpolation="higher") <= alone.quantile(0.5, interpolation="higher") * 1.01


@pytest.mark.parametrize(("norm", "order", "low"), [(Linf(), 1, 0.35), (L2(), 2, 0.35)], ids=["linf", "l2"])
def test_the_minimum_norm_ensemble_finds_the_distance_from_a_linear_boundary(linear, images, norm, order, low):
    network, x = linear(), images(40, low=low, high=1 - low, seed=1)
    with torch.no_grad():
        y = network(x).argmax(1)
    weight, bias = (p.detach().double() for p in network[1].parameters())
    normal = weight[0] - weight[1]
    exact = (x.flatten(1).double() @ normal + bias[0] - bias[1]).abs() / normal.norm(order)
    image_radii = radii(
        network, x, y, MinimumNormEnsemble(norm=norm, steps=50), EpsilonGrid(epsilons=[0.01, 0.1, 1.0], tolerance=0.01)
    )
    np.testing.assert_allclose(image_radii, exact, rtol=0.02, atol=1e-5)
    assert (image_radii >= exact * (1 - 1e-4)).all()


class Counting(nn.Module):
    """Counts the images of all passes with a gradient."""

    def __init__(self, network):
        super().__init__()
        self.network, self.count = network, 0
        self.register_forward_hook(lambda module, inputs, output: None)  # So that no faster copy is made.

    def forward(self, x):
        self.count += len(x) if torch.is_grad_enabled() else 0
        return self.network(x)


@pytest.mark.parametrize("norm", [Linf(), L2()], ids=lambda norm: norm.name)
def test_fast_pgd_finds_as_much_as_pgd_with_a_fraction_of_the_gradients(trained, norm):
    network, x, y = trained
    counting, grid = Counting(network), np.geomspace(GRIDS[norm.name][0], GRIDS[norm.name][-1], 10).tolist()
    standard = radii(counting, x, y, PGD(norm=norm, steps=20, step_size=0.125, random_start=False), grid)
    of_standard, counting.count = counting.count, 0
    fast = radii(counting, x, y, FastPGD(norm=norm), grid)
    assert counting.count <= of_standard / 4
    for epsilon in grid:
        assert (fast <= epsilon).sum() >= (standard <= epsilon).sum() - 1
    assert ((standard > grid[0]) & standard.isfinite()).sum() > 20
    points = FastPGD(norm=norm)(network, x, y, grid[5])
    assert (norm.size(points - x) <= grid[5] * (1 + 1e-5) + 1e-7).all()
    with torch.no_grad():
        assert abs((network(points).argmax(1) != y).sum() - (fast <= grid[5]).sum()) <= 1


def test_fast_pgd_gives_up_images_that_it_will_not_fool(linear, images):
    network, x = Counting(linear()), images(40, low=0.35, high=0.65)
    with torch.no_grad():
        y = network(x).argmax(1)
    exact = radii(network, x, y, PGD(steps=10, random_start=False), EpsilonGrid(epsilons=[0.2], tolerance=0.01))
    fast, epsilon = FastPGD(step_size=0.25).members()[-1], float(exact.quantile(0.5))
    network.count = 0
    fooled = radii(network, x, y, fast, [epsilon]).isfinite()
    # The loss of a linear network rises for four steps, until the corner of the ball. So the pace over the last four of 20
    # steps falls from then on.
    assert network.count <= 40 * 10
    assert torch.equal(fooled, radii(network, x, y, PGD(steps=20, random_start=False), [epsilon]).isfinite())
    points = fast(network, x, y, epsilon)
    assert (points - x).abs().amax() <= epsilon * (1 + 1e-5)
    # Images that are given up stay at a point near the end of the walk, not at the clean image.
    assert (points - x).abs().flatten(1).amax(1).min() >= 0.9 * epsilon


@pytest.mark.parametrize(("steps", "step_size"), [(20, 0.05), (10, 0.1), (5, 0.2)])
def test_fast_pgd_does_not_give_up_images_that_only_the_last_step_fools(linear, images, steps, step_size):
    network, x = linear(), images(200, low=0.35, high=0.65)
    with torch.no_grad():
        y = network(x).argmax(1)
    pgd = PGD(steps=steps, step_size=step_size, random_start=False)
    epsilon = float(radii(network, x, y, pgd, EpsilonGrid(epsilons=[0.2], tolerance=0.01)).quantile(0.5))
    fast = FastPGD(steps=steps, step_size=step_size).members()[-1]
    assert torch.equal(radii(network, x, y, fast, [epsilon]), radii(network, x, y, pgd, [epsilon]))


@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_fast_pgd_does_not_depend_on_the_batch_size(trained, batch_size):
    network, x, y = trained
    expected = radii(network.double(), x.double(), y, FastPGD(), GRIDS["linf"])
    assert torch.equal(radii(network, x.double(), y, FastPGD(), GRIDS["linf"], batch_size=batch_size), expected)
    network.float()


@dataclasses.dataclass(frozen=True, kw_only=True)
class AfterGivingUp(AttackEnsemble):
    """An attack that gives up all images, then PGD."""

    norm: Norm = Linf()

    def members(self):
        return GivesUp(), PGD(steps=20)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivesUp(Attack):
    norm: Norm = Linf()

    def perturb(self, target, x, epsilon, noise):
        target.give_up(torch.ones_like(target.fooled))
        return target.gradient(x, margin)


def test_an_image_that_one_member_gives_up_is_attacked_by_the_next(trained):
    network, x, y = trained
    for attack in (AfterGivingUp(), PGD(steps=20)):
        with torch.no_grad():
            wrong = network(attack(network, x, y, 0.08)).argmax(1) != y
        assert wrong.float().mean() > 0.3


@pytest.mark.parametrize("setting", [{"steps": 0}, {"step_size": 0.0}])
def test_settings_of_fast_pgd_that_are_refused(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"^{name} must be"):
        FastPGD(**setting)


def test_one_call_returns_points_that_fool_wherever_a_member_does(trained):
    network, x, y = trained
    points = AutoAttack(**SMALL)(network, x, y, 0.08)
    assert ((points - x).abs() <= 0.08 * (1 + 1e-5)).all()
    with torch.no_grad():
        wrong = network(points).argmax(1) != y
    known = radii(network, x, y, AutoAttack(**SMALL), [0.08]) <= 0.08
    assert (wrong == known).double().mean() >= 0.95
    nearest = FMN()(network, x, y, 0.08)
    with torch.no_grad():
        assert (network(nearest).argmax(1) != y).sum() <= wrong.sum() + 1


@pytest.mark.parametrize("setting", ["steps", "targets", "queries"])
def test_budgets_below_1_are_refused(setting):
    with pytest.raises(ValueError, match=f"^{setting} must be at least 1, got 0$"):
        AutoAttack(**{setting: 0})
    with pytest.raises(ValueError, match=r"^steps must be at least 1, got 0$"):
        MinimumNormEnsemble(steps=0)


@pytest.mark.parametrize("setting", ["targets", "queries"])
def test_budgets_of_strong_below_1_are_refused(setting):
    with pytest.raises(ValueError, match=f"^{setting} must be at least 1, got 0$"):
        Strong(**{setting: 0})


@pytest.mark.parametrize(("norm", "epsilon"), [(Linf(), 0.1), (L2(), 0.5)], ids=["linf", "l2"])
def test_strong_finds_as_much_as_autoattack_with_a_fraction_of_the_gradients(trained, norm, epsilon):
    network, x, y = trained
    results = {}
    for attack in (AutoAttack(norm=norm, steps=100, targets=9), Strong(norm=norm)):
        counting = Counting(network)
        results[type(attack)] = radii(counting, x, y, attack, [epsilon]), counting.count
    (expected, many), (found, few) = results[AutoAttack], results[Strong]
    assert 0.3 < (expected <= epsilon).double().mean() < 0.7
    assert (found <= epsilon).sum() >= (expected <= epsilon).sum()
    assert few < many / 5


def test_autoattack_leaves_square_out_on_flat_images(linear):
    network, generator = nn.Sequential(nn.Linear(6, 4)), torch.Generator().manual_seed(0)
    network[0].weight.data = torch.randn(4, 6, generator=generator)
    network[0].bias.data.zero_()
    x = 0.3 + 0.4 * torch.rand(20, 6, generator=generator)
    with torch.no_grad():
        y = network(x).argmax(1)
    attack = AutoAttack(steps=5, targets=1)
    assert [type(member).__name__ for member in attack.supported_members(x)] == ["APGD", "FMN", "TargetedAPGD"]
    assert [type(member).__name__ for member in attack.supported_members(x.view(20, 1, 2, 3))][-1] == "Square"
    assert radii(network, x, y, attack, [0.05, 0.1, 0.3]).isfinite().any()
    assert attack(network, x, y, 0.1).shape == x.shape
