import colorsys
import json
import re
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn, idctn
from scipy.ndimage import gaussian_filter
from scipy.stats import kstest
from torch import nn

from evaluators import corruption_errors
from evaluators.corruptions import CORRUPTIONS, corrupt

SEVERITIES = range(1, 6)


@pytest.fixture
def pictures():
    """Returns a factory of smooth random images (N, C, 16, 24)."""

    def make(n=8, channels=3, *, seed=0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(n, channels, 5, 7, generator=generator, dtype=dtype)
        return nn.functional.interpolate(coarse, (16, 24), mode="bilinear")

    return make


@pytest.mark.parametrize(("severity", "deviation"), list(enumerate([0.04, 0.06, 0.08, 0.09, 0.1], 1)))
def test_gaussian_noise_is_normal(severity, deviation):
    x = torch.full((100, 3, 8, 8), 0.5, dtype=torch.float64)
    change = (corrupt(x, "gaussian_noise", severity, seed=1) - x).flatten().numpy()
    assert kstest(change, "norm", args=(0, deviation)).pvalue > 0.01
    # All severities use the same random numbers with different scales.
    first = (corrupt(x, "gaussian_noise", 1, seed=1) - x).flatten().numpy()
    np.testing.assert_allclose(change, first * deviation / 0.04, atol=1e-12)


def test_gaussian_noise_depends_on_the_seed_and_not_on_the_batch(pictures):
    x = pictures().round()
    assert torch.equal(corrupt(x, "gaussian_noise", 5, seed=3), corrupt(x, "gaussian_noise", 5, seed=3))
    assert not torch.equal(corrupt(x, "gaussian_noise", 5, seed=3), corrupt(x, "gaussian_noise", 5, seed=4))
    assert torch.equal(corrupt(x, "gaussian_noise", 5)[:3], corrupt(x[:3], "gaussian_noise", 5))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("severity", "sigma"), list(enumerate([0.4, 0.6, 0.7, 0.8, 1.0], 1)))
def test_blur_is_scipys(severity, sigma, channels):
    x = torch.rand(4, channels, 9, 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4)
    np.testing.assert_allclose(corrupt(x, "gaussian_blur", severity).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("severity", "rise"), list(enumerate([0.05, 0.1, 0.15, 0.2, 0.3], 1)))
def test_brightness_raises_the_value_of_hsv(severity, rise):
    x = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[0, :, 0, 0], x[0, :, 0, 1], x[0, 0, 0, 2] = 0, 1, 0
    corrupted = corrupt(x, "brightness", severity)
    for before, after in zip(
        x.permute(0, 2, 3, 1).reshape(-1, 3), corrupted.permute(0, 2, 3, 1).reshape(-1, 3), strict=True
    ):
        hue, saturation, value = colorsys.rgb_to_hsv(*before.tolist())
        assert after.tolist() == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(value + rise, 1)), abs=1e-12)


@pytest.mark.parametrize(("severity", "rise"), list(enumerate([0.05, 0.1, 0.15, 0.2, 0.3], 1)))
def test_brightness_is_added_to_grey_pixels(severity, rise):
    x = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0, 0] = 0
    torch.testing.assert_close(corrupt(x, "brightness", severity), (x + rise).clamp(max=1))


@pytest.mark.parametrize(("severity", "factor"), list(enumerate([0.75, 0.5, 0.4, 0.3, 0.15], 1)))
def test_contrast_shrinks_the_spread_of_each_channel(severity, factor, pictures):
    x = pictures(dtype=torch.float64)
    corrupted = corrupt(x, "contrast", severity)
    torch.testing.assert_close(corrupted.mean((2, 3)), x.mean((2, 3)))
    torch.testing.assert_close(corrupted.std((2, 3)), factor * x.std((2, 3)))


# The luminance table of the JPEG standard, ITU-T T.81, annex K.1.
LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


def grey_jpeg(levels, quality):
    """Returns a block (8, 8) of levels 0 to 255, coded and decoded as in the JPEG standard, with libjpeg's quality scale."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = np.clip(np.floor((LUMINANCE * scale + 50) / 100), 1, 255)
    coded = np.round(dctn(levels - 128, norm="ortho") / steps) * steps
    return np.clip(np.round(idctn(coded, norm="ortho") + 128), 0, 255)


@pytest.mark.parametrize(("severity", "quality"), list(enumerate([80, 65, 58, 50, 40], 1)))
def test_jpeg_of_grey_blocks_is_the_standards(severity, quality, pictures):
    x = pictures(20, 1)
    x[10:] = torch.rand(10, 1, 16, 24, generator=torch.Generator().manual_seed(1))
    levels, corrupted = (x * 255).round().numpy(), corrupt(x, "jpeg", severity).numpy() * 255
    np.testing.assert_allclose(corrupted, corrupted.round(), atol=1e-4)
    blocks = [np.s_[n, 0, r : r + 8, c : c + 8] for n in range(20) for r in (0, 8) for c in (0, 8, 16)]
    same = [np.abs(corrupted[block] - grey_jpeg(levels[block], quality)).max() <= 1.01 for block in blocks]
    # JPEG coders differ in the rounding of coefficients half-way between two levels, so a few blocks may differ. If the
    # quality were off by one, at most half of the blocks would agree.
    assert np.mean(same) > 0.75


def test_jpeg_of_colours_is_near_the_image_and_gets_worse(pictures):
    x = pictures(20)
    distances = [float((corrupt(x, "jpeg", severity) - x).abs().mean()) for severity in SEVERITIES]
    assert 0.002 < distances[0] < 0.05
    assert distances == sorted(distances)
    # The order of the channels and axes stays the same.
    plain = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1).repeat(1, 1, 16, 24)
    assert float((corrupt(plain, "jpeg", 1) - plain).abs().max()) < 0.03
    split = torch.full((1, 3, 16, 24), 0.2)
    split[..., :8, 16:] = 0.7
    assert float((corrupt(split, "jpeg", 1) - split).abs().max()) < 0.03


@pytest.mark.parametrize("name", list(CORRUPTIONS))
@given(
    severity=st.integers(1, 5),
    shape=st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_corrupted_images_are_images(name, severity, shape, dtype, seed):
    # Many pixels are at the ends of the range.
    x = (2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 0.5).clamp(0, 1).to(dtype)
    before = x.clone()
    corrupted = corrupt(x, name, severity)
    assert (corrupted.shape, corrupted.dtype) == (x.shape, x.dtype)
    assert corrupted.min() >= 0
    assert corrupted.max() <= 1
    assert torch.equal(x, before)


def test_every_device_corrupts_alike(device, pictures):
    for name in CORRUPTIONS:
        there = corrupt(pictures().to(device), name, 3)
        assert there.device.type == device.type
        torch.testing.assert_close(there.cpu(), corrupt(pictures(), name, 3), atol=1e-5 if name != "jpeg" else 0.01, rtol=0)


class Bright(nn.Module):
    """Predicts class 1 for images whose mean pixel is above 0.6."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return torch.stack([torch.full_like(mean, 0.6), mean], dim=1)


