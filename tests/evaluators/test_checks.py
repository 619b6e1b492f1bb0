"""Each check fires on the fault that it looks for, planted, and is silent without it."""

import numpy as np
import pytest
import torch
from torch import nn

from evaluators import FGSM, L2, PGD, Linf, StepLL, margins, radii
from evaluators.attacks import margin
from evaluators.checks import (
    cross_entropy_not_masked,
    deterministic,
    gradients_alive,
    logits_not_probabilities,
    many_steps_beat_one,
    noise_is_weaker,
    reaches_chance,
)

GRID = np.geomspace(0.002, 0.2, 10).tolist()


class Noisy(nn.Module):
    def forward(self, x):
        return x + 0.01 * torch.randn_like(x)


class Coarse(nn.Module):
    """Rounds its input to eight levels, whose gradient is 0."""

    def forward(self, x):
        return (8 * x).round() / 8


class Detach(nn.Module):
    def forward(self, x):
        return x.detach()


@pytest.fixture
def clean(linear, images):
    network, x = linear(3), images(300)
    with torch.no_grad():
        return network, x, network(x).argmax(1)


def test_deterministic(clean):
    network, x, _ = clean
    found = deterministic(network, x)
    assert (found.name, found.passed, found.evidence) == ("deterministic", True, {"largest_logit_difference": 0.0})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = deterministic(nn.Sequential(Noisy(), network), x)
    assert not found.passed
    assert found.evidence["largest_logit_difference"] > 0.01


def test_dropout_is_not_taken_for_randomness(clean):
    network, x, _ = clean
    with_dropout = nn.Sequential(nn.Dropout(0.5), network).train()
    assert deterministic(with_dropout, x).passed
    assert with_dropout.training


def test_logits_not_probabilities(clean):
    network, x, _ = clean
    assert logits_not_probabilities(network, x).passed
    assert logits_not_probabilities(nn.Sequential(network, nn.LogSoftmax(1)), x).passed
    # Positive outputs alone are no fault.
    assert logits_not_probabilities(nn.Sequential(network, nn.ReLU()), x).passed
    found = logits_not_probabilities(nn.Sequential(network, nn.Softmax(1)), x)
    assert found.name == "logits_not_probabilities"
    assert not found.passed
    assert found.evidence["smallest_output"] >= 0
    assert found.evidence["largest_distance_of_sum_from_1"] < 1e-3


@pytest.mark.parametrize("kind", [Coarse, Detach])
def test_gradients_alive(clean, kind):
    network, x, y = clean
    found = gradients_alive(margins(network, x, y, [Linf()]))
    assert (found.name, found.passed, found.evidence) == ("gradients_alive", True, {"share_without_gradient": 0.0})
    dead = nn.Sequential(kind(), network)
    found = gradients_alive(margins(dead, x, dead(x).argmax(1), [Linf()]))
    assert not found.passed
    assert found.evidence == {"share_without_gradient": 1.0}


def test_gradients_of_equal_logits_are_not_alive(images):
    # What a network whose activations died returns: torch's argmax takes the first class, and the radii call it right.
    x = images()
    dead = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    nn.init.zeros_(dead[1].weight)
    nn.init.zeros_(dead[1].bias)
    y = torch.zeros(16, dtype=torch.int64)
    assert radii(dead, x, y, FGSM(), GRID).isinf().all()
    assert not gradients_alive(margins(dead, x, y, [Linf()])).passed


@pytest.mark.parametrize("kind", [Coarse, Detach])
def test_reaches_chance(clean, kind):
    network, x, y = clean
    found = reaches_chance(network, x, y, 3)
    assert found.passed
    assert found.evidence == {"error_at_0.5": 1.0, "chance": pytest.approx(2 / 3)}
    masked = nn.Sequential(kind(), network)
    found = reaches_chance(masked, x, masked(x).argmax(1), 3)
    assert found.name == "reaches_chance"
    assert not found.passed
    assert found.evidence["error_at_0.5"] < 2 / 3


def test_large_logits_alone_do_not_keep_the_error_from_chance(clean, linear):
    _, x, y = clean
    # Cross-entropy has no gradient here; the check must not confuse that with masked gradients.
    assert reaches_chance(linear(3, scale=1e4), x, y, 3).evidence["error_at_0.5"] == 1


