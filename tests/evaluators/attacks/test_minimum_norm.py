"""DeepFool, FMN and DDN: exact radii of linear networks, and a comparison with Foolbox on a small trained network."""

import dataclasses
import functools
import math
import re
import warnings

import pytest
import torch
from torch import nn

from evaluators import (
    DDN,
    FMN,
    L2,
    MIFGSM,
    PGD,
    Attack,
    DeepFool,
    HopSkipJump,
    Linf,
    radii,
)
from evaluators.attacks import AttackEnsemble, GradientOracle, SuperDeepFool, TrustRegion, margin
from evaluators.attacks.bisection import bisect
from evaluators.engine.frozen import frozen
from evaluators.engine.noise import ImageNoise

BOTH = (Linf(), L2())
ATTACKS = [
    *(DeepFool(norm=norm) for norm in BOTH),
    *(FMN(norm=norm) for norm in BOTH),
    *(FMN(norm=norm, candidates=10) for norm in BOTH),
    *(SuperDeepFool(norm=norm) for norm in BOTH),
    *(TrustRegion(norm=norm) for norm in BOTH),
    DDN(),
    DDN(loss=margin),
]
NEAREST = pytest.mark.parametrize(
    "attack",
    ATTACKS,
    ids=[
        *("deepfool-linf", "deepfool-l2", "fmn-linf", "fmn-l2", "fmn_of_10-linf", "fmn_of_10-l2"),
        *("super_deepfool-linf", "super_deepfool-l2", "trust_region-linf", "trust_region-l2"),
        *("ddn-cross_entropy", "ddn-margin"),
    ],
)


def labels(network, x):
    with torch.no_grad():
        return network(x).argmax(1)


def target_of(network, x, y, norm, **settings):
    largest = torch.full((len(x),), norm.largest(x[0].numel()), dtype=x.dtype)
    return GradientOracle(network, x, y, norm, largest, **{"keep": "nearest", **settings})


def sizes(attack, network, x, y):
    """Returns the size of the smallest fooling perturbation of each image, (N,); infinite where none was found."""
    with frozen(network):
        target = target_of(network, x, y, attack.norm)
        attack.minimise(target, x, ImageNoise.of(0, torch.arange(len(x))))
        fooled = labels(network, target.points) != y
        assert torch.equal(fooled, target.sizes.isfinite())
        return target.sizes


def linear_radii(network, x, y, norm):
    """Returns the exact radii of a linear network, (N,): the smallest gap / dual norm of its slope, over wrong classes."""
    weight = network[1].weight.detach()
    slopes = weight[y][:, None] - weight[None]  # (N, K, D)
    logits = network(x).detach()
    gaps = logits.gather(1, y[:, None]) - logits
    dual = slopes.abs().sum(2) if norm == Linf() else slopes.norm(dim=2)
    return (gaps / dual.clamp(min=1e-30)).scatter(1, y[:, None], math.inf).amin(1)


