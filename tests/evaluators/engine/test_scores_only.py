"""Networks without gradients: errors of attacks that need them, and what a profile leaves out."""

import math

import pytest
import torch
from torch import nn

from evaluators import FGSM, PGD, Linf, check_network, margins, profile, radii
from evaluators.attacks import HopSkipJump, Square, Transfer
from evaluators.engine.scores_only import NoGradientError, ScoresOnly, why_no_gradients
from evaluators.profiles.record import load_profile, save_profile


class Scores(ScoresOnly):
    """A network outside torch: two logits that are a linear function of the pixels, computed in numpy."""

    reason = "it runs in numpy"

    def __init__(self, weight):
        super().__init__()
        self.weight = weight.numpy()

    def scores(self, x):
        return torch.from_numpy(x.detach().flatten(1).numpy() @ self.weight.T)


@pytest.fixture
def linear():
    """The same linear network in torch and outside torch, with images of grey pixels and their labels."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 16, generator=generator)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False)).requires_grad_(False)
    network[1].weight.copy_(weight)
    x = 0.5 + 0.05 * torch.randn(20, 1, 4, 4, generator=generator)
    return network, Scores(weight), x, network(x).argmax(1)


def test_scores_are_those_of_the_network(linear):
    network, scores, x, _ = linear
    assert torch.allclose(scores(x), network(x), atol=1e-6)
    assert why_no_gradients(network) is None
    assert why_no_gradients(nn.Sequential(scores, nn.Identity())) == "it runs in numpy"


@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=2)])
def test_attacks_by_gradients_fail_instead_of_finding_nothing(attack, linear):
    _, scores, x, y = linear
    with pytest.raises(
        NoGradientError, match="the network has no gradients: it runs in numpy; use attacks on scores or dec"
    ):
        radii(scores, x, y, attack, [0.1])


def test_attacks_on_scores_find_at_least_the_closed_form_radius(linear):
    network, scores, x, y = linear
    weight = network[1].weight
    sizes = (weight[y] - weight[1 - y]).abs().sum(1)
    exact = (network(x).gather(1, y[:, None]) - network(x).gather(1, 1 - y[:, None])).squeeze(1) / sizes
    found = radii(scores, x, y, HopSkipJump(queries=600), [1.0])
    assert bool((found >= exact.double() - 1e-5).all())
    found = radii(scores, x, y, Square(queries=200), [0.05, 0.1, 0.2, 0.4])
    assert bool((found >= exact.double() - 1e-5).all())
    assert math.isfinite(float(found.max()))
    assert torch.equal(found, radii(network, x, y, Square(queries=200), [0.05, 0.1, 0.2, 0.4]))
    # Images of a network with gradients transfer, because both are the same function.
    transfer = Transfer(source=network, attack=FGSM())
    assert torch.equal(radii(scores, x, y, transfer, [0.1, 0.2]), radii(network, x, y, FGSM(), [0.1, 0.2]))


def test_margins_have_no_first_order_radii(linear):
    network, scores, x, y = linear
    outside, inside = margins(scores, x, y, [Linf()]), margins(network, x, y, [Linf()])
    assert outside.margin == pytest.approx(inside.margin, abs=1e-5)
    assert not outside.gradient_norms["linf"].any()
    assert all(math.isinf(radius) for radius in outside.radii["linf"])


def test_checks_of_gradients_are_left_out(linear):
    network, scores, x, y = linear
    inside, outside = ({check.name for check in check_network(one, x, y)} for one in (network, scores))
    assert inside - outside == {"gradients_alive", "gradients_predict", "reaches_chance"}
    assert not outside - inside


def test_profile_has_neither_theory_nor_costs(linear, tmp_path):
    _, scores, x, y = linear
    measured = profile(scores, x, y, {"square": Square(queries=50)}, {"linf": [0.1, 0.3]})
    assert measured.record["cost"] == {"parameters": None, "macs": None}
    assert measured.record["margins"]["first_order"] == {}
    names = {check["name"] for check in measured.record["checks"]}
    assert names == {
        *("tells_classes_apart", "deterministic", "logits_not_probabilities", "batch_independent", "normalised_inside"),
        *("noise_is_weaker_linf", "square_is_weaker_linf", "enough_images"),
    }
    save_profile(measured, tmp_path)
    assert load_profile(tmp_path).record == measured.record
