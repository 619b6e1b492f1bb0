import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from evaluators import FGSM, L2, PGD, Linf, error_curve, first_order_error, margins, radii
from evaluators.attacks import margin
from evaluators.logits.first_order import first_order_breakdown, gradient_norms

EPSILONS = np.geomspace(1e-4, 0.25, 30).tolist()


def labels(network, x):
    """Returns the predictions of the network as labels, with every tenth label changed."""
    with torch.no_grad():
        logits = network(x)
    y = logits.argmax(1)
    y[::10] = (y[::10] + 1) % logits.shape[1]
    return y


@pytest.mark.parametrize("norm", [Linf(), L2()], ids=lambda norm: norm.name)
def test_prediction_is_the_error_of_fgsm_on_a_linear_network(linear, images, device, norm):
    # The images are near grey, so that no step leaves the pixel range.
    network, x = linear(), images(200, low=0.3, high=0.7, seed=1)
    y = labels(network, x)
    network, x, y = network.to(device), x.to(device), y.to(device)
    measured = error_curve(radii(network, x, y, FGSM(norm=norm, loss=margin), EPSILONS).numpy(), EPSILONS).error
    predicted = [first_order_error(network, x, y, norm, epsilon) for epsilon in EPSILONS]
    assert predicted == measured.tolist()
    assert len(set(predicted)) > 15
    assert first_order_error(network, x, y, norm, 0.0) == pytest.approx(0.1)


def test_predictions_from_one_and_from_all_wrong_classes_bound_the_error_of_fgsm(linear, images):
    # FGSM steps towards the nearest wrong class and may reach another class first. Its error is at least that predicted
    # from one wrong class, and at most that predicted from all wrong classes.
    network, x = linear(10), images(200, low=0.3, high=0.7)
    y = labels(network, x)
    image_radii = radii(network, x, y, FGSM(loss=margin), EPSILONS).numpy()
    for epsilon, measured in zip(EPSILONS, error_curve(image_radii, EPSILONS).error, strict=True):
        predicted = [first_order_error(network, x, y, Linf(), epsilon, classes) for classes in (1, 2, 3, 9)]
        assert predicted == sorted(predicted)
        assert predicted[0] <= measured <= predicted[-1]
        assert predicted[2] == first_order_error(network, x, y, Linf(), epsilon)
        assert predicted[3] == first_order_error(network, x, y, Linf(), epsilon, None)
    assert first_order_error(network, x, y, Linf(), 0.02, 1) < first_order_error(network, x, y, Linf(), 0.02, 9)


def test_prediction_is_the_share_of_first_order_radii(conv, images):
    network, x = conv(), images(50)
    y = labels(network, x)
    expected = margins(network, x, y, [L2()], classes=2).radii["l2"]
    for epsilon in (0.01, 0.1, 0.5):
        share = (expected <= epsilon).mean()
        assert first_order_error(network, x, y, L2(), epsilon, 2) == share
        assert first_order_error(network, x, y, L2(), epsilon, 2, batch_size=7) == share


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 8}, "pixels are in [0, 1], so write 8/255 rather than 8"),
        ({"epsilon": -0.1}, "epsilon must be between 0 and 1"),
        ({"classes": 0}, "classes must ... at least 1 ... got 0"),
        ({"x": torch.full((4, 1, 8, 8), 2.0)}, "x must ... [0, 1] ... got [2, 2]"),
        ({"y": torch.arange(1, 5)}, "y must hold labels from 0 to 3"),
    ],
)
def test_inputs_that_are_refused(conv, change, message):
    asked = {"x": torch.zeros(4, 1, 8, 8), "y": torch.arange(4), "norm": Linf(), "epsilon": 0.1} | change
    with pytest.raises(ValueError, match=r".*".join(map(re.escape, message.split(" ... ")))):
        first_order_error(conv(), **asked)


def test_gradient_norms_are_those_of_numpy(linear, images):
    network, x = linear(3), images(20)
    y = labels(network, x)
    weight = network[1].weight.detach().double().numpy()
    with torch.no_grad():
        probabilities = network(x).double().softmax(1).numpy()
    by_hand = (probabilities - np.eye(3)[y]) @ weight
    for norm, order in ((Linf(), 1), (L2(), 2)):
        expected = np.linalg.norm(by_hand, order, axis=1)
        np.testing.assert_allclose(gradient_norms(network, x, y, norm), expected, rtol=1e-3, atol=1e-5)
    # With the margin loss, the result is the gradient norm of the difference to the nearest wrong class.
    steepness = margins(network, x, y, [L2()], classes=1).gradient_norms["l2"][:, 0]
    np.testing.assert_allclose(gradient_norms(network, x, y, L2(), margin, batch_size=3), steepness, rtol=1e-5)


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def test_gradients_of_cross_entropy_vanish_where_logits_are_far_apart(linear, images):
    network, x = linear(3), images(50, low=0.4, high=0.6)
    with torch.no_grad():
        y = network(x).argmax(1)
    loud = nn.Sequential(network, Times(1000))
    assert np.median(gradient_norms(loud, x, y, Linf())) < 1e-6 < np.median(gradient_norms(network, x, y, Linf()))
    assert (margins(loud, x, y, [Linf()]).gradient_norms["linf"] > 1000).all()