class TestLinearNetworks:
    @NEAREST
    @pytest.mark.parametrize("classes", [2, 6])
    def test_the_radius_is_the_margin_over_the_dual_norm(self, attack, classes, linear, images):
        network, x = linear(classes), images(40, low=0.35, high=0.65)
        y = labels(network, x)
        exact, distances = linear_radii(network, x, y, attack.norm), sizes(attack, network, x, y)
        # Logits are rounded, which is more than a share of the smallest radii.
        assert (distances >= exact * (1 - 1e-4) - 1e-6).all()
        if attack == DDN() and classes > 2:
            # The gradient of cross-entropy mixes the directions to all classes, not only to the nearest.
            assert distances.median() <= exact.median() * 1.25
        elif isinstance(attack, DeepFool):
            torch.testing.assert_close(distances, 1.02 * exact, rtol=1e-3, atol=0)
        else:
            # Gradient steps on the margin may end at a class that is not the nearest one.
            assert (distances <= exact * 1.01).float().mean() >= (1 if classes == 2 else 0.8)

    @pytest.mark.parametrize("norm", BOTH)
    @pytest.mark.parametrize("kind", [FMN, SuperDeepFool, TrustRegion])
    def test_candidates_lead_to_the_nearest_class_instead_of_the_largest_logit(self, kind, norm, linear, images):
        # The logit of class 1 is the second largest, but that of class 2 rises ten times as fast.
        weight = torch.stack([torch.zeros(64), torch.full((64,), 0.1), torch.ones(64)])
        network, x = linear(weight=weight, bias=torch.tensor([0.0, -4.0, -45.0])), images(20, low=0.45, high=0.55)
        y = labels(network, x)
        assert (network(x).topk(2).indices == torch.tensor([0, 1])).all()
        exact = linear_radii(network, x, y, norm)
        torch.testing.assert_close(sizes(kind(norm=norm, candidates=3), network, x, y), exact, rtol=0.01, atol=0)

    @pytest.mark.parametrize("norm", BOTH)
    @pytest.mark.parametrize("overshoot", [0.02, 0.3])
    def test_deepfool_ends_beyond_the_boundary_by_the_overshoot(self, norm, overshoot, linear, images):
        network, x = linear(6), images(40, low=0.35, high=0.65)
        y = labels(network, x)
        distances = sizes(DeepFool(norm=norm, overshoot=overshoot), network, x, y)
        torch.testing.assert_close(distances, (1 + overshoot) * linear_radii(network, x, y, norm), rtol=1e-3, atol=0)

    def test_deepfool_uses_at_most_its_candidates(self, linear, images):
        network, x = linear(6), images(100, low=0.35, high=0.65)
        y = labels(network, x)
        two, all_ = (sizes(DeepFool(norm=L2(), candidates=n), network, x, y) for n in (2, 10))
        assert (all_ <= two * 1.001).all()
        assert (all_ < two * 0.999).any()
        # With two candidates, the radius is the distance to the class with the second largest logit.
        logits = network(x).detach()
        second = logits.topk(2).indices[:, 1]
        slope = network[1].weight.detach()[second] - network[1].weight.detach()[y]
        gap = (logits.gather(1, y[:, None]) - logits.gather(1, second[:, None])).squeeze(1)
        torch.testing.assert_close(two, 1.02 * gap / slope.norm(dim=1), rtol=1e-3, atol=0)

    @pytest.mark.parametrize("scale", [1e-4, 1e4])
    @pytest.mark.parametrize(
        "attack", [DeepFool(norm=L2()), FMN(), FMN(norm=L2()), DDN(loss=margin)], ids=["deepfool", "fmn", "fmn-l2", "ddn"]
    )
    def test_the_scale_of_the_logits_does_not_matter(self, attack, scale, linear, images):
        x = images(20, low=0.35, high=0.65)
        y = labels(linear(4), x)
        expected = sizes(attack, linear(4), x, y)
        torch.testing.assert_close(sizes(attack, linear(4, scale=scale), x, y), expected, rtol=2e-3, atol=0)

    @NEAREST
    @pytest.mark.parametrize("clipped", [32, 48])
    def test_pixels_at_the_end_of_their_range_cannot_help(self, attack, clipped, linear):
        # Some pixels are 1 and cannot rise, so the network is a linear network of the others.
        weight = torch.stack([torch.zeros(64), torch.ones(64)])
        free = 64 - clipped
        network = linear(weight=weight, bias=torch.tensor([0.0, -(clipped + free * 0.44)]))
        x = torch.full((1, 1, 8, 8), 0.4)
        x.view(-1)[:clipped] = 1.0
        exact = 0.04 if attack.norm == Linf() else 0.04 * free**0.5
        distances = sizes(attack, network, x, torch.tensor([0])).item()
        assert exact * (1 - 1e-4) <= distances <= 1.025 * exact


