import pytest
import torch
from scipy.stats import kstest

from evaluators.engine.noise import ImageNoise

X = torch.zeros(40, 1, 5, 5)


def noise(seed=0, n=40, stream=0):
    return ImageNoise.of(seed, torch.arange(n), stream)


GAMMA = 0x9E3779B97F4A7C15


def splitmix64(state):
    """Returns the output of SplitMix64 at a state, computed with Python integers."""
    z = state % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def test_the_oracle_is_splitmix64():
    # The first outputs of the reference generator from seed 1234567, as published with its C source.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [splitmix64(1234567 + count * GAMMA) for count in range(1, 5)] == expected


@pytest.mark.parametrize(("seed", "stream", "draw"), [(0, 0, 0), (3, 1, 2), (-5, 2**62 + 17, 1)])
def test_numbers_are_hashes_of_seed_stream_image_draw_and_pixel(seed, stream, draw):
    start = splitmix64(splitmix64((seed + 1) * GAMMA) + (stream + 1) * GAMMA)
    keys = [splitmix64(splitmix64(start + image * GAMMA) + (draw + 1) * GAMMA) for image in (0, 7)]
    expected = [[(splitmix64(key + pixel * GAMMA) >> 40) / 2**24 for pixel in range(25)] for key in keys]
    numbers = ImageNoise.of(seed, torch.tensor([0, 7]), stream).uniform(X[:2], draw)
    assert numbers.flatten(1).tolist() == expected


def test_the_same_seed_gives_the_same_numbers_and_leaves_torchs_generator_alone():
    before = torch.get_rng_state()
    assert torch.equal(noise(7).uniform(X), noise(7).uniform(X))
    assert torch.equal(torch.get_rng_state(), before)


def test_numbers_belong_to_the_image_not_to_its_batch():
    index = torch.tensor([31, 4, 17])
    expected = noise().uniform(X)[index]
    assert torch.equal(ImageNoise.of(0, index).uniform(X[index]), expected)
    assert torch.equal(noise().select(index).uniform(X[index]), expected)


def test_seeds_streams_draws_images_and_pixels_are_all_different():
    variants = [noise(seed, stream=stream).uniform(X, draw) for seed in (0, 1, -5) for stream in (0, 1) for draw in (0, 1)]
    numbers = torch.cat([v.flatten() for v in variants])
    # Among 12,000 numbers of 24 bits, about 4 pairs are equal by chance. If two images had the same random numbers, there
    # would be 25 more.
    assert len(numbers) - len(numbers.unique()) < 15


def test_streams_are_not_correlated():
    kinds = [noise(s, 2000, t).uniform(torch.zeros(2000, 1), d) for s, t, d in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    correlations = torch.corrcoef(torch.stack(kinds).flatten(1))
    assert (correlations - torch.eye(4)).abs().max() < 0.08


def test_uniform_is_uniform():
    values = noise(1, 400).uniform(torch.zeros(400, 25))
    assert values.min() >= 0
    assert values.max() < 1
    assert kstest(values.flatten().double().numpy(), "uniform").pvalue > 0.01


def test_normal_is_normal():
    values = noise(1, 400).normal(torch.zeros(400, 25))
    assert kstest(values.flatten().double().numpy(), "norm").pvalue > 0.01


@pytest.mark.parametrize("end", [0.0, 1 - 2.0**-24])
def test_normal_is_finite_at_both_ends_of_uniform(monkeypatch, end):
    # One number in 16 million is the largest number below 1. A test set needs many millions of numbers, so it does occur.
    monkeypatch.setattr(ImageNoise, "uniform", lambda self, x, draw=0: torch.full_like(x, end))
    assert noise().normal(X).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_numbers_have_the_type_of_the_images_and_stay_below_1(dtype):
    values = noise().uniform(X.to(dtype))
    assert values.dtype == dtype
    assert values.isfinite().all()
    assert (values <= 1).all()


def test_every_device_draws_the_same(device):
    there = ImageNoise.of(3, torch.arange(40, device=device)).uniform(X.to(device))
    assert torch.equal(there.cpu(), noise(3).uniform(X))


def test_the_very_first_number_is_random_too():
    # A hash of 0 is 0: without an offset, the number of seed 0, image 0, draw 0 and pixel 0 would be 0.
    first = torch.stack([ImageNoise.of(seed, torch.arange(1)).uniform(X[:1]).flatten()[0] for seed in range(200)])
    assert first.min() > 0
    assert abs(float(first.mean()) - 0.5) < 0.1
    assert float(noise(1).uniform(X).flatten()[0]) > 1e-3
