import math
import re

import numpy as np
import pytest
import torch

from evaluators.regions.voting import mean_interval
from evaluators.regions.voting_lines import boundary_entropy, vote_along_line


def step(linear, place, pixels=4):
    """Returns a network that predicts 1 where the first pixel exceeds `place`, else 0."""
    weight = torch.zeros(2, pixels)
    weight[1, 0] = 1.0
    return linear(weight=weight, bias=torch.tensor([place, 0.0]))


def line(n=1):
    """Returns start images with a first pixel of 0.2, and end images with 0.4."""
    start = torch.full((n, 1, 2, 2), 0.5)
    start[:, 0, 0, 0] = 0.2
    end = start.clone()
    end[:, 0, 0, 0] = 0.4
    return start, end


def test_two_boundaries_are_found_and_the_votes_between_them(linear, device):
    networks = [step(linear, 0.3).to(device), step(linear, 0.37).to(device), step(linear, 0.37).to(device)]
    line_votes = vote_along_line(networks, *(image.to(device) for image in line()), beyond=1.0, points=21)
    np.testing.assert_allclose(line_votes.positions, np.linspace(0, 2, 21))
    pixel = 0.2 + 0.2 * line_votes.positions
    np.testing.assert_array_equal(line_votes.predictions[0, 0], pixel > 0.3 + 1e-6)
    np.testing.assert_array_equal(line_votes.predictions[0, 1], pixel > 0.37)
    between = (pixel > 0.3 + 1e-6) & (pixel < 0.37)
    third = -math.log(1 / 3) / 3 - 2 * math.log(2 / 3) / 3
    np.testing.assert_allclose(line_votes.entropy[0], np.where(between, third, 0), atol=1e-12)
    assert line_votes.crossing[0] == pytest.approx(0.5, abs=1e-6)
    assert line_votes.length[0] == pytest.approx(0.2, abs=1e-6)
    other = vote_along_line(networks, *(image.to(device) for image in line()), crossing_of=1)
    assert other.crossing[0] == pytest.approx(0.85, abs=1e-6)


def test_a_line_ends_where_it_leaves_the_pixel_range(linear):
    line_votes = vote_along_line([step(linear, 0.9), step(linear, 0.3)], *line(), beyond=5.0, points=61)
    inside = 0.2 + 0.2 * line_votes.positions <= 1 + 1e-6
    np.testing.assert_array_equal(line_votes.predictions[0] == -1, np.stack([~inside] * 2))
    np.testing.assert_array_equal(np.isnan(line_votes.entropy[0]), ~inside)
    assert line_votes.crossing[0] == pytest.approx(3.5, abs=1e-5)
    # A boundary outside the pixel range does not count.
    assert np.isinf(vote_along_line([step(linear, 1.1), step(linear, 0.3)], *line(), beyond=5.0).crossing[0])


def test_entropy_by_distance_from_the_boundary(linear):
    # The first boundary is at 0.3, a distance of 0.1 from the start. The second one is at 0.335, at an offset of
    # 0.035 / 0.1 = 0.35 beyond the first.
    networks = [step(linear, 0.3), step(linear, 0.335)]
    start, end = line(3)
    start[2, 0, 0, 0], end[2, 0, 0, 0] = 0.1, 0.2
    line_votes = vote_along_line(networks, start, end)
    assert np.isfinite(line_votes.crossing[:2]).all()
    # The third line ends at 0.3, where rounding decides whether it crosses the boundary. So it is left out.
    crossing = np.array([*line_votes.crossing[:2], np.inf])
    near = boundary_entropy(networks, start, end, crossing, [-1.0, -0.1, 0.01, 0.3, 0.4, 10.0])
    np.testing.assert_allclose(near.entropy, [0, 0, math.log(2), math.log(2), 0, math.nan])
    np.testing.assert_array_equal(near.n, [2, 2, 2, 2, 2, 0])
    np.testing.assert_allclose(near.interval[2], math.log(2) * mean_interval(np.ones(2)))
    assert np.isnan(near.interval[5]).all()
    np.testing.assert_array_equal(near.offsets, [-1.0, -0.1, 0.01, 0.3, 0.4, 10.0])


def test_no_line_crosses(linear):
    networks = [step(linear, 0.9), step(linear, 0.9)]
    line_votes = vote_along_line(networks, *line())
    assert np.isinf(line_votes.crossing).all()
    near = boundary_entropy(networks, *line(), line_votes.crossing, [0.0])
    assert near.n[0] == 0
    assert np.isnan(near.entropy[0])


def test_batches_change_nothing(conv, images):
    networks = [conv(seed=seed) for seed in range(3)]
    whole = vote_along_line(networks, images(5), images(5, seed=1), points=11)
    parts = vote_along_line(networks, images(5), images(5, seed=1), points=11, batch_size=2)
    np.testing.assert_array_equal(whole.predictions, parts.predictions)
    np.testing.assert_array_equal(whole.crossing, parts.crossing)
    with torch.no_grad():
        np.testing.assert_array_equal(whole.predictions[:, 1, 0], networks[1](images(5)).argmax(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end": torch.zeros(2, 1, 2, 2)}, "start and end must ... got (1, 1, 2, 2) and (2, 1, 2, 2)"),
        ({"crossing_of": 2}, "crossing_of must ... from 0 to 1 ... got 2"),
        ({"beyond": -0.5}, "beyond must ... at least 0 ... got -0.5"),
        ({"points": 1}, "points must ... at least 2 ... got 1"),
    ],
)
def test_inputs_that_are_refused(linear, change, message):
    start, end = line()
    arguments = {"networks": [step(linear, 0.3)] * 2, "start": start, "end": end} | change
    with pytest.raises(ValueError, match=r".*".join(map(re.escape, message.split(" ... ")))):
        vote_along_line(**arguments)


@pytest.mark.parametrize(
    ("crossing", "offsets", "message"),
    [
        (np.ones(2), [0.0], "crossing must ... (1,) ... got (2,)"),
        (np.ones(1), [-1.5], "offsets must ... at least -1 ... got -1.5"),
    ],
)
def test_crossings_and_offsets_that_are_refused(linear, crossing, offsets, message):
    with pytest.raises(ValueError, match=r".*".join(map(re.escape, message.split(" ... ")))):
        boundary_entropy([step(linear, 0.3)] * 2, *line(), crossing, offsets)


def test_lines_of_fewer_than_two_networks_and_of_images_with_gradients(linear):
    start, end = line()
    with pytest.raises(ValueError, match="networks must hold at least two networks, got 0"):
        vote_along_line([], start, end)
    networks = [step(linear, 0.3), step(linear, 0.6)]
    wanted = vote_along_line(networks, start, end)
    np.testing.assert_array_equal(vote_along_line(networks, start.requires_grad_(), end).crossing, wanted.crossing)