class Ellipsoid(nn.Module):
    """Two classes, inside and outside of an ellipsoid around the grey image."""

    axes = torch.linspace(1, 30, 64)

    def forward(self, x):
        return torch.stack([torch.ones(len(x)), ((x.flatten(1) - 0.5) ** 2 * self.axes).sum(1)], dim=1)


def test_projections_make_the_perturbation_orthogonal_to_the_boundary(images):
    network, x = Ellipsoid(), images(30, low=0.47, high=0.53)
    y = torch.zeros(30, dtype=torch.int64)
    assert torch.equal(labels(network, x), y)
    sines = {}
    for attack in (SuperDeepFool(norm=L2()), TrustRegion(norm=L2())):
        target = target_of(network, x, y, attack.norm)
        attack.minimise(target, x, ImageNoise.of(0, torch.arange(30)))
        normal, delta = (target.points.flatten(1) - 0.5) * network.axes, (target.points - x).flatten(1)
        sines[type(attack)] = (1 - torch.cosine_similarity(delta, normal) ** 2).clamp(min=0).sqrt().mean()
    # The trust-region attack has no projections.
    assert sines[SuperDeepFool] < sines[TrustRegion] / 3


class Watched(nn.Module):
    """Wraps a network and records the points at which it is evaluated."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.points = []

    def forward(self, x):
        assert x.isfinite().all()
        self.points.append(x.detach().clone())
        return self.network(x)


@NEAREST
@pytest.mark.parametrize("bias", [0.0, 1000.0])
def test_logits_without_a_slope_make_no_nan(attack, bias, linear, images):
    network = Watched(linear(weight=torch.zeros(3, 64), bias=torch.tensor([bias, 0.0, 0.0])))
    assert sizes(attack, network, images(), torch.zeros(16, dtype=torch.int64)).isinf().all()
    assert len(network.points) > 10


@pytest.mark.parametrize("norm", BOTH)
def test_fmn_bisects_the_result_of_a_short_run(norm, linear, images):
    network, x = linear(), images(40, low=0.35, high=0.65)
    y = labels(network, x)
    distances, exact = sizes(FMN(norm=norm, steps=3), network, x, y), linear_radii(network, x, y, norm)
    assert (distances <= 1.003 * exact).all()


@NEAREST
def test_an_image_that_is_wrong_has_radius_0_and_stays_as_it_is(attack, conv, images):
    network, x = conv(), images()
    y = labels(network, x)
    y[::2] = (y[::2] + 1) % 4
    assert (sizes(attack, network, x, y)[::2] == 0).all()
    assert torch.equal(attack(network, x, y, 0.05)[::2], x[::2])


@NEAREST
def test_within_epsilon_only_images_with_smaller_radii_are_fooled(attack, linear, images):
    network, x = linear(), images(40, low=0.35, high=0.65)
    y = labels(network, x)
    distances = sizes(attack, network, x, y)
    epsilon = distances.median().item() * 1.001
    points = attack(network, x, y, epsilon)
    assert torch.equal(labels(network, points) != y, distances <= epsilon)
    assert torch.equal((points != x).flatten(1).any(1), distances <= epsilon)
    torch.testing.assert_close(attack.norm.size(points - x)[distances <= epsilon], distances[distances <= epsilon])


@NEAREST
def test_radii_on_a_grid_are_rounded_up_to_it(attack, linear, images):
    network, x = linear(), images(40, low=0.35, high=0.65)
    y = labels(network, x)
    exact, grid = sizes(attack, network, x, y), torch.linspace(0.001, 0.2, 60, dtype=torch.float64)
    expected = torch.cat([grid, torch.tensor([math.inf])])[torch.searchsorted(grid, exact.double())]
    torch.testing.assert_close(radii(network, x, y, attack, grid.tolist()), expected)


@pytest.mark.parametrize("keep", ["nothing", "first", "nearest"])
def test_images_that_are_left_out_cost_no_pass(keep, conv, images):
    network, x = Watched(conv()), images(12)
    y = labels(network, x)
    only = torch.arange(12) % 3 == 0
    target = target_of(network, x, y, Linf(), keep=keep)
    value, gradient = target.value_and_gradient(x, margin)
    network.points.clear()
    of_few, few = target.value_and_gradient(x, margin, only=only)
    assert [len(points) for points in network.points] == [4]
    torch.testing.assert_close(of_few, torch.where(only, value, math.inf))
    torch.testing.assert_close(few, torch.where(only.view(-1, 1, 1, 1), gradient, 0))
    nothing = target.value_and_gradient(x, margin, only=torch.zeros_like(only))
    assert len(network.points) == 1
    assert nothing[0].isinf().all()
    assert not nothing[1].any()


def test_bisection_halves_the_distance_to_the_boundary(linear):
    # Images are misclassified if the mean pixel is at least 0.55. The bisection shortens perturbations in L2, and clips
    # them in Linf.
    network = linear(weight=torch.stack([torch.zeros(64), torch.ones(64)]), bias=torch.tensor([0.0, -64 * 0.55]))
    x = torch.full((3, 1, 8, 8), 0.5)
    points = x + torch.linspace(0.1, 0.5, 64).view(1, 1, 8, 8)
    points[1] = 0.52  # Correctly classified, so it is returned unchanged.
    points[2] = 1.0
    y = torch.zeros(3, dtype=torch.int64)
    for norm, expected in [(Linf(), 0.05), (L2(), 0.05 / 0.3 * L2().size(points - x)[0].item())]:
        for steps in (0, 1, 5, 12):
            bisected = bisect(target_of(network, x, y, norm), norm, x, points, steps)
            size, start = norm.size(bisected - x), norm.size(points - x)
            assert torch.equal(bisected[1], points[1])
            assert labels(network, bisected).tolist() == [1, 0, 1]
            assert expected <= size[0] * (1 + 1e-5)
            assert size[0] <= expected + start[0] / 2**steps
            assert size[2] <= (0.05 if norm == Linf() else 0.4) + start[2] / 2**steps + 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Together(AttackEnsemble):
    """A short attack that fools some of the images, then all minimum-norm attacks."""

    norm: object = Linf()

    def members(self) -> tuple[Attack, ...]:
        quick = PGD(norm=self.norm, steps=2)
        rest = (MIFGSM(norm=self.norm), DeepFool(norm=self.norm), FMN(norm=self.norm, steps=20))
        last = (HopSkipJump(norm=self.norm, queries=200, probes=5),)
        return (quick, *rest, *((DDN(steps=20),) if self.norm == L2() else ()), *last)


@pytest.mark.parametrize("norm", BOTH)
def test_dropped_images_do_no_harm_in_an_ensemble(norm, conv, images):
    network, x = conv(), images(48)
    y = labels(network, x)
    # The epsilon of some images is so large that the first attack fools them. For others, it is too small for any attack.
    epsilon = torch.linspace(0.001, 0.2 if norm == Linf() else 1.5, 48)
    adversarial = Together(norm=norm)(network, x, y, epsilon)
    assert adversarial.isfinite().all()
    assert (norm.size(adversarial - x) <= epsilon * (1 + 1e-5) + 1e-7).all()
    fooled = labels(network, adversarial) != y
    assert fooled.any()
    assert not fooled.all()
    alone = labels(network, PGD(norm=norm, steps=2)(network, x, y, epsilon)) != y
    assert 0 < alone.sum() < fooled.sum()
    grid = [0.01, 0.05, 0.1, 0.2]
    best = torch.stack([radii(network, x, y, member, grid) for member in Together(norm=norm).members()[1:-1]]).amin(0)
    assert (radii(network, x, y, Together(norm=norm), grid) <= best).all()


@pytest.fixture(scope="module")
def foolbox():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please import `gaussian_filter`", DeprecationWarning)
        return pytest.importorskip("foolbox")


@pytest.fixture(scope="module")
def digit_sizes(digits):
    """Returns `sizes` of an attack on the digits. Each attack is computed once."""
    return functools.cache(lambda attack: sizes(attack, *digits))


class TestTrainedNetwork:
    @NEAREST
    def test_every_image_has_a_radius(self, attack, digit_sizes):
        # Many pixels are 0 or 1 and cannot leave the range. So DeepFool needs longer steps to reach the boundary.
        assert digit_sizes(attack).isfinite().all()

    @pytest.mark.parametrize("norm", BOTH)
    def test_fmn_stays_near_the_sphere_of_the_nearest_point(self, norm, digits):
        network, x, y = digits
        watched = Watched(network)
        distances = sizes(FMN(norm=norm), watched, x, y)
        asked = torch.stack([norm.size(points - x) for points in watched.points[50:100]])
        assert (asked.amax(0) <= 1.1 * distances).all()

    @pytest.mark.parametrize("norm", BOTH)
    def test_the_trusted_region_grows_and_shrinks(self, norm, linear, images, digits):
        # Without growth, fifty steps of a hundredth of the distance would not reach the boundary.
        network, x = linear(), images(40, low=0.35, high=0.65)
        y = labels(network, x)
        torch.testing.assert_close(
            sizes(TrustRegion(norm=norm, first=0.01), network, x, y), linear_radii(network, x, y, norm), rtol=0.01, atol=0
        )
        # Where the margin is curved, shorter steps find nearer points.
        constant, adaptive = (sizes(TrustRegion(norm=norm, growth=growth), *digits) for growth in (1 + 1e-6, 1.5))
        assert not torch.equal(constant, adaptive)

    @pytest.mark.parametrize("kind", [DeepFool, SuperDeepFool, TrustRegion])
    def test_the_point_after_the_last_step_counts(self, kind, digits):
        extra = {"first": 1.0} if kind is TrustRegion else {}
        assert sizes(kind(steps=1, **extra), *digits).isfinite().any()

    @NEAREST
    def test_logits_a_hundred_times_as_large_hide_nothing(self, attack, digits, digit_sizes):
        network, x, y = digits
        scaled = nn.Sequential(network, nn.Linear(10, 10, bias=False)).eval()
        scaled[1].weight.data = 100 * torch.eye(10)
        before, distances = digit_sizes(attack), sizes(attack, scaled, x, y)
        assert distances.isfinite().all()
        # With such large logits, the gradient of cross-entropy is zero at the clean image. So DDN loses steps, and its radii
        # may be larger.
        assert distances.median() <= before.median() * (1.25 if attack == DDN() else 1.01)

    @pytest.mark.parametrize(
        ("attack", "theirs"),
        [
            (DeepFool(), "LinfDeepFoolAttack"),
            (DeepFool(norm=L2()), "L2DeepFoolAttack"),
            (FMN(), "LInfFMNAttack"),
            (FMN(norm=L2()), "L2FMNAttack"),
            (DDN(), "DDNAttack"),
        ],
    )
    def test_radii_are_not_larger_than_foolboxs(self, attack, theirs, foolbox, digits, digit_sizes):
        network, x, y = digits
        model = foolbox.PyTorchModel(network, bounds=(0, 1))
        points = getattr(foolbox.attacks, theirs)().run(model, x, foolbox.criteria.Misclassification(y))
        expected = torch.where(labels(network, points) != y, attack.norm.size(points - x), math.inf)
        distances = digit_sizes(attack)
        assert distances.median() <= 1.02 * expected.median()
        assert distances.isfinite().sum() >= expected.isfinite().sum()
        # The projection of L2FMNAttack in Foolbox 3.3.4 divides a length by itself, so it never projects.
        if theirs != "L2FMNAttack":
            assert expected.median() <= 1.05 * distances.median()

    @NEAREST
    def test_pgd_does_not_fool_many_more_than_half_in_a_ball_of_the_median_radius(self, attack, digits, digit_sizes):
        network, x, y = digits
        epsilon = digit_sizes(attack).median().item()
        walk = PGD(norm=attack.norm, loss=margin, steps=20, step_size=0.15)(network, x, y, epsilon)
        # DeepFool stops at the first boundary that it meets, so its radii are larger, and PGD fools more images.
        assert (labels(network, walk) != y).float().mean() <= (0.75 if isinstance(attack, DeepFool) else 0.6)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (DeepFool, {"steps": 0}, "steps must be at least 1, got 0"),
        (DeepFool, {"overshoot": -0.1}, "overshoot must be a finite number of at least 0, got -0.1"),
        (DeepFool, {"candidates": 1}, "candidates must ... at least 2 ... got 1"),
        (SuperDeepFool, {"steps": 0}, "steps must be at least 1, got 0"),
        (SuperDeepFool, {"overshoot": math.inf}, "overshoot must be a finite number of at least 0, got inf"),
        (SuperDeepFool, {"gain": 1.0}, "gain must be between 0 and 1 ... got 1.0"),
        (SuperDeepFool, {"candidates": 1}, "candidates must ... at least 2 ... got 1"),
        (TrustRegion, {"steps": 0}, "steps must be at least 1, got 0"),
        (TrustRegion, {"first": 0.0}, "first must be above 0 and at most 1 ... got 0.0"),
        (TrustRegion, {"growth": 1.0}, "growth must be a finite number above 1, got 1.0"),
        (TrustRegion, {"candidates": 1}, "candidates must ... at least 2 ... got 1"),
        (TrustRegion, {"bisections": -1}, "bisections must be at least 0, got -1"),
        (FMN, {"candidates": 0}, "candidates must ... at least 2 ... got 0"),
        (FMN, {"steps": 0}, "steps must be at least 1, got 0"),
        (FMN, {"step_size": 0.0}, "step_size must ... positive ... got 0.0"),
        (FMN, {"gamma": 1.0}, "gamma must ... between 0.001 and 1 ... got 1.0"),
        (FMN, {"gamma": math.nan}, "gamma must ... between 0.001 and 1 ... got nan"),
        (DDN, {"norm": Linf()}, "norm must ... got linf"),
        (DDN, {"steps": 0}, "steps must be at least 1, got 0"),
        (DDN, {"gamma": 0.0}, "gamma must ... between 0 and 1 ... got 0.0"),
    ],
)
def test_settings_that_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=r".*".join(map(re.escape, message.split(" ... ")))):
        kind(**settings)


class Rounded(nn.Module):
    """Rounds the logits to tenths, so that many of them are equal. The gradients are those of the unrounded logits."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        logits = self.network(x)
        return logits + ((10 * logits).round() / 10 - logits).detach()


@pytest.mark.parametrize("norm", [Linf(), L2()], ids=lambda norm: norm.name)
@pytest.mark.parametrize("kind", [DeepFool, SuperDeepFool, TrustRegion])
def test_ties_of_logits_are_passed(kind, norm, conv, images):
    network, x = conv(), images(60)
    y = network(x).argmax(1)
    plain, tied = (sizes_of(kind(norm=norm), one, x, y) for one in (network, Rounded(network)))
    right = Rounded(network)(x).argmax(1) == y
    assert (tied[right].isfinite().float().mean() >= plain[right].isfinite().float().mean() - 0.05).item()


@pytest.mark.parametrize("norm", [Linf(), L2()], ids=lambda norm: norm.name)
@pytest.mark.parametrize("kind", [DeepFool, SuperDeepFool, TrustRegion])
def test_the_attacks_move_away_from_a_tie_at_the_clean_image(kind, norm):
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.eye(2, 4))
    x, y = torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.long)
    assert radii(network, x, y, kind(norm=norm), [1e-3]).tolist() == [pytest.approx(1e-3)] * 3


def sizes_of(attack, network, x, y):
    largest = attack.norm.largest(x[0].numel())
    return radii(network, x, y, attack, [largest / 100, largest / 10, largest])
