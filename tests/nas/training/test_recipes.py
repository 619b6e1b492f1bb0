"""Recipes: their points, and their losses against explicit formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import halfnorm
from torch import nn

from evaluators import FGSM, L2, PGD, Linf, StepLL
from evaluators.engine.noise import ImageNoise
from nas.training.recipes import (
    FGSMPGI,
    NFGSM,
    RECIPES,
    Adversarial,
    Fast,
    Free,
    Mart,
    Mixture,
    PGDRecipe,
    Standard,
    Trades,
)
from nas.training.recipes.base import of_epoch
from nas.training.recipes.carrying import BatchRecipe, CarriedRows

BALL = [Adversarial, Fast, NFGSM, FGSMPGI, Free, PGDRecipe, Trades, Mart, Mixture]


@pytest.fixture
def batch(images):
    x, y = images(32), torch.arange(32) % 4
    return x, y, ImageNoise.of(0, torch.arange(32))


def test_standard_is_cross_entropy(conv, batch):
    x, y, noise = batch
    network = conv()[:-3].append(nn.Flatten()).append(nn.LazyLinear(4))  # no dropout, so that two passes agree
    network.train()
    assert Standard().points(network, x, y, noise) is x
    loss = Standard().loss(network, x, x, y)
    assert loss.shape == ()
    assert torch.equal(loss, F.cross_entropy(network(x), y))
    loss.backward()


@pytest.mark.parametrize("kind", RECIPES.values())
@pytest.mark.parametrize("strength", [0.5, -0.5])
def test_entropy_penalty_adds_the_mean_entropy(conv, batch, kind, strength):
    x, y, _ = batch
    network, settings = conv().eval(), {"weight": 1} if kind is Mixture else {}
    entropy = torch.distributions.Categorical(logits=network(x)).entropy().mean().item()
    plain, penalised = (kind(entropy_penalty=weight, **settings).loss(network, x, x, y).item() for weight in (0, strength))
    assert penalised - plain == pytest.approx(strength * entropy, rel=1e-4)


def test_entropy_penalty_has_a_gradient_where_predictions_are_certain(linear):
    network = linear(scale=1000.0)
    x = torch.rand(8, 64)
    loss = Standard(entropy_penalty=1.0).loss(network, x, x, network(x).argmax(1))
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_entropy_penalty_keeps_double_precision(linear, images):
    network, x = linear().double(), images(5).double()
    y = network(x).argmax(1)
    probabilities = network(x).softmax(1)
    entropy = -(probabilities * probabilities.log()).sum(1).mean()
    loss = Standard(entropy_penalty=2.0).loss(network, x, x, y) - Standard().loss(network, x, x, y)
    assert loss.item() == pytest.approx(2 * entropy.item(), rel=1e-12)


@pytest.mark.parametrize("kind", RECIPES.values())
def test_entropy_penalty_must_be_finite(kind):
    with pytest.raises(ValueError, match="entropy_penalty must be a finite number, got nan"):
        kind(entropy_penalty=math.nan)


@pytest.mark.parametrize(
    "attack",
    [PGD(steps=1, step_size=1.25), PGD(steps=3), PGD(steps=2, norm=L2()), FGSM()],
    ids=["fast", "pgd", "l2", "fgsm"],
)
def test_adversarial_trains_on_points_of_the_ball(conv, batch, attack):
    x, y, noise = batch
    epsilon = 0.1 if attack.norm == Linf() else 0.7
    network, recipe = conv(), Adversarial(attack=attack, epsilon=epsilon)
    points = recipe.points(network.eval(), x, y, noise)
    loss = recipe.loss(network.train(), x, points, y)
    assert points.shape == x.shape
    assert ((points >= 0) & (points <= 1)).all()
    size = attack.norm.size(points - x)
    assert (size <= epsilon * (1 + 1e-5) + 1e-6).all()
    assert size.mean() > 0.5 * epsilon
    assert loss.shape == ()
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())


def test_adversarial_points_are_worse_than_clean_ones(conv, batch):
    x, y, noise = batch
    network, recipe = conv().eval(), Adversarial(attack=PGD(steps=5), epsilon=0.2)
    points = recipe.points(network, x, y, noise)
    assert recipe.loss(network, x, points, y) > Standard().loss(network, x, x, y)


def test_attack_leaves_batch_norm_and_gradients_untouched(conv, batch):
    x, y, noise = batch
    network, recipe = conv(), Adversarial(attack=PGD(steps=4))
    points = recipe.points(network.eval(), x, y, noise)
    assert all(p.grad is None for p in network.parameters())
    recipe.loss(network.train(), x, points, y)
    # Only the forward pass of the loss updates the statistics. The steps of the attack do not.
    assert network[1].num_batches_tracked == 1
    wanted = 0.1 * network[0](points).mean((0, 2, 3))
    assert torch.allclose(network[1].running_mean, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("epsilon", "norm"), [(0, Linf()), (-0.1, Linf()), (8, Linf()), (1.01, Linf()), (math.nan, L2()), (0, L2())]
)
def test_epsilons_out_of_range_are_refused(epsilon, norm):
    largest = r"1e\+06" if norm == L2() else "1"
    rule = rf"^epsilon must be above 0 and at most {largest}, in pixel units \(8/255, not 8\), got {epsilon:g}$"
    with pytest.raises(ValueError, match=rule):
        Adversarial(epsilon=epsilon, attack=PGD(norm=norm))


def test_epsilons_above_1_are_fine_in_l2():
    assert Adversarial(epsilon=1.5, attack=PGD(norm=L2())).epsilon == 1.5


@pytest.mark.parametrize("kind", RECIPES.values())
def test_every_recipe_trains_every_parameter(conv, batch, kind):
    x, y, noise = batch
    network, recipe = conv(), kind()
    points = recipe.points(network.eval(), x, y, noise)
    assert points.shape == x.shape
    assert not points.requires_grad
    assert ((points >= 0) & (points <= 1)).all()
    loss = recipe.loss(network.train(), x, points, y)
    assert loss.shape == ()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("kind", RECIPES.values())
def test_label_smoothing_mixes_the_label_with_all_classes(conv, batch, kind):
    x, y, _ = batch
    network = conv().eval()
    logits = network(x)
    settings = {"weight": 1} if kind is Mixture else {}
    plain, smooth = (kind(label_smoothing=share, **settings).loss(network, x, x, y).item() for share in (0, 0.2))
    uniform, cross = -logits.log_softmax(1).mean().item(), F.cross_entropy(logits, y).item()
    assert smooth - plain == pytest.approx(0.2 * (uniform - cross), abs=1e-5)


@pytest.mark.parametrize("kind", RECIPES.values())
@pytest.mark.parametrize("share", [-0.1, 1, math.nan])
def test_label_smoothing_out_of_range_is_refused(kind, share):
    with pytest.raises(ValueError, match=rf"label_smoothing must be at least 0 and below 1, got {share:g}"):
        kind(label_smoothing=share)


@pytest.mark.parametrize("kind", BALL)
def test_epsilon_of_every_recipe_is_checked(kind):
    with pytest.raises(ValueError, match="epsilon must be above 0 and at most 1, in pixel units"):
        kind(epsilon=8)


def test_fast_and_pgd_are_adversarial_training_with_their_attack(conv, batch):
    x, y, noise = batch
    network = conv().eval()
    for recipe, attack in (
        (Fast(epsilon=0.1), PGD(steps=1, step_size=1.25)),
        (PGDRecipe(epsilon=0.1, steps=3), PGD(steps=3)),
        (PGDRecipe(epsilon=0.5, norm=L2()), PGD(norm=L2())),
        (Fast(epsilon=0.5, norm=L2(), step_size=0.7), PGD(norm=L2(), steps=1, step_size=0.7)),
        (PGDRecipe(epsilon=0.1, step_size=0.1), PGD(step_size=0.1)),
    ):
        expected = Adversarial(attack=attack, epsilon=recipe.epsilon).points(network, x, y, noise)
        assert torch.equal(recipe.points(network, x, y, noise), expected)


class TestNFGSM:
    @pytest.mark.parametrize(("norm", "epsilon"), [(Linf(), 0.05), (L2(), 0.5)])
    def test_points_are_one_step_from_the_noise_without_projection(self, conv, images, norm, epsilon):
        network, x = conv().eval(), images(200)  # Some pixels are near 0 and 1, so the noise leaves the pixel range.
        y, noise = torch.arange(200) % 4, ImageNoise.of(0, torch.arange(200))
        points = NFGSM(epsilon=epsilon, norm=norm).points(network, x, y, noise)
        sizes = torch.full((200, 1, 1, 1), 2 * epsilon)
        start = (x + norm.sample(x, sizes, noise)).clamp(0, 1).requires_grad_()
        F.cross_entropy(network(start), y, reduction="sum").backward()
        length = start.grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        step = start.grad.sign() if norm == Linf() else start.grad / length
        assert torch.allclose(points, (start.detach() + epsilon * step).clamp(0, 1), atol=1e-5)
        size = norm.size(points - x)
        assert (size > epsilon).double().mean() > 0.5
        assert (size <= 3 * epsilon + 1e-5).all()

    def test_without_noise_it_is_fgsm(self, conv, batch):
        x, y, noise = batch
        network = conv().eval()
        expected = Adversarial(attack=FGSM(), epsilon=0.1).points(network, x, y, noise)
        assert torch.allclose(NFGSM(noise=0, epsilon=0.1).points(network, x, y, noise), expected, atol=1e-6)

    @pytest.mark.parametrize(
        ("settings", "rule"),
        [
            ({"noise": -1}, "noise must be a finite number, at least 0, got -1"),
            ({"noise": math.inf}, "noise must be a finite number, at least 0, got inf"),
            ({"step_size": 0}, "step_size must be a finite number above 0, got 0"),
            ({"step_size": math.nan}, "step_size must be a finite number above 0, got nan"),
        ],
    )
    def test_settings_out_of_range_are_refused(self, settings, rule):
        with pytest.raises(ValueError, match=rule):
            NFGSM(**settings)


def sum_gradient(network, points, y):
    """Returns the gradient of the sum of the cross-entropies of all points, shaped like the points."""
    points = points.detach().requires_grad_()
    F.cross_entropy(network(points), y, reduction="sum").backward()
    return points.grad


def direction(norm, gradient):
    return gradient.sign() if norm == Linf() else gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def project(norm, delta, epsilon):
    if norm == Linf():
        return delta.clamp(-epsilon, epsilon)
    return delta * (epsilon / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(max=1)


NORMS_AND_RADII = [(Linf(), 0.1), (L2(), 0.5)]


class TestCarriedRows:
    def test_reading_gives_the_values_before_the_batch_and_parts_write_to_the_values_after_it(self):
        before = torch.arange(4.0)
        rows = CarriedRows.of({"value": before})
        first, second = rows.select(torch.arange(3)), rows.select(torch.arange(3, 4))
        for _ in range(2):  # A batch that is tried again gives the same.
            first.write("value", first.read("value") + 10)
            second.write("value", second.read("value") + 20)
        assert rows.read("value").tolist() == before.tolist() == [0, 1, 2, 3]
        assert rows.after()["value"].tolist() == [10, 11, 12, 23]


class TestFree:
    @pytest.mark.parametrize(("norm", "epsilon"), NORMS_AND_RADII)
    def test_backward_pass_of_the_loss_moves_the_perturbation(self, conv, batch, norm, epsilon):
        x, y, noise = batch
        network = conv().eval()
        carried = norm.sample(x, torch.tensor(0.9 * epsilon), noise)
        rows = CarriedRows.of({"perturbation": carried})
        recipe = BatchRecipe(Free(norm=norm, epsilon=epsilon, step_size=0.7), rows)
        points = recipe.points(network, x, y, noise)
        assert torch.allclose(points, (x + carried).clamp(0, 1), atol=1e-6)
        loss = recipe.loss(network, x, points, y)
        assert torch.equal(loss, F.cross_entropy(network(points), y))
        assert torch.equal(rows.after()["perturbation"], carried)
        (0.5 * loss).backward()
        moved = carried + 0.7 * epsilon * direction(norm, sum_gradient(network, points, y))
        assert torch.allclose(rows.after()["perturbation"], project(norm, moved, epsilon), atol=1e-5)
        assert torch.equal(rows.read("perturbation"), carried)

    def test_perturbation_starts_at_zero(self, batch):
        x, _, noise = batch
        assert not Free().initial(x, noise)["perturbation"].any()

    def test_carried_perturbations_are_projected_to_a_smaller_radius(self, conv, batch):
        x, y, noise = batch
        recipe = BatchRecipe(Free(epsilon=0.05), CarriedRows.of({"perturbation": torch.full_like(x, 0.1)}))
        points = recipe.points(conv().eval(), x, y, noise)
        assert torch.allclose(points, (x + 0.05).clamp(max=1))

    def test_points_without_earlier_batches_are_those_of_fgsm(self, conv, batch):
        x, y, noise = batch
        network = conv().eval()
        expected = Adversarial(attack=FGSM(), epsilon=0.1).points(network, x, y, noise)
        assert torch.allclose(Free(epsilon=0.1).points(network, x, y, noise), expected, atol=1e-6)

    @pytest.mark.parametrize("replays", [0, -1])
    def test_replays_below_1_are_refused(self, replays):
        with pytest.raises(ValueError, match=f"replays must be at least 1, got {replays}"):
            Free(replays=replays)


class TestFGSMPGI:
    @pytest.mark.parametrize(("norm", "epsilon"), NORMS_AND_RADII)
    def test_step_starts_at_the_prior_which_follows_the_momentum(self, conv, batch, norm, epsilon):
        x, y, noise = batch
        network = conv().eval()
        prior = norm.sample(x, torch.tensor(epsilon), noise)
        momentum = noise.fork(0).normal(x)
        rows = CarriedRows.of({"perturbation": prior, "momentum": momentum})
        recipe = BatchRecipe(FGSMPGI(norm=norm, epsilon=epsilon, step_size=0.8, decay=0.4), rows)
        points = recipe.points(network, x, y, noise)
        start = (x + prior).clamp(0, 1)
        gradient = sum_gradient(network, start, y)
        moved = start - x + 0.8 * epsilon * direction(norm, gradient)
        assert torch.allclose(points, (x + project(norm, moved, epsilon)).clamp(0, 1), atol=1e-5)
        summed = 0.4 * momentum + gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
        assert torch.allclose(rows.after()["momentum"], summed, atol=1e-4)
        moved = start - x + 0.8 * epsilon * direction(norm, summed)
        expected = (x + project(norm, moved, epsilon)).clamp(0, 1) - x
        assert torch.allclose(rows.after()["perturbation"], expected, atol=1e-5)
        assert torch.equal(rows.read("perturbation"), prior)

    def test_loss_has_the_squared_change_of_the_logits(self, conv, batch):
        x, y, noise = batch
        network = conv().eval()
        rows = CarriedRows.of(FGSMPGI(epsilon=0.1).initial(x, noise))
        start = (x + rows.read("perturbation")).clamp(0, 1)
        recipe = BatchRecipe(FGSMPGI(epsilon=0.1, weight=3), rows)
        points = recipe.points(network, x, y, noise)
        logits = network(points)
        expected = F.cross_entropy(logits, y) + 3 * ((logits - network(start)) ** 2).sum() / (32 * 4)
        assert_same_gradients(network, recipe.loss(network, x, points, y), expected)
        # Without earlier batches, the loss takes the images as starts.
        logits = network(points)
        expected = F.cross_entropy(logits, y) + 3 * ((logits - network(x)) ** 2).mean()
        assert_same_gradients(network, FGSMPGI(weight=3).loss(network, x, points, y), expected)

    @pytest.mark.parametrize(("norm", "epsilon"), NORMS_AND_RADII)
    def test_first_prior_is_a_random_perturbation_of_the_length_of_a_step(self, batch, norm, epsilon):
        x, _, noise = batch
        initial = FGSMPGI(norm=norm, epsilon=epsilon).initial(x, noise)
        assert torch.allclose(norm.size(initial["perturbation"]), torch.tensor(epsilon))
        assert 0.4 < (initial["perturbation"] > 0).double().mean() < 0.6
        assert not initial["momentum"].any()

    def test_a_gradient_of_zero_leaves_the_prior_finite(self, linear, images):
        x, y, noise = images(4), torch.zeros(4).long(), ImageNoise.of(0, torch.arange(4))
        rows = CarriedRows.of(FGSMPGI().initial(x, noise))
        BatchRecipe(FGSMPGI(), rows).points(linear(weight=torch.zeros(2, 64)), x, y, noise)
        assert all(value.isfinite().all() for value in rows.after().values())

    @pytest.mark.parametrize("decay", [-0.1, 1.1, math.nan])
    def test_decay_out_of_range_is_refused(self, decay):
        with pytest.raises(ValueError, match=f"decay must be between 0 and 1, got {decay:g}"):
            FGSMPGI(decay=decay)


@pytest.mark.parametrize("kind", [FGSMPGI, Free])
def test_a_first_layer_may_work_in_place(linear, images, kind):
    x, y, noise = images(50), torch.arange(50) % 3, ImageNoise.of(0, torch.arange(50))
    network, recipe, given = nn.Sequential(InPlace(), linear(classes=3)), kind(epsilon=0.1), x.clone()
    rows = CarriedRows.of({name: noise.uniform(x) - 0.5 for name in recipe.initial(x, noise)})
    bound = BatchRecipe(recipe, rows)
    points = bound.points(network, x, y, noise)
    bound.loss(network, x, points, y).backward()
    assert torch.equal(x, given)
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert not torch.equal(rows.after()["perturbation"], rows.read("perturbation"))


@pytest.mark.parametrize("kind", [Fast, FGSMPGI, Free])
@pytest.mark.parametrize("size", [0, math.inf])
def test_a_step_size_out_of_range_is_refused(kind, size):
    with pytest.raises(ValueError, match=f"step_size must be positive and finite, a fraction of epsilon, got {size}"):
        kind(step_size=size)


def assert_same_gradients(network, loss, expected):
    """Checks that two losses and their gradients with respect to the weights are equal."""
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for first, second in zip(*(torch.autograd.grad(one, [*network.parameters()]) for one in (loss, expected)), strict=True):
        assert torch.allclose(first, second, atol=1e-5)


def divergence_of(clean, logits):
    """Returns the divergence of the predictions `logits` from the predictions `clean`, (N,), from torch's distributions."""
    first, second = (torch.distributions.Categorical(logits=one) for one in (clean, logits))
    return torch.distributions.kl_divergence(first, second)


