import math
import re

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from evaluators import L2, Linf
from evaluators.regions import Sampling
from evaluators.regions.sampling import affordable_samples, ball_points, check_balls


def drawn(centre, norm, radius, samples, *, seed=0, batch_size=512):
    return torch.cat(
        [
            points
            for _, points in ball_points(centre, norm, [radius], Sampling(samples=samples, seed=seed, batch_size=batch_size))
        ]
    )


def test_fewer_samples_are_affordable_if_they_take_long_to_draw():
    assert affordable_samples(L2(), 64, 4, 500) == affordable_samples(Linf(), 3072, 4, 500) == 500
    # A point needs about sqrt(3072 pi) proposals, each of 3,072 random numbers.
    assert affordable_samples(L2(), 3072, 4, 500) == 41
    assert affordable_samples(L2(), 3072, 8, 500) == 20
    assert affordable_samples(L2(), 10**6, 200, 40) == 1


@pytest.mark.parametrize("norm", [Linf(), L2()])
@pytest.mark.parametrize(("place", "radius"), [(0.5, 0.3), (0.1, 0.4), (0.0, 0.2), (1.0, 0.9)])
def test_points_are_distributed_like_those_of_rejection_from_the_pixel_range(norm, place, radius):
    centre = torch.full((1, 1, 1, 3), place, dtype=torch.float64)
    centre[..., 1] = 0.4
    points = drawn(centre, norm, radius, 4000).flatten(1).numpy()
    generator = np.random.default_rng(0)
    cube = generator.uniform(0, 1, (200_000, 3))
    change = np.abs(cube - centre.flatten().numpy())
    size = change.max(1) if norm.name == "linf" else np.linalg.norm(change, axis=1)
    wanted = cube[size <= radius]
    directions = generator.normal(size=(3, 6))
    for direction in directions.T:
        assert kstest(points @ direction, wanted @ direction).pvalue > 1e-3
    assert kstest(np.linalg.norm(points - centre.flatten().numpy(), axis=1), size_l2(wanted, centre)).pvalue > 1e-3


def size_l2(points, centre):
    return np.linalg.norm(points - centre.flatten().numpy(), axis=1)


@pytest.mark.parametrize("place", [0.5, 0.0])
def test_lengths_in_many_dimensions_follow_their_law(place):
    # Around the middle of the pixel range, the whole ball is in the range. Around a corner, one orthant of the ball is. By
    # symmetry, the lengths have the same distribution.
    centre = torch.full((1, 1, 16, 16), place, dtype=torch.float64)
    points = drawn(centre, L2(), 0.5, 800)
    length = (points - centre).flatten(1).norm(dim=1).numpy() / 0.5
    assert kstest(length, lambda r: np.clip(r, 0, 1) ** 256).pvalue > 1e-3
    assert points.min() >= 0
    assert points.max() <= 1


def test_a_ball_that_holds_the_whole_range_is_the_range():
    points = drawn(torch.full((1, 1, 2, 2), 0.25), L2(), 2.0, 2000).flatten(1).numpy()
    for column in points.T:
        assert kstest(column, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("norm", [Linf(), L2()])
def test_points_depend_on_neither_batches_nor_other_images(norm, images, device):
    centres = images(3).to(device)
    whole = next(ball_points(centres, norm, [0.1, 0.3], Sampling(samples=20, seed=5, batch_size=1000)))
    parts = list(ball_points(centres, norm, [0.1, 0.3], Sampling(samples=20, seed=5, batch_size=7)))
    assert torch.equal(whole[0], torch.cat([balls for balls, _ in parts]))
    torch.testing.assert_close(whole[1], torch.cat([points for _, points in parts]))
    torch.testing.assert_close(
        whole[1][:40],
        torch.cat([p for _, p in ball_points(centres[:1], norm, [0.1, 0.3], Sampling(samples=20, seed=5, batch_size=64))]),
    )
    sizes = norm.size(whole[1] - centres[whole[0] // 2])
    assert (sizes <= torch.tensor([0.1, 0.3], device=device)[whole[0] % 2] * (1 + 1e-5)).all()
    assert len(torch.unique(whole[1].flatten(1), dim=0)) == 120
    assert not torch.equal(
        whole[1], next(ball_points(centres, norm, [0.1, 0.3], Sampling(samples=20, seed=6, batch_size=1000)))[1]
    )


@pytest.mark.parametrize("norm", [Linf(), L2()])
def test_a_radius_of_0_is_the_centre(norm, images):
    centre = images(1)
    assert torch.equal(drawn(centre, norm, 0.0, 5), centre.expand(5, -1, -1, -1))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"norm": Linf}, TypeError, "norm must be Linf() or L2(), got <class"),
        ({"radii": 0.1}, TypeError, "epsilons must ... got one number"),
        ({"radii": [8.0]}, ValueError, "epsilon must ... between 0 and 1 ... got 8"),
        ({"centres": torch.full((1, 4), 2.0)}, ValueError, "x must ... [0, 1] ... got [2, 2]"),
    ],
)
def test_inputs_that_are_refused(change, kind, message):
    given = {"centres": torch.zeros(1, 4), "norm": Linf(), "radii": [0.1]} | change
    with pytest.raises(kind, match=r".*".join(map(re.escape, message.split(" ... ")))):
        check_balls(**given)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"samples": 0}, "samples must ... at least 1 ... got 0"),
        ({"samples": 2.5}, "samples must ... at least 1 ... got 2.5"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"confidence": 95.0}, "confidence must ... between 0 and 1 ... got 95"),
    ],
)
def test_settings_that_are_refused(setting, message):
    with pytest.raises(ValueError, match=r".*".join(map(re.escape, message.split(" ... ")))):
        Sampling(**setting)


def test_the_largest_radius_is_the_diagonal():
    assert check_balls(torch.zeros(1, 4), L2(), [0, 2]) == [0, 2]
    assert math.isclose(L2().largest(4), 2)