class Spread(nn.Module):
    """Predicts class 1 for images whose pixels have a standard deviation above 0.1."""

    def forward(self, x):
        spread = x.flatten(1).std(1)
        return torch.stack([torch.full_like(spread, 0.1), spread], dim=1)


def test_errors_of_a_network_that_depends_on_brightness():
    means = torch.linspace(0.2, 0.69, 98)
    x = means.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    y = (means > 0.6).long()
    errors = corruption_errors(Bright(), x, y)
    assert (errors.n, errors.clean) == (98, 0)
    rises = [0.05, 0.1, 0.15, 0.2, 0.3]
    assert errors.errors["brightness"] == [float(((means <= 0.6) & (means + rise > 0.6)).double().mean()) for rise in rises]
    assert errors.errors["contrast"] == [0, 0, 0, 0, 0]
    assert errors.errors["gaussian_blur"] == [0, 0, 0, 0, 0]


def test_errors_of_a_network_that_depends_on_contrast(pictures):
    x = pictures(60, 1)
    x = 0.5 + (x - 0.5) * torch.linspace(0.1, 2, 60).view(-1, 1, 1, 1)
    x = x.clamp(0, 1)
    spread = x.flatten(1).std(1)
    y = (spread > 0.1).long()
    y[::6] = 1 - y[::6]
    errors = corruption_errors(Spread(), x, y)
    assert errors.clean == pytest.approx(1 / 6)
    factors = [0.75, 0.5, 0.4, 0.3, 0.15]
    assert errors.errors["contrast"] == [float(((factor * spread > 0.1).long() != y).double().mean()) for factor in factors]
    assert len(set(errors.errors["contrast"])) == 5


def test_errors_are_those_of_the_corrupted_images(conv, images):
    network, x = conv(channels=3), images(50, 3)
    with torch.no_grad():
        y = network(x).argmax(1)
    corruption = corruption_errors(network, x, y, seed=5)
    assert list(corruption.errors) == list(CORRUPTIONS)
    for name, errors in corruption.errors.items():
        with torch.no_grad():
            logits = [network(corrupt(x, name, severity, seed=5)) for severity in SEVERITIES]
        assert errors == [float((each.argmax(1) != y).double().mean()) for each in logits]
    assert max(corruption.errors["gaussian_noise"]) > 0
    assert corruption.mean == pytest.approx(np.mean(list(corruption.errors.values())))
    assert corruption_errors(network, x, y, seed=5, batch_size=7) == corruption
    assert corruption_errors(network, x, y, seed=6) != corruption
    assert json.loads(json.dumps(asdict(corruption))) == asdict(corruption)


def test_network_is_left_as_it_was(conv, images):
    network, x = conv(), images()
    network.train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    corruption_errors(network, x, torch.zeros(16, dtype=torch.int64))
    assert all(module.training for module in network.modules())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("shape", [(4, 64), (4, 8, 8), (4, 2, 8, 8), (4, 4, 8, 8)])
def test_images_of_another_shape_are_refused(conv, shape):
    message = f"x must have the shape (N, C, H, W) with one or three channels C, got shape {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        corruption_errors(conv(), torch.zeros(shape), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=re.escape(message)):
        corrupt(torch.zeros(shape), "jpeg", 1)


@pytest.mark.parametrize(
    ("x", "y", "kind", "message"),
    [
        (torch.full((4, 1, 8, 8), 2.0), torch.arange(4), ValueError, "x must have pixels in [0, 1], got [2, 2]"),
        (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4), TypeError, "divide uint8 images by 255"),
        (torch.zeros(4, 1, 8, 8), torch.arange(1, 5), ValueError, "y must hold labels from 0 to 3"),
        (torch.zeros(4, 1, 8, 8), torch.arange(3), ValueError, "y must have shape (4,) to match x, got (3,)"),
    ],
)
def test_inputs_that_are_refused(conv, x, y, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        corruption_errors(conv(), x, y)


def test_corruptions_that_are_refused():
    x = torch.zeros(1, 1, 8, 8)
    names = "gaussian_noise, gaussian_blur, brightness, contrast, jpeg"
    with pytest.raises(ValueError, match=f"corruption must be one of {names}, got 'fog'"):
        corrupt(x, "fog", 1)
    for severity in (0, 6, 2.0):
        with pytest.raises(ValueError, match=f"severity must be a whole number from 1 to 5, got {severity}"):
            corrupt(x, "jpeg", severity)
