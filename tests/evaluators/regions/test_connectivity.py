import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from evaluators import FGSM, L2, PGD, Linf, UniformNoise
from evaluators.attacks import margin
from evaluators.regions import Starts
from evaluators.regions.connectivity import AdversarialSet, adversarial_set, connections


class Strips(nn.Module):
    """Predicts class 0 where the first or the second pixel is near 0.5, else the class of its quadrant, 1 to 4."""

    def __init__(self, strip):
        super().__init__()
        self.strip = strip

    def forward(self, x):
        a, b = (x.flatten(1)[:, :2] - 0.5).T
        inner = torch.minimum(a.abs(), b.abs()) - self.strip
        wedges = [torch.where((a * i > 0) & (b * j > 0), inner, -1.0) for i in (1, -1) for j in (1, -1)]
        return torch.stack([torch.zeros_like(a), *wedges], 1)


def grey(pixels=4):
    return torch.full((1, 1, 2, pixels // 2), 0.5)


ZERO = torch.zeros(1, dtype=torch.int64)


def given(images):
    """Returns an AdversarialSet of these images, with the classes of `Strips(0.1)`."""
    return AdversarialSet(
        x=grey(),
        label=0,
        norm=L2(),
        epsilon=0.4,
        starts=len(images),
        successes=len(images),
        images=images,
        predictions=Strips(0.1)(images).argmax(1).numpy(),
        distances=np.zeros((len(images), len(images))),
        distances_l2=np.zeros((len(images), len(images))),
    )


def at(*places):
    images = torch.full((len(places), 1, 2, 2), 0.5)
    images.flatten(1)[:, :2] += torch.tensor(places)
    return images


def test_noise_finds_the_quadrants_in_their_proportions():
    adversarial = adversarial_set(
        Strips(0.1), grey(2), ZERO, UniformNoise(norm=Linf()), 0.3, starts=Starts(count=800), tolerance=0
    )
    # The ball is a square of side 0.6. Without the strips of width 0.2 along both axes, the share (0.4 / 0.6)^2 remains.
    assert abs(adversarial.successes / 800 - 4 / 9) < 4 * math.sqrt(20 / 81 / 800)
    assert len(adversarial.images) == adversarial.successes
    assert adversarial.classes == 4
    assert sorted(np.unique(adversarial.predictions)) == [1, 2, 3, 4]
    brute = (adversarial.images[:, None] - adversarial.images).flatten(2).abs().amax(2).double().numpy() / 0.3
    np.testing.assert_allclose(adversarial.distances, brute, atol=1e-6)
    assert adversarial.spread == pytest.approx(brute.sum() / adversarial.successes / (adversarial.successes - 1), rel=1e-6)
    straight = (adversarial.images[:, None] - adversarial.images).flatten(2).norm(dim=2)
    np.testing.assert_allclose(adversarial.distances_l2, straight, atol=1e-6)


@pytest.mark.parametrize("tolerance", [0.0, 0.3, 1.0])
def test_distinct_images_are_farther_apart_than_the_tolerance_and_cover_the_others(tolerance):
    attack = UniformNoise(norm=L2())
    every = adversarial_set(Strips(0.05), grey(), ZERO, attack, 0.3, starts=Starts(count=100), tolerance=0)
    adversarial = adversarial_set(Strips(0.05), grey(), ZERO, attack, 0.3, starts=Starts(count=100), tolerance=tolerance)
    assert adversarial.successes == every.successes
    apart = adversarial.distances[~np.eye(len(adversarial.images), dtype=bool)]
    assert (apart > tolerance).all()
    nearest = (every.images[:, None] - adversarial.images).flatten(2).norm(dim=2).amin(1) / 0.3
    assert (nearest <= tolerance + 1e-6).all()
    assert tolerance == 0 or len(adversarial.images) < len(every.images)


def test_an_attack_without_a_random_start_finds_one_image(conv, images):
    network, x = conv(), images(1)
    y = network(x).argmax(1)
    adversarial = adversarial_set(network, x, y, FGSM(), 0.5, starts=Starts(count=10))
    assert adversarial.successes in (0, 10)
    assert adversarial.successes == 10
    assert len(adversarial.images) == 1
    assert math.isnan(adversarial.spread)


def test_images_are_adversarial_and_the_same_for_more_starts(conv, images):
    network, x = conv(), images(1)
    y = network(x).argmax(1)
    attack = PGD(norm=L2(), loss=margin)
    adversarial = adversarial_set(network, x, y, attack, 1.5, starts=Starts(count=8), tolerance=0)
    more = adversarial_set(network, x, y, attack, 1.5, starts=Starts(count=12), tolerance=0)
    assert 2 <= len(adversarial.images) <= 8
    assert torch.equal(more.images[: len(adversarial.images)], adversarial.images)
    with torch.no_grad():
        assert (network(adversarial.images).argmax(1).numpy() == adversarial.predictions).all()
    assert (adversarial.predictions != int(y)).all()
    assert (L2().size(adversarial.images - x) <= 1.5 * (1 + 1e-5)).all()
    assert (adversarial.distances <= 2 * (1 + 1e-5)).all()
    assert not torch.equal(
        adversarial_set(network, x, y, attack, 1.5, starts=Starts(count=8, seed=1)).images, adversarial.images
    )
    near = adversarial_set(network, x, y, attack, 1.5, starts=Starts(count=8, stop_when_fooled=True))
    assert L2().size(near.images - x).mean() < L2().size(adversarial.images - x).mean()


def test_none_found(conv, images):
    network, x = conv(), images(1)
    adversarial = adversarial_set(network, x, network(x).argmax(1), PGD(), 1e-6, starts=Starts(count=3))
    assert (adversarial.successes, len(adversarial.images), adversarial.classes) == (0, 0, 0)
    assert adversarial.distances.shape == (0, 0)
    with pytest.raises(ValueError, match="adversarial must hold at least one image"):
        connections(network, adversarial)


def test_strips_that_straight_paths_cross_separate_the_quadrants():
    adversarial = given(at((0.2, 0.2), (0.3, 0.15), (0.2, -0.2), (-0.2, -0.2)))
    joined = connections(Strips(0.1), adversarial, points=20, steps=1, step_size=0.01)
    np.testing.assert_array_equal(joined.by_straight, [0, 0, 1, 2])
    np.testing.assert_array_equal(joined.components, [0, 0, 1, 2])
    wanted = np.eye(4, dtype=bool)
    wanted[0, 1] = wanted[1, 0] = True
    np.testing.assert_array_equal(joined.straight, wanted)
    np.testing.assert_array_equal(joined.same_class, wanted)
    assert not joined.bent.any()


class Disc(nn.Module):
    """Predicts class 0 where the first two pixels are in a disc around 0.5, and classes 1 and 2 in the halves outside."""

    def forward(self, x):
        place = x.flatten(1)[:, :2] - 0.5
        outside = place.norm(dim=1) - 0.15
        return torch.stack([torch.zeros_like(outside), outside + 1e-3 * place[:, 0], outside - 1e-3 * place[:, 0]], 1)


def test_a_bent_path_goes_round_a_disc():
    adversarial = given(at((0.25, 0.02), (-0.25, 0.02), (0.25, 0.1)))
    adversarial = AdversarialSet(**{**vars(adversarial), "predictions": Disc()(adversarial.images).argmax(1).numpy()})
    joined = connections(Disc(), adversarial, points=30, steps=20)
    np.testing.assert_array_equal(joined.straight, [[True, False, True], [False, True, False], [True, False, True]])
    assert joined.bent[0, 1]
    assert joined.bent[1, 0]
    np.testing.assert_array_equal(joined.by_straight, [0, 1, 0])
    np.testing.assert_array_equal(joined.components, [0, 0, 0])
    # Here the gradient step is too short to leave the disc.
    assert not connections(Disc(), adversarial, points=30, steps=1, step_size=0.01).bent.any()


def test_a_bent_path_is_evaluated_on_both_halves():
    class Narrow(nn.Module):
        """Makes the middle and one half of the path adversarial, but not the other half."""

        def forward(self, x):
            a = x.flatten(1)[:, 0] - 0.5
            return torch.stack([((a < 0.2) & (a > 0.05)).float(), 0.5 + 0 * a], 1)

    adversarial = given(at((0.25, 0.0), (-0.25, 0.0)))
    joined = connections(Narrow(), adversarial, points=9)
    np.testing.assert_array_equal(joined.components, [0, 1])


def test_paths_over_two_wrong_classes_are_not_of_one_class():
    class Halves(nn.Module):
        def forward(self, x):
            a = x.flatten(1)[:, 0] - 0.5
            return torch.stack([0 * a - 1, a, -a], 1)

    images = at((0.25, 0.0), (-0.25, 0.0), (0.1, 0.2))
    adversarial = AdversarialSet(**{**vars(given(images)), "predictions": np.array([1, 2, 1])})
    joined = connections(Halves(), adversarial, points=7)
    assert joined.straight.all()
    np.testing.assert_array_equal(joined.same_class, [[True, False, True], [False, True, False], [True, False, True]])
    assert not joined.bent.any()


def test_a_path_between_images_of_one_class_may_pass_through_another():
    class Band(nn.Module):
        """Class 2 in a band of the first pixel and class 1 elsewhere. Class 0 is never predicted."""

        def forward(self, x):
            a = x.flatten(1)[:, 0] - 0.5
            return torch.stack([0 * a - 1, a.abs() - 0.1, 0.1 - a.abs()], 1)

    # The third image is just inside the band. All other points of the path from the first image are outside.
    images = at((0.25, 0.0), (-0.25, 0.0), (0.099, 0.0))
    adversarial = AdversarialSet(**{**vars(given(images)), "predictions": np.array([1, 1, 2])})
    joined = connections(Band(), adversarial, points=7)
    assert joined.straight.all()
    np.testing.assert_array_equal(joined.same_class, np.eye(3, dtype=bool))


def test_number_of_evaluated_points():
    class Counted(nn.Module):
        seen = 0

        def forward(self, x):
            Counted.seen += len(x)
            return torch.stack([torch.zeros(len(x)), torch.ones(len(x))], 1)

    connections(Counted(), given(at((0.2, 0.2), (-0.2, 0.2), (0.2, -0.2))), points=5)
    assert Counted.seen == 3 * 5


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"x": grey().expand(2, -1, -1, -1)}, ValueError, "x must ... got 2 images"),
        ({"tolerance": 3.0}, ValueError, "tolerance must ... between 0 and 2 ... got 3"),
        ({"epsilon": 0.0}, ValueError, "epsilon must ... above 0 ... got 0"),
        ({"epsilon": 8}, ValueError, "epsilon must ... between 0 and 1 ... got 8"),
        ({"attack": PGD}, TypeError, "attack must ... got the class PGD ... PGD()"),
    ],
)
def test_inputs_that_are_refused(change, kind, message):
    arguments = {"network": Strips(0.1), "x": grey(), "y": ZERO, "attack": PGD(), "epsilon": 0.1} | change
    with pytest.raises(kind, match=r".*".join(map(re.escape, message.split(" ... ")))):
        adversarial_set(**arguments)


@pytest.mark.parametrize("count", [0, 2.5])
def test_numbers_of_starts_that_are_refused(count):
    with pytest.raises(ValueError, match=f"count must be a whole number of at least 1, got {count}"):
        Starts(count=count)


@pytest.mark.parametrize("size", [-1.0, math.nan, math.inf])
def test_steps_of_paths_must_have_a_length(size):
    with pytest.raises(ValueError, match=rf"step_size must be positive.* got {size}"):
        connections(Strips(0.1), given(at((0.2, 0.2))), step_size=size)


@pytest.mark.parametrize("name", ["points", "steps"])
def test_settings_of_paths_that_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got 0"):
        connections(Strips(0.1), given(at((0.2, 0.2))), **{name: 0})
