"""Adversarial images whose pixels are multiples of 1/255."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from evaluators import FGSM, FMN, L2, PGD, AutoAttack, Linf, describe, radii
from evaluators.attacks import EightBit, margin
from evaluators.attacks.eight_bit_rounding import check_eight_bit, rounded
from evaluators.norms import L1
from nas.bundle.manifest import epsilon_and_norm
from nas.config.evaluation import EvaluationConfig
from nas.config.files import parse_config
from nas.config.writer import as_data

NORMS = [Linf(), L2(), L1()]
WRAPPED = [
    FGSM(loss=margin),
    PGD(loss=margin),
    PGD(norm=L2(), loss=margin),
    FMN(steps=20),
    FMN(norm=L1(), steps=20),
    AutoAttack(steps=10, queries=20),
]
SIZES = {"linf": 3 / 255, "l2": 0.2, "l1": 1.0}


def on_grid(x):
    return (255 * x).round() / 255


def right_labels(network, x):
    with torch.no_grad():
        return network(x).argmax(1)


@pytest.fixture
def case(conv, images):
    network, x = conv(), on_grid(images(60))
    return network, x, right_labels(network, x)


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("attack", WRAPPED, ids=lambda attack: f"{type(attack).__name__}-{attack.norm.name}")
def test_points_are_on_the_grid_and_in_the_ball(attack, stop, case):
    network, x, y = case
    for epsilon in (2 * SIZES[attack.norm.name], 2.87 * SIZES[attack.norm.name]):
        adversarial = EightBit(attack=attack)(network, x, y, epsilon, stop_when_fooled=stop)
        torch.testing.assert_close(on_grid(adversarial), adversarial, rtol=0, atol=1e-6)
        assert ((adversarial >= 0) & (adversarial <= 1)).all()
        assert (attack.norm.size(adversarial - x) <= epsilon * (1 + 2e-5) + 1e-6).all()
        assert (adversarial != x).any()


def test_a_linear_network_is_fooled_from_the_next_multiple_on(linear, images):
    # In Linf, the exact radius is margin / L1 norm of the slope, and the radius of rounded images is the next multiple.
    network, x = linear(), on_grid(images(200, low=0.35, high=0.65))
    y = right_labels(network, x)
    weight = network[1].weight.detach()
    with torch.no_grad():
        exact = (-margin(network(x), y) / (weight[0] - weight[1]).abs().sum()).double()
    assert (255 * exact).median() > 1
    clear = ((255 * exact) % 1 - 0.5).abs() < 0.49
    grid = [k / 255 / 2 for k in range(1, 40)]  # Also half multiples, at which rounded images cannot reach further.
    image_radii = radii(network, x, y, EightBit(attack=FGSM(loss=margin)), grid)
    expected = (255 * exact).ceil() / 255
    torch.testing.assert_close(image_radii[clear], expected[clear], rtol=1e-6, atol=0)


@pytest.mark.parametrize("attack", WRAPPED, ids=lambda attack: f"{type(attack).__name__}-{attack.norm.name}")
def test_files_of_the_images_of_every_radius_fool_the_network(attack, case):
    network, x, y = case
    grid = [SIZES[attack.norm.name] * factor for factor in (0.7, 1.5, 3.0)]
    wrapped, free = radii(network, x, y, EightBit(attack=attack), grid), radii(network, x, y, attack, grid)
    epsilon = grid[-1]
    adversarial = EightBit(attack=attack)(network, x, y, epsilon, stop_when_fooled=True)
    stored = (255 * adversarial).round().to(torch.uint8)
    fooled = right_labels(network, stored.float() / 255) != y
    assert (fooled == wrapped.isfinite()).float().mean() >= 0.95
    assert fooled.sum() > 0
    assert wrapped.isfinite().sum() <= free.isfinite().sum() + 1


def test_rounding_may_undo_an_attack_that_is_not_wrapped(linear, images):
    # Perturbations of less than half of a multiple vanish in a file.
    network, x = linear(), on_grid(images(300, low=0.35, high=0.65))
    y = right_labels(network, x)
    epsilon = 0.4 / 255
    assert (radii(network, x, y, PGD(loss=margin), [epsilon]) <= epsilon).any()
    assert radii(network, x, y, EightBit(attack=PGD(loss=margin)), [epsilon]).isinf().all()


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: norm.name)
@given(seed=st.integers(0, 999), epsilon=st.floats(0.002, 2))
def test_rounded_points_stay_inside_and_move_by_at_most_one_level_towards_the_image(norm, seed, epsilon):
    generator = torch.Generator().manual_seed(seed)
    x = on_grid(torch.rand(4, 1, 4, 4, generator=generator))
    delta = 2 * torch.rand(x.shape, generator=generator) - 1
    balls = torch.full((4,), epsilon)
    points = norm.inside(x, delta, balls.view(4, 1, 1, 1))
    near = rounded(x, points, norm, balls)
    assert torch.equal(on_grid(near), near)
    assert (norm.size(near - x) <= epsilon * (1 + 2e-5) + 1e-6).all()
    # The perturbation is scaled by at least 0.9 and rounded to the nearest level, or it is rounded towards the image.
    assert ((near - points).abs() <= 0.1 * (points - x).abs() + 1 / 255 + 1e-6).all()


def test_multiples_are_kept_despite_rounding_errors():
    x = torch.arange(256).view(1, -1) / 255
    for levels in range(1, 20):
        points = (x + torch.tensor(levels / 255)).clamp(0, 1)
        near = rounded(x, points, Linf(), torch.tensor([levels / 255]))
        assert torch.equal(near[0], (torch.arange(256) + levels).clamp(max=255) / 255)


def test_images_off_the_grid_are_refused(conv, images):
    network, x = conv(), images()
    message = "x must have pixels that are multiples of 1/255 for eight_bit, got "
    with pytest.raises(ValueError, match=re.escape(message)):
        EightBit()(network, x, right_labels(network, x), 0.1)
    for dtype in (torch.float32, torch.float64):
        check_eight_bit((torch.arange(256) / 255).to(dtype))
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(ValueError, match="x must be float32 or float64 for eight_bit"):
            check_eight_bit((torch.arange(256) / 255).to(dtype))


def test_the_attack_must_be_an_attack():
    with pytest.raises(TypeError, match="attack must be an Attack, got str"):
        EightBit(attack="pgd")


def test_it_is_data_and_can_be_written_in_a_config():
    attack = EightBit(attack=PGD(norm=L2()))
    assert describe(attack)["norm"] == "l2"
    assert describe(attack)["attack"]["name"] == "pgd"
    written = {"files": {"name": "eight_bit", "attack": {"name": "pgd", "norm": "l2"}}}
    config = parse_config({"evaluation": {"epsilon": 0.5, "attacks": written}, "training": {"selection": {"norm": "l2"}}})
    assert config.evaluation.attacks == {"files": attack}
    assert config.norm == "l2"
    again = as_data(config.evaluation)
    assert "norm" not in again["attacks"]["files"]
    assert epsilon_and_norm({"epsilon": 0.5, "config": {"evaluation": again}}) == (0.5, "l2")
    assert EvaluationConfig(attacks={"a": EightBit()}).norm == "linf"
    assert math.isfinite(config.evaluation.epsilon)


def test_the_network_is_evaluated_only_at_images_of_a_file(case):
    network, x, y = case

    class Watched(nn.Module):
        def forward(self, x):
            assert torch.equal(on_grid(x), x)
            return network(x)

    for attack in (PGD(), FMN(steps=10), AutoAttack(steps=5, queries=10)):
        EightBit(attack=attack)(Watched(), x, y, 0.03, stop_when_fooled=True)
