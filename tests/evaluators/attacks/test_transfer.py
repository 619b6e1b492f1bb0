"""Transfer: adversarial images of one network, applied to another."""

import json
import re

import pytest
import torch
from torch import nn

from evaluators import FGSM, FMN, L2, PGD, Linf, Transfer, describe, radii
from evaluators.attacks import margin


def labels(network, x):
    with torch.no_grad():
        return network(x).argmax(1)


class NoGradients(nn.Module):
    """Returns one-hot predictions, and fails if a gradient is computed."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        assert not x.requires_grad
        return nn.functional.one_hot(self.network(x).argmax(1), 4).to(x.dtype)


@pytest.mark.parametrize("norm", [Linf(), L2()])
def test_a_step_on_one_linear_network_changes_the_margin_of_another_by_a_closed_form(norm, linear, images):
    source, target, x = linear(seed=1), linear(seed=2), images(300, low=0.35, high=0.65)
    y = labels(target, x)
    epsilon = 0.02 if norm == Linf() else 0.15
    adversarial = Transfer(source=source, attack=FGSM(norm=norm, loss=margin))(target, x, y, epsilon)
    here, there = (network[1].weight[0] - network[1].weight[1] for network in (target, source))
    step = there.sign() if norm == Linf() else there / there.norm()
    sign = (1 - 2 * y).float()
    gap = sign * (target(x)[:, 0] - target(x)[:, 1])
    expected = gap - epsilon * (here @ step)
    torch.testing.assert_close(sign * (target(adversarial)[:, 0] - target(adversarial)[:, 1]), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "attack",
    [FGSM(), PGD(steps=3), PGD(norm=L2(), steps=3, restarts=2), FMN(steps=20)],
    ids=["fgsm", "pgd", "pgd-l2", "fmn"],
)
def test_the_points_are_those_of_the_inner_attack_on_the_source(attack, conv, images):
    source, target, x = conv(seed=1), conv(seed=2), images()
    y = labels(source, x)
    adversarial = Transfer(source=source, attack=attack)(NoGradients(target), x, y, 0.1, seed=3)
    torch.testing.assert_close(adversarial, attack(source, x, y, 0.1, seed=3), rtol=0, atol=1e-6)


def test_from_a_network_to_itself_it_is_the_inner_attack(conv, images):
    network, x = conv(), images(100)
    y, grid = labels(network, x), [0.02, 0.05, 0.1, 0.2]
    image_radii = radii(network, x, y, Transfer(source=network, attack=FGSM()), grid)
    assert torch.equal(image_radii, radii(network, x, y, FGSM(), grid))


def test_from_another_network_it_fools_less(conv, images):
    network, x = conv(), images(100)
    y, grid = labels(network, x), [0.02, 0.05, 0.1, 0.2]
    across = radii(network, x, y, Transfer(source=conv(seed=1), attack=PGD()), grid)
    assert across.isfinite().float().mean() < radii(network, x, y, PGD(), grid).isfinite().float().mean()


@pytest.mark.parametrize("fails", [False, True])
def test_the_source_is_held_in_evaluation_mode_and_left_as_it_was(conv, images, fails):
    source, target, x = conv(seed=1), conv(seed=2), images()
    y = labels(source, x)
    expected = PGD()(source, x, y, 0.1)
    source.train()
    source[4].eval()
    source[0].weight.requires_grad_(False)
    modes = [module.training for module in source.modules()]
    needed = [parameter.requires_grad for parameter in source.parameters()]
    state = {name: value.clone() for name, value in source.state_dict().items()}
    attack = Transfer(source=source, attack=PGD())
    if fails:
        with pytest.raises(ValueError, match="labels from 0 to 3"):
            attack(conv(classes=9), x, y + 5, 0.1)
    else:
        torch.testing.assert_close(attack(target, x, y, 0.1), expected, rtol=0, atol=1e-6)
    assert [module.training for module in source.modules()] == modes
    assert [parameter.requires_grad for parameter in source.parameters()] == needed
    assert all(parameter.grad is None for parameter in source.parameters())
    assert all(torch.equal(value, state[name]) for name, value in source.state_dict().items())


def test_it_is_described_by_names(conv):
    attack = Transfer(source=conv(), attack=PGD(norm=L2(), loss=margin))
    assert attack.norm == L2()
    plain = json.loads(json.dumps(describe(attack)))
    assert plain == {
        "name": "evaluators.attacks.transfer:Transfer",
        "source": "Sequential",
        "attack": describe(PGD(norm=L2(), loss=margin)),
        "norm": "l2",
    }


def test_what_is_refused(conv, images):
    with pytest.raises(TypeError, match=re.escape("source must be a network, an nn.Module, got str")):
        Transfer(source="resnet18", attack=PGD())
    with pytest.raises(TypeError, match=re.escape("attack must be an Attack, got str")):
        Transfer(source=conv(), attack="pgd")
    x = images()
    with pytest.raises(ValueError, match=re.escape("must return logits of shape (1, K) with K >= 2")):
        Transfer(source=nn.Flatten(0), attack=PGD())(conv(), x, labels(conv(), x), 0.1)