@pytest.mark.parametrize(("norm", "grid"), [(Linf(), GRID), (L2(), np.geomspace(0.02, 4, 10).tolist())])
def test_noise_is_weaker(clean, norm, grid):
    network, x, y = clean
    attacked = {"fgsm": radii(network, x, y, FGSM(norm=norm), grid).numpy()}
    found = noise_is_weaker(network, x, y, norm, attacked, grid)
    assert found.name == f"noise_is_weaker_{norm.name}"
    assert found.passed
    masked = nn.Sequential(Coarse(), network)
    y = masked(x).argmax(1)
    attacked = {"fgsm": radii(masked, x, y, FGSM(norm=norm), grid).numpy()}
    found = noise_is_weaker(masked, x, y, norm, attacked, grid)
    assert not found.passed
    assert found.evidence["largest_excess"] > 0.03
    assert found.evidence["epsilon"] in grid


def test_noise_is_held_against_the_worst_attack(clean):
    network, x, y = clean
    useless = np.full(300, np.inf)
    attacked = {"useless": useless, "fgsm": radii(network, x, y, FGSM(), GRID).numpy()}
    assert noise_is_weaker(network, x, y, Linf(), attacked, GRID).passed
    wide = [0.3, 1.0]
    assert not noise_is_weaker(network, x, y, Linf(), {"useless": useless}, wide).passed


def test_many_steps_beat_one(clean):
    network, x, y = clean
    attacks = {"fgsm": FGSM(), "step_ll": StepLL(), "pgd": PGD(), "short": PGD(steps=1, step_size=0.01)}
    found = {name: radii(network, x, y, attack, GRID).numpy() for name, attack in attacks.items()}
    check = many_steps_beat_one(Linf(), attacks, found, GRID)
    assert check.name == "many_steps_beat_one_linf"
    assert check.passed
    # A loop whose steps cannot reach the end of the ball is the planted fault.
    broken = {name: attacks[name] for name in ("fgsm", "step_ll", "short")}
    check = many_steps_beat_one(Linf(), broken, {name: found[name] for name in broken}, GRID)
    assert not check.passed
    assert check.evidence["attack"] == "fgsm"
    excess = max((found["fgsm"] <= e).mean() - (found["short"] <= e).mean() for e in GRID)
    assert check.evidence["largest_excess"] == pytest.approx(excess)
    assert excess > 0.2


@pytest.mark.parametrize(("fooled", "passed"), [(3, True), (4, False)])
def test_the_tolerance_is_three_images_in_a_hundred(fooled, passed):
    weak = np.where(np.arange(100) < fooled, 0.1, np.inf)
    check = cross_entropy_not_masked(Linf(), np.full(100, np.inf), weak, [0.05, 0.1, 0.2])
    assert check.passed == passed
    assert check.evidence == {"largest_excess": pytest.approx(fooled / 100), "epsilon": 0.1}


def test_cross_entropy_not_masked(clean, linear):
    _, x, y = clean
    verdicts = []
    # At a scale of 100 the softmax of float32 is exactly one-hot on most images, and cross-entropy has no gradient.
    for scale in (1, 100):
        network = linear(3, scale=scale)
        by_cross_entropy, by_margin = (
            radii(network, x, y, attack, GRID).numpy()
            for attack in (PGD(random_start=False), PGD(random_start=False, loss=margin))
        )
        check = cross_entropy_not_masked(Linf(), by_cross_entropy, by_margin, GRID)
        assert check.name == "cross_entropy_not_masked_linf"
        verdicts.append(check.passed)
    assert verdicts == [True, False]
    # Better by cross-entropy than by the margin is no fault.
    assert cross_entropy_not_masked(Linf(), by_margin, by_cross_entropy, GRID).evidence["largest_excess"] == 0


def test_network_is_left_as_it_was(conv, images):
    network, x = conv(), images()
    y = network(x).argmax(1)
    network.train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    deterministic(network, x)
    logits_not_probabilities(network, x)
    reaches_chance(network, x, y, 4)
    assert all(module.training for module in network.modules())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