class InPlace(nn.Module):
    """A first layer that changes its input."""

    def forward(self, x):
        return x.mul_(2)


class TestTrades:
    @pytest.mark.parametrize("norm", [Linf(), L2()])
    def test_points_have_a_large_divergence_within_the_ball(self, conv, batch, norm):
        x, y, noise = batch
        network, epsilon = conv().eval(), 0.1 if norm == Linf() else 0.8
        points = Trades(norm=norm, epsilon=epsilon).points(network, x, y, noise)
        assert (norm.size(points - x) <= epsilon * (1 + 1e-5)).all()
        random = (x + norm.sample(x, torch.tensor(epsilon), noise)).clamp(0, 1)
        clean = network(x)
        assert (divergence_of(clean, network(points)) > divergence_of(clean, network(random))).double().mean() > 0.9

    def test_loss_is_cross_entropy_plus_divergence(self, conv, batch):
        x, y, noise = batch
        network = conv().eval()
        points = Trades().points(network, x, y, noise)
        clean, logits = network(x), network(points)
        expected = F.cross_entropy(clean, y) + 3 * divergence_of(clean, logits).mean()
        assert_same_gradients(network, Trades(beta=3).loss(network, x, points, y), expected)

    @pytest.mark.parametrize("in_place", [False, True])
    def test_points_are_those_of_a_loop_by_hand(self, linear, images, in_place):
        # In double precision, because the signs of gradients near zero depend on rounding.
        x, y, noise = images(50).double(), torch.zeros(50).long(), ImageNoise.of(0, torch.arange(50))
        network = linear(classes=3).double()
        network = nn.Sequential(InPlace(), network) if in_place else network
        points = Trades(epsilon=0.1, steps=3, step_size=0.5).points(network, x, y, noise)
        clean, walk = network(x.clone()).detach(), (x + 0.001 * noise.normal(x)).clamp(0, 1)
        for _ in range(3):
            walk = walk.detach().requires_grad_()
            divergence_of(clean, network(walk.clone())).sum().backward()
            walk = (walk.detach() + 0.05 * walk.grad.sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
        assert torch.allclose(points, walk, atol=1e-6)

    def test_labels_do_not_change_the_points(self, conv, batch):
        x, y, noise = batch
        network = conv().eval()
        assert torch.equal(*(Trades().points(network, x, labels, noise) for labels in (y, y.flip(0))))


class TestMart:
    def test_loss_is_that_of_the_paper(self, conv, batch):
        x, y, noise = batch
        network = conv().eval()
        points = Mart().points(network, x, y, noise)
        clean, attacked = network(x).softmax(1), network(points).softmax(1)
        rows = torch.arange(len(x))
        wrong = attacked.clone()
        wrong[rows, y] = 0
        boosted = -attacked[rows, y].log() - (1 - wrong.amax(1)).log()
        weighted = (clean * (clean / attacked).log()).sum(1) * (1 - clean[rows, y])
        expected = (boosted + 4 * weighted).mean()
        assert_same_gradients(network, Mart(beta=4).loss(network, x, points, y), expected)

    def test_loss_is_finite_where_a_wrong_class_is_certain(self, linear):
        network, x = linear(scale=1000.0), torch.rand(8, 64)
        y = 1 - network(x).argmax(1)
        loss = Mart().loss(network, x, x, y)
        loss.backward()
        assert loss.isfinite()
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


class TestMixture:
    def test_first_images_stay_clean_and_the_last_are_attacked_at_random_radii(self, conv, images):
        x, y, noise = images(400), torch.arange(400) % 4, ImageNoise.of(0, torch.arange(400))
        points = Mixture(epsilon=0.1, share=0.25).points(conv().eval(), x, y, noise)
        assert torch.equal(points[:300], x[:300])
        size = (points - x)[300:].flatten(1).abs().amax(1)
        assert (size <= 0.1 + 1e-6).all()
        # Of the normal numbers within two standard deviations, 28.5 % are beyond one.
        assert 0.15 < (size > 0.05).double().mean() < 0.4

    def test_each_image_has_a_radius_and_noise_of_its_own(self, conv, images):
        x, y, noise = images(20), torch.arange(20) % 4, ImageNoise.of(0, torch.arange(20))
        network, attack = conv().eval(), PGD(steps=2, restarts=2)
        points = Mixture(attack=attack, epsilon=0.1).points(network, x, y, noise)
        keys = noise.select(torch.arange(10, 20))
        # The restarts of an attack use forks of its noise, from 1 on.
        uniform = keys.fork(1).uniform(torch.zeros(10, 1)).flatten().double().numpy()
        radii = torch.from_numpy(0.05 * halfnorm.ppf(uniform * halfnorm.cdf(2))).float()
        expected, _ = attack.generate(network, x[10:], y[10:], radii, keys.fork(0), stop_when_fooled=False)
        assert torch.allclose(points[10:], expected, atol=1e-5)

    def test_radii_beyond_epsilon_are_not_cut_to_it(self, linear, images):
        x, noise = images(4000, low=0.4, high=0.6), ImageNoise.of(0, torch.arange(4000))
        points = Mixture(share=1, epsilon=0.1).points(linear(), x, torch.zeros(4000).long(), noise)
        radii = (points - x).flatten(1).abs().amax(1)
        assert radii.max() > 0.099
        assert (radii > 0.0999).double().mean() < 0.003

    @pytest.mark.parametrize("count", [2, 3, 5])
    def test_a_small_batch_has_an_adversarial_image(self, conv, images, count):
        x, y, noise = images(count), torch.zeros(count).long(), ImageNoise.of(0, torch.arange(count))
        recipe = Mixture(share=0.01, epsilon=0.1)
        points = recipe.points(conv().eval(), x, y, noise)
        assert (points != x).flatten(1).any(1).tolist() == [False] * (count - 1) + [True]

    def test_loss_is_one_pass_over_the_batch(self, conv, batch):
        x, y, _ = batch
        network = conv().train()
        Mixture().loss(network, x, x, y)
        assert network[1].num_batches_tracked == 1

    def test_loss_is_the_weighted_mean(self, conv, batch):
        x, y, _ = batch
        network = conv().eval()
        losses = F.cross_entropy(network(x), y, reduction="none")
        weights = torch.ones(32)
        weights[16:] = 0.3
        expected = (losses * weights).sum() / weights.sum()
        assert Mixture().loss(network, x, x, y).item() == pytest.approx(expected.item(), rel=1e-5)
        assert Mixture(share=1).loss(network, x, x, y).item() == pytest.approx(losses.mean().item(), rel=1e-5)

    def test_points_go_towards_the_least_likely_class(self, conv, batch):
        x, y, noise = batch
        network = conv().eval()
        points = Mixture(share=1, attack=StepLL(), epsilon=0.2).points(network, x, y, noise)
        least = network(x).argmin(1, keepdim=True)
        before, after = (network(one).softmax(1).gather(1, least) for one in (x, points))
        assert (after > before).double().mean() > 0.9

    @pytest.mark.parametrize("share", [0, 1.1, math.nan])
    def test_share_out_of_range_is_refused(self, share):
        with pytest.raises(ValueError, match=rf"share must be above 0 and at most 1, got {share:g}"):
            Mixture(share=share)


@pytest.mark.parametrize(("kind", "name"), [(Trades, "beta"), (Mart, "beta"), (Mixture, "weight"), (FGSMPGI, "weight")])
@pytest.mark.parametrize("value", [-1, math.inf])
def test_weights_of_losses_are_checked(kind, name, value):
    with pytest.raises(ValueError, match=rf"{name} must be a finite number, at least 0, got {value:g}"):
        kind(**{name: value})


@pytest.mark.parametrize("kind", BALL)
def test_the_radius_rises_linearly_to_epsilon(kind):
    recipe = kind(epsilon=0.1, warm_up=0.5)
    assert [of_epoch(recipe, epoch / 8).epsilon for epoch in range(1, 9)] == pytest.approx([0.025, 0.05, 0.075] + 5 * [0.1])
    assert of_epoch(kind(epsilon=0.1), 0.01) == kind(epsilon=0.1)
    assert of_epoch(Standard(), 0.1) == Standard()


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan])
def test_a_share_of_warm_up_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=rf"warm_up must be between 0 and 1, got {share:g}"):
        NFGSM(warm_up=share)


@pytest.mark.parametrize("kind", BALL)
def test_a_name_instead_of_a_norm_or_an_attack_is_refused(kind):
    key = "attack" if kind in (Adversarial, Mixture) else "norm"
    with pytest.raises(TypeError, match=f"{key} must be an instance of evaluators"):
        kind(**{key: "l2"})