def test_gradient_norms_of_bad_input_are_refused(conv):
    with pytest.raises(ValueError, match="y must hold labels from 0 to 3"):
        gradient_norms(conv(), torch.zeros(4, 1, 8, 8), torch.arange(1, 5), Linf())
    with pytest.raises(TypeError, match="divide uint8 images by 255"):
        gradient_norms(conv(), torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4), Linf())


def test_network_is_left_as_it_was(conv, images):
    network, x = conv(), images()
    y = labels(network, x)
    network.train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    first_order_error(network, x, y, Linf(), 0.1)
    gradient_norms(network, x, y, Linf())
    assert all(module.training for module in network.modules())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not x.requires_grad


GRID = np.linspace(0.01, 0.2, 20).tolist()


@pytest.mark.parametrize("level", [0.01, 1e-6])
def test_curves_diverge_where_enough_images_stop_being_fooled(level):
    # The prediction has one more fooled image per 0.001 of epsilon. The attack fools the same images up to 0.05, and no more
    # beyond. All discordant images are on one side, so the p-value of the exact test is 2 * 0.5 ** count.
    first_order = np.append(np.arange(1, 201) / 1000, np.zeros(7)) - 1e-9 * np.append(np.ones(200), np.zeros(7))
    measured = np.where(first_order > 0.05, np.inf, first_order)
    needed = math.ceil(math.log2(2 * 20 / level))
    expected = next(epsilon for epsilon in GRID if round((epsilon - 0.05) * 1000) >= needed)
    assert first_order_breakdown(first_order, measured, GRID, level=level) == expected
    assert first_order_breakdown(measured, first_order, GRID, level=level) == expected
    assert first_order_breakdown(first_order, first_order, GRID, level=level) is None


def test_curves_that_meet_again_have_diverged():
    first_order, measured = np.full(100, 0.045), np.full(100, 0.095)
    assert first_order_breakdown(first_order, measured, GRID) == pytest.approx(0.05)


def test_curves_that_differ_by_chance_seldom_diverge():
    generator = np.random.default_rng(0)
    parted = 0
    for _ in range(100):
        pair = generator.uniform(0, 0.25, (2, 150))
        parted += first_order_breakdown(pair[0], pair[1], GRID) is not None
    # At the level 0.01, 1 of 100 pairs diverges on average. Without the correction for the 20 epsilons, about 8 would.
    assert parted <= 2


def test_a_linear_network_never_diverges_from_its_prediction(linear, images):
    network, x = linear(), images(200, low=0.3, high=0.7)
    y = labels(network, x)
    first_order = margins(network, x, y, [Linf()]).radii["linf"]
    assert first_order_breakdown(first_order, radii(network, x, y, FGSM(), EPSILONS).numpy(), EPSILONS) is None


class Wall(nn.Module):
    """The margin has slope 10 within a distance of 2 from the boundary, and slope 1 elsewhere.

    The distance is a difference of pixel sums. Beyond a distance of 2, first-order radii are too large.
    """

    def forward(self, x):
        rest = 0.5 * x[0].numel() + 8 - x.flatten(1).sum(1)
        return torch.stack([torch.where(rest > 2, rest + 18, 10 * rest), torch.zeros_like(rest)], dim=1)


def test_a_nonlinear_network_diverges_from_its_prediction():
    # The images are at distances 0 to 8 from the boundary, in units of 1/64. The prediction is exact below 2. Above 2, the
    # first-order distance is too large by 18.
    distance = torch.linspace(0.01, 7.99, 400)
    x = (0.5 + (8 - distance) / 64).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    y = torch.zeros(400, dtype=torch.int64)
    grid = (np.arange(1, 17) / 128).tolist()
    first_order = margins(Wall(), x, y, [Linf()]).radii["linf"]
    expected = torch.where(distance > 2, distance + 18, distance).numpy() / 64
    np.testing.assert_allclose(first_order, expected, rtol=1e-3)
    measured = radii(Wall(), x, y, PGD(loss=margin), grid).numpy()
    # At 2/64 the curves still agree. At 2.5/64, the attack fools 25 images that are predicted to be robust.
    assert first_order_breakdown(first_order, measured, grid) == 2.5 / 64


@pytest.mark.parametrize(
    ("first_order", "measured", "epsilons", "level", "message"),
    [
        (np.ones(3), np.ones(4), [0.1], 0.01, "radii must ... got 3 and 4"),
        (np.array([np.nan]), np.ones(1), [0.1], 0.01, "none of them negative or NaN"),
        (np.ones(1), -np.ones(1), [0.1], 0.01, "none of them negative or NaN"),
        (np.ones(1), np.ones(1), [0.2, 0.1], 0.01, "epsilons must be strictly increasing"),
        (np.ones(1), np.ones(1), [], 0.01, "epsilons must hold at least one value"),
        (np.ones(1), np.ones(1), [0.1], 0.0, "level must ... between 0 and 1 ... got 0"),
        (np.ones(1), np.ones(1), [0.1], 5, "level must ... between 0 and 1 ... got 5"),
    ],
)
def test_radii_that_are_refused(first_order, measured, epsilons, level, message):
    with pytest.raises(ValueError, match=r".*".join(map(re.escape, message.split(" ... ")))):
        first_order_breakdown(first_order, measured, epsilons, level=level)
