import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kstest

from evaluators import L2, NORMS, Linf
from evaluators.engine.noise import ImageNoise
from evaluators.norms import L1

EVERY = [Linf(), L2(), L1()]
numbers = st.floats(-10, 10, allow_nan=False, width=64)
deltas = arrays(np.float64, (3, 1, 2, 3), elements=numbers).map(torch.from_numpy)


@pytest.mark.parametrize(("norm", "order"), [(Linf(), np.inf), (L2(), 2), (L1(), 1)])
@given(delta=deltas)
def test_size_is_numpys(norm, order, delta):
    expected = [np.linalg.norm(row, order) for row in delta.flatten(1).numpy()]
    np.testing.assert_allclose(norm.size(delta), expected, rtol=1e-12)


@pytest.mark.parametrize(("norm", "order"), [(Linf(), 1), (L2(), 2), (L1(), np.inf)])
@given(gradient=deltas)
def test_dual_is_the_dual_of_numpys(norm, order, gradient):
    expected = [np.linalg.norm(row, order) for row in gradient.flatten(1).numpy()]
    np.testing.assert_allclose(norm.dual(gradient), expected, rtol=1e-12)


@pytest.mark.parametrize("norm", EVERY)
@given(gradient=deltas, other=deltas)
def test_ascent_reaches_the_dual_norm_and_nothing_of_size_1_beats_it(norm, gradient, other):
    rise = (gradient * norm.ascent(gradient)).flatten(1).sum(1)
    torch.testing.assert_close(rise, norm.dual(gradient), rtol=1e-9, atol=1e-12)
    rival = norm.project(other, torch.ones(3, 1, 1, 1, dtype=torch.float64))
    assert ((gradient * rival).flatten(1).sum(1) <= norm.dual(gradient) + 1e-9).all()


@pytest.mark.parametrize("norm", EVERY)
@pytest.mark.parametrize("scale", [1e-36, 1e-25, 1e-12, 1.0, 1e12, 1e25])
def test_ascent_has_size_1_whatever_the_scale_of_the_gradient(norm, scale):
    # Squares of float32 numbers underflow to 0 below about 1e-23 and overflow above about 1e19.
    gradient = torch.linspace(0.5, 1, 16).view(1, 1, 4, 4) * scale
    assert norm.size(norm.ascent(gradient)).item() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("norm", EVERY)
def test_ascent_of_a_zero_gradient_stays_zero(norm):
    assert (norm.ascent(torch.zeros(2, 1, 4, 4)) == 0).all()


@pytest.mark.parametrize("norm", EVERY)
@given(delta=deltas, other=deltas, epsilon=st.floats(1e-3, 5))
def test_projection_is_the_nearest_point_of_the_ball(norm, delta, other, epsilon):
    ball = torch.full((3, 1, 1, 1), epsilon, dtype=torch.float64)
    near = norm.project(delta, ball)
    assert (norm.size(near) <= epsilon * (1 + 1e-12)).all()
    torch.testing.assert_close(norm.project(near, ball), near, rtol=1e-12, atol=0)
    inside = norm.size(delta) <= epsilon
    torch.testing.assert_close(near[inside], delta[inside], rtol=1e-12, atol=0)
    # The projections minimise the L2 distance to delta, so any other point of the ball is at least as far away.
    rival = norm.project(other, ball)
    assert (L2().size(delta - near) <= L2().size(delta - rival) + 1e-9).all()


@pytest.mark.parametrize("norm", EVERY)
def test_projection_takes_one_epsilon_per_image(norm):
    epsilon = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1, 1)
    projected_sizes = norm.size(norm.project(torch.full((3, 1, 4, 4), 9.0), epsilon))
    torch.testing.assert_close(projected_sizes, epsilon.flatten())


@pytest.mark.parametrize("norm", EVERY)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**62), epsilon=st.floats(1e-3, 2))
def test_samples_lie_in_the_ball(norm, seed, epsilon):
    x = torch.zeros(50, 1, 2, 2)
    delta = norm.sample(x, torch.full((50, 1, 1, 1), epsilon), ImageNoise.of(seed, torch.arange(50)))
    assert delta.shape == x.shape
    assert (norm.size(delta) <= epsilon * (1 + 1e-6)).all()


def test_samples_of_linf_are_uniform_in_each_pixel():
    delta = Linf().sample(torch.zeros(4000, 1, 1, 2), torch.tensor(0.5), ImageNoise.of(3, torch.arange(4000))).double()
    for pixel in delta.flatten(1).T:
        assert kstest(pixel.numpy(), "uniform", (-0.5, 1)).pvalue > 0.01
    assert abs(np.corrcoef(delta.flatten(1).T)[0, 1]) < 0.05


@pytest.mark.parametrize("pixels", [1, 3, 20])
def test_samples_of_l2_fill_the_ball_evenly(pixels):
    # In d dimensions, the share r^d of a unit ball lies within r of its centre. Each coordinate is symmetric.
    x = torch.zeros(4000, 1, 1, pixels)
    delta = L2().sample(x, torch.tensor(2.0), ImageNoise.of(5, torch.arange(4000))).double().flatten(1)
    assert kstest(((delta.norm(dim=1) / 2) ** pixels).numpy(), "uniform").pvalue > 0.01
    assert ((delta > 0).double().mean(0) - 0.5).abs().max() < 0.04


@pytest.mark.parametrize("pixels", [1, 3, 20])
def test_samples_of_l1_fill_the_ball_evenly(pixels):
    # In d dimensions, the share r^d of a unit ball lies within r of its centre. On the surface, the absolute value of each
    # pixel has the distribution of one of d shares of a stick broken at random: 1 - (1 - t)^(d - 1).
    x = torch.zeros(4000, 1, 1, pixels)
    delta = L1().sample(x, torch.tensor(2.0), ImageNoise.of(5, torch.arange(4000))).double().flatten(1)
    size = delta.abs().sum(1)
    assert kstest(((size / 2) ** pixels).numpy(), "uniform").pvalue > 0.01
    assert ((delta > 0).double().mean(0) - 0.5).abs().max() < 0.04
    if pixels > 1:
        shares = (delta[:, 0].abs() / size).numpy()
        assert kstest(shares, "beta", (1, pixels - 1)).pvalue > 0.01


@pytest.mark.parametrize("norm", [Linf(), L2()])
@given(gradient=deltas)
def test_a_step_is_the_steepest_one_except_in_l1(norm, gradient):
    assert torch.equal(norm.step(torch.zeros_like(gradient), gradient), norm.ascent(gradient))


@pytest.mark.parametrize(("pixels", "count"), [(4, 3), (64, 3), (784, 8), (3072, 31)])
def test_a_step_in_l1_changes_a_hundredth_of_the_pixels_equally(pixels, count):
    gradient = torch.linspace(1, 2, pixels)[None]
    step = L1().step(torch.full((1, pixels), 0.5), gradient)
    assert (step != 0).sum() == count
    torch.testing.assert_close(step[0, -count:], torch.full((count,), 1 / count))


def test_largest_is_the_size_of_the_pixel_range():
    for pixels in (1, 64, 3072):
        ones = torch.ones(1, pixels, dtype=torch.float64)
        for norm in EVERY:
            assert norm.largest(pixels) == pytest.approx(norm.size(ones).item())
    assert L2().largest(3072) == pytest.approx(math.sqrt(3072))


def test_names_resolve_to_norms_that_compare_equal():
    assert {"linf": Linf, "l2": L2, "l1": L1} == NORMS
    assert all(kind.name == name for name, kind in NORMS.items())
    assert Linf() == Linf()
    assert L2() != Linf()
