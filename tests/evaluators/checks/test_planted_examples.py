"""The active test passes for attacks that work, and fails for weak attacks and for networks that mask gradients."""

import copy

import pytest
import torch
from torch import nn

from evaluators import APGD, FGSM, FMN, L2, PGD, Linf, MinimumNormEnsemble, check_attacks, explain, radii
from evaluators.attacks import FastPGD, margin
from evaluators.checks import finds_planted
from evaluators.checks.planted_examples import IMAGES, changed_network, is_affordable, penultimate

NORMS = pytest.mark.parametrize(("norm", "epsilon"), [(Linf(), 0.12), (L2(), 0.6)], ids=["linf", "l2"])


@pytest.fixture
def before_the_last(function_layer):
    """Inserts a function between the features and the final layer of a network."""

    def make(network, function):
        *body, last = network.children()
        return nn.Sequential(*body, function_layer(function), last).eval()

    return make


def winners(h):
    """Keeps the largest tenth of the features."""
    return h * (h >= h.topk(h.shape[1] // 10, 1).values[:, -1:])


def rounded(h):
    return (2 * h).round() / 2


def straight_through(h):
    return h + (rounded(h) - h).detach()


@pytest.fixture
def images(tested):
    return tested[0][:200], tested[1][:200]


@NORMS
@pytest.mark.parametrize("kind", ["usual", "adversarial"])
@pytest.mark.parametrize(
    "attack",
    [
        lambda norm: PGD(norm=norm, steps=10),
        lambda norm: PGD(norm=norm, steps=20, loss=margin),
        lambda norm: APGD(norm=norm, steps=20),
        lambda norm: FMN(norm=norm, steps=30),
        lambda norm: FastPGD(norm=norm),
        lambda norm: MinimumNormEnsemble(norm=norm),
    ],
    ids=["pgd", "margin", "apgd", "fmn", "fast_pgd", "ensemble"],
)
def test_attacks_that_work_find_what_is_planted(networks, images, kind, attack, norm, epsilon):
    check = finds_planted(networks[kind], *images, "it", attack(norm), epsilon)
    assert check.name == f"finds_planted_{norm.name}"
    assert check.passed, explain(check)
    assert check.evidence["success"] == 1
    assert check.evidence["random_success"] <= 0.05
    assert check.evidence["images"] == IMAGES


@NORMS
@pytest.mark.parametrize("kind", ["usual", "adversarial"])
@pytest.mark.parametrize(("steps", "size"), [(1, 0.05), (2, 0.1)])
def test_attacks_of_few_short_steps_fail(networks, images, kind, steps, size, norm, epsilon):
    weak = PGD(norm=norm, steps=steps, step_size=size, random_start=False)
    check = finds_planted(networks[kind], *images, "weak", weak, epsilon)
    assert not check.passed
    assert check.evidence["success"] < 0.2
    assert f"weak finds an adversarial image on only {check.evidence['success']:.1%} of 64 changed networks" in explain(
        check
    )


@NORMS
@pytest.mark.parametrize("function", [winners, rounded, straight_through, torch.Tensor.detach])
def test_features_without_useful_gradients_fail(networks, images, function, norm, epsilon, before_the_last):
    masked = before_the_last(networks["usual"], function)
    check = finds_planted(masked, *images, "pgd", PGD(norm=norm, steps=20, loss=margin), epsilon)
    assert not check.passed
    assert check.evidence["success"] < 0.95
    # Without gradients, an attack that starts at a random point finds at most what a random search finds.
    if function in (rounded, torch.Tensor.detach):
        assert check.evidence["success"] <= 0.05


@NORMS
def test_the_planted_point_is_in_the_ball_and_the_clean_image_keeps_its_margin(networks, images, norm, epsilon):
    x, y = images
    network = networks["adversarial"]
    changed, kept, found = changed_network(network, x, y, norm, epsilon)
    with torch.no_grad():
        logits = changed(kept)
    assert (logits.argmax(1) == 0).all()
    with torch.no_grad():
        own = torch.stack([(one == x).flatten(1).all(1).nonzero()[0, 0] for one in kept])
        margins = -margin(network(kept), y[own])
    torch.testing.assert_close(logits[:, 0] - logits[:, 1], margins, rtol=1e-3, atol=1e-3)
    # An attack finds a point within the ball, so one exists. It is that image's own point: balls do not meet.
    adversarial = PGD(norm=norm, steps=10)(changed, kept, torch.zeros(len(kept), dtype=torch.int64), epsilon)
    assert (norm.size(adversarial - kept) <= epsilon * (1 + 1e-5)).all()
    assert (changed(adversarial).argmax(1) == 1).all()
    distances = torch.stack([norm.size(kept - one) for one in kept])
    assert (distances + 10 * torch.eye(len(kept)) > 2 * epsilon).all()
    assert found.dtype == torch.bool
    assert found.shape == (len(kept),)


def test_a_linear_network_has_a_closed_form():
    # Features are the pixels, so the weights of the classifier give the largest logit in the ball.
    torch.manual_seed(0)
    x = 0.5 + 0.1 * torch.rand(60, 1, 8, 8).round() - 0.05
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    y = network(x).argmax(1)
    changed, kept, _ = changed_network(network, x, y, Linf(), 0.02)
    logits = changed(kept)
    largest = logits[:, 1] - logits[:, 0] + 0.02 * changed.weight.abs().sum(1)
    assert (largest > 0).all()
    check = finds_planted(network, x, y, "fgsm", FGSM(), 0.02)
    assert check.evidence["success"] == 1


def test_networks_that_do_not_end_in_a_linear_layer_are_not_tested(networks, images, function_layer):
    network = networks["usual"]
    scaled = nn.Sequential(network, function_layer(lambda h: 10 * h)).eval()
    nothing = nn.Sequential(nn.Flatten(), function_layer(lambda h: h[:, :10])).eval()
    for other in (scaled, nothing):
        assert finds_planted(other, *images, "pgd", PGD(), 0.12) is None
    assert penultimate(network, images[0][:2])(images[0][:2]).shape == (2, 384)


def test_constant_features_and_few_images_are_not_tested(networks, images, before_the_last):
    x, y = images
    assert finds_planted(networks["usual"], x[:15], y[:15], "pgd", PGD(), 0.12) is None
    constant = before_the_last(networks["usual"], lambda h: 0 * h)
    with torch.no_grad():
        labels = constant(x).argmax(1)
    assert finds_planted(constant, x, labels, "pgd", PGD(), 0.12) is None


def test_the_network_is_left_as_it_was_and_the_outcome_is_reproducible(networks, images):
    network = copy.deepcopy(networks["usual"]).train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    first = finds_planted(network, *images, "pgd", PGD(), 0.12)
    assert first == finds_planted(network, *images, "pgd", PGD(), 0.12)
    assert network.training
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_the_test_is_left_out_where_it_would_cost_more_than_the_evaluation(networks, tested):
    pgd = {"pgd": PGD(steps=20)}
    # Passes: 64 images x (2 + 32 + 32 + 64 + 3 x 20) = 12,160 for the test, 3 x 20 x n x E for the evaluation.
    assert is_affordable(pgd, 203, [0.1])
    assert not is_affordable(pgd, 202, [0.1])
    assert is_affordable(pgd, 102, [0.1, 0.2])
    assert not is_affordable({"fgsm": FGSM()}, 450, [0.1, 0.2, 0.3])
    # A minimum-norm attack runs once, however many epsilons there are.
    assert is_affordable({"fmn": FMN(steps=20)}, 203, [0.1, 0.2])
    assert not is_affordable({"fmn": FMN(steps=20)}, 202, [0.1, 0.2])

    def names(n, epsilons, attacks=pgd):
        x, y = tested[0][:n], tested[1][:n]
        measured = {name: radii(networks["usual"], x, y, attack, epsilons).numpy() for name, attack in attacks.items()}
        return [c.name for c in check_attacks(networks["usual"], x, y, attacks, measured, {"linf": epsilons})]

    assert "finds_planted_linf" in names(210, [0.12])
    assert "finds_planted_linf" not in names(100, [0.12])
    assert "finds_planted_linf" not in names(210, [0.12], {"fgsm": FGSM()})


def test_a_profile_with_a_weak_attack_has_the_failed_check(networks, tested):
    x, y = tested
    weak = {"pgd": PGD(steps=2, step_size=0.05, random_start=False)}
    epsilons = [0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5]
    measured = {"pgd": radii(networks["usual"], x, y, weak["pgd"], epsilons).numpy()}
    (check,) = (
        c
        for c in check_attacks(networks["usual"], x, y, weak, measured, {"linf": epsilons})
        if c.name == "finds_planted_linf"
    )
    assert not check.passed
    assert check.evidence["attack"] == "pgd"
    # At 0.5, the most informative epsilon of an attack that fools nothing, the balls of any two images overlap.
    assert check.evidence["epsilon"] == 0.4
