"""Recipes: their points, and their losses against explicit formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evaluators import FGSM, L2, PGD, Linf, StepLL
from evaluators.engine.noise import ImageNoise
from nas.training.recipes import NFGSM, RECIPES, Adversarial, Fast, Mart, Mixture, MultiStep, Standard, Trades

BALL = [Adversarial, Fast, NFGSM, MultiStep, Trades, Mart, Mixture]


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


@pytest.mark.parametrize("kind", [Standard, Adversarial])
@pytest.mark.parametrize("strength", [0.5, -0.5])
def test_entropy_penalty_adds_the_mean_entropy(conv, batch, kind, strength):
    x, y, _ = batch
    network = conv()
    logits = network(x)
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    loss = kind(entropy_penalty=strength).loss(network, x, x, y)
    assert loss.item() == pytest.approx((F.cross_entropy(logits, y) + strength * entropy).item(), rel=1e-5)


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


@pytest.mark.parametrize("kind", [Standard, Adversarial])
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
        (MultiStep(epsilon=0.1, steps=3), PGD(steps=3)),
        (MultiStep(epsilon=0.5, norm=L2()), PGD(norm=L2())),
    ):
        expected = Adversarial(attack=attack, epsilon=recipe.epsilon).points(network, x, y, noise)
        assert torch.equal(recipe.points(network, x, y, noise), expected)


class TestNFGSM:
    def test_points_are_one_step_from_the_noise_without_projection(self, linear, images):
        network, x = linear(classes=4), images(200, low=0.4, high=0.6)
        y, noise, epsilon = torch.arange(200) % 4, ImageNoise.of(0, torch.arange(200)), 0.05
        points = NFGSM(epsilon=epsilon).points(network, x, y, noise)
        start = (x + (2 * noise.uniform(x) - 1) * 2 * epsilon).requires_grad_()
        F.cross_entropy(network(start), y, reduction="sum").backward()
        assert torch.allclose(points, start.detach() + epsilon * start.grad.sign(), atol=1e-6)
        size = (points - x).flatten(1).abs().amax(1)
        assert (size > 2.5 * epsilon).all()  # Far outside the ball: up to 3 epsilon.
        assert (size <= 3 * epsilon + 1e-6).all()

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


def divergence_of(clean, logits):
    """Returns the mean divergence between the predictions, from torch's distributions."""
    first, second = (torch.distributions.Categorical(logits=one) for one in (clean, logits))
    return torch.distributions.kl_divergence(first, second)


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
        assert Trades(beta=3).loss(network, x, points, y).item() == pytest.approx(expected.item(), rel=1e-5)

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
        assert Mart(beta=4).loss(network, x, points, y).item() == pytest.approx(expected.item(), rel=1e-5)

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
        assert 0.2 < (size > 0.05).double().mean() < 0.45  # A normal number is beyond its deviation in 32 % of cases.

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


@pytest.mark.parametrize(("kind", "name"), [(Trades, "beta"), (Mart, "beta"), (Mixture, "weight")])
@pytest.mark.parametrize("value", [-1, math.inf])
def test_weights_of_losses_are_checked(kind, name, value):
    with pytest.raises(ValueError, match=rf"{name} must be a finite number, at least 0, got {value:g}"):
        kind(**{name: value})
