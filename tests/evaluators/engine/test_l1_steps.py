"""Projection onto the intersection of an L1 ball and the pixel range, and sparse steps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog, minimize

from evaluators import L2
from evaluators.engine.l1_steps import greedy_radius, greedy_step, movable, shrink, sparse_step
from evaluators.norms import L1

pixels = arrays(np.float64, (4, 1, 2, 3), elements=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0])).map(torch.from_numpy)
deltas = arrays(np.float64, (4, 1, 2, 3), elements=st.floats(-3, 3, width=32)).map(torch.from_numpy)
epsilons = st.floats(0.01, 8)


def ball(epsilon, like):
    return torch.full((len(like), *[1] * (like.ndim - 1)), epsilon, dtype=like.dtype)


def solved(x, delta, epsilon):
    """Returns the nearest point of the intersection for one image, by a general solver of quadratic programs."""
    # The perturbation is split into the parts that raise and lower a pixel, so that the constraint is linear.
    d = len(x)
    result = minimize(
        lambda z: 0.5 * np.sum((z[:d] - z[d:] - delta) ** 2),
        np.zeros(2 * d),
        jac=lambda z: np.concatenate([z[:d] - z[d:] - delta, -(z[:d] - z[d:] - delta)]),
        bounds=[*((0, 1 - v) for v in x), *((0, v) for v in x)],
        constraints={"type": "ineq", "fun": lambda z: epsilon - z.sum(), "jac": lambda z: -np.ones(2 * d)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return x + result.x[:d] - result.x[d:]


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 1.0, 4.0])
def test_the_projection_solves_the_quadratic_program(epsilon):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, 1, 3, 4, generator=generator, dtype=torch.float64)
    x = torch.where(x < 0.2, 0.0, torch.where(x > 0.8, 1.0, x))
    delta = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    near = L1().inside(x, delta, ball(epsilon, x))
    for row, image, wanted in zip(near, x, delta, strict=True):
        expected = solved(image.flatten().numpy(), wanted.flatten().numpy(), epsilon)
        np.testing.assert_allclose(row.flatten().numpy(), expected, atol=2e-6)


@given(x=pixels, delta=deltas, other=deltas, epsilon=epsilons)
def test_no_point_of_the_intersection_is_nearer(x, delta, other, epsilon):
    near = L1().inside(x, delta, ball(epsilon, x))
    assert ((near >= 0) & (near <= 1)).all()
    assert (L1().size(near - x) <= epsilon * (1 + 1e-12)).all()
    rival = L1().inside(x, other, ball(epsilon, x))
    assert (L2().size(x + delta - near) <= L2().size(x + delta - rival) + 1e-9).all()
    torch.testing.assert_close(L1().inside(x, near - x, ball(epsilon, x)), near, rtol=0, atol=1e-12)


def test_clipping_after_a_projection_would_waste_most_of_the_ball():
    # All of the ball goes to the first pixel, which has room for 0.1 only. The nearest point of both sets uses the others.
    x, delta = torch.tensor([[0.9, 0.5, 0.5]]), torch.tensor([[3.0, 0.4, 0.3]])
    near = L1().inside(x, delta, torch.tensor([[0.5]]))
    torch.testing.assert_close(near - x, torch.tensor([[0.1, 0.25, 0.15]]))
    clipped = (x + L1().project(delta, torch.tensor([[0.5]]))).clamp(0, 1)
    torch.testing.assert_close(clipped - x, torch.tensor([[0.1, 0.0, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("epsilon", [0.05, 12.0])
def test_the_size_is_kept_in_every_number_format_and_on_large_images(dtype, epsilon):
    delta = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    shrunk = shrink(delta, torch.full_like(delta, 0.5), torch.tensor(epsilon, dtype=dtype))
    assert shrunk.dtype == dtype
    total = shrunk.double().abs().flatten(1).sum(1)
    torch.testing.assert_close(total, torch.full_like(total, epsilon), rtol=0.01 if dtype != torch.float32 else 1e-4, atol=0)


def test_a_step_leaves_out_pixels_that_cannot_move():
    points = torch.tensor([[1.0, 0.0, 0.5, 0.5, 1.0], [0.5, 0.5, 0.5, 0.5, 0.5]])
    gradient = torch.tensor([[9.0, -8.0, -7.0, 1.0, -6.0], [0.0, 0.0, 3.0, 0.0, 0.0]])
    assert movable(points, gradient).tolist() == [[0.0, 0.0, -7.0, 1.0, -6.0], [0.0, 0.0, 3.0, 0.0, 0.0]]
    step = sparse_step(points, gradient, torch.tensor([2, 2]))
    assert step.tolist() == [[0.0, 0.0, -0.5, 0.0, -0.5], [0.0, 0.0, 1.0, 0.0, 0.0]]


def test_the_number_of_pixels_of_a_step_differs_between_images():
    gradient = torch.arange(1.0, 7.0).expand(3, 6)
    step = sparse_step(torch.full((3, 6), 0.5), gradient, torch.tensor([1, 3, 9]))
    assert (step > 0).sum(1).tolist() == [1, 3, 6]
    torch.testing.assert_close(step.sum(1), torch.ones(3))


def test_a_zero_gradient_makes_no_step():
    assert (sparse_step(torch.rand(2, 4), torch.zeros(2, 4), torch.tensor([1, 4])) == 0).all()


@given(x=pixels, gradient=deltas, rise=st.floats(0.01, 8))
def test_the_greedy_radius_solves_the_linear_program(x, gradient, rise):
    radius = greedy_radius(x, gradient, torch.full((4,), rise, dtype=torch.float64))
    for image, slope, found in zip(x.flatten(1).numpy(), gradient.flatten(1).numpy(), radius.tolist(), strict=True):
        # The perturbation is split into the parts that raise and lower a pixel.
        bounds = [*((0, 1 - p) for p in image), *((0, p) for p in image)]
        both = np.concatenate([slope, -slope])
        largest = sum(max(s * (1 - p), -s * p) for s, p in zip(slope, image, strict=True))
        if largest < rise:
            assert found == math.inf
        elif largest > rise * 1.001:
            solved = linprog(np.ones(12), A_ub=-both[None], b_ub=[-rise], bounds=bounds)
            assert found == pytest.approx(solved.fun, rel=1e-6)


def test_the_greedy_radius_is_0_without_a_rise_and_infinite_without_a_slope():
    x = torch.full((2, 4), 0.5)
    assert greedy_radius(x, torch.ones(2, 4), torch.tensor([0.0, -1.0])).tolist() == [0.0, 0.0]
    assert greedy_radius(x, torch.zeros(2, 4), torch.tensor([1.0, 2.0])).tolist() == [math.inf, math.inf]


@given(x=pixels, gradient=deltas, rise=st.floats(-3, 3))
def test_the_greedy_step_has_the_greedy_radius_and_the_wanted_rise(x, gradient, rise):
    step = greedy_step(x, gradient, torch.full((4,), rise, dtype=torch.float64))
    assert ((x + step >= -1e-12) & (x + step <= 1 + 1e-12)).all()
    # A fall is a rise of the negative function.
    radius = greedy_radius(x, gradient * math.copysign(1, rise), torch.full((4,), abs(rise), dtype=torch.float64))
    reached = radius.isfinite()
    risen = (step * gradient).flatten(1).sum(1)
    torch.testing.assert_close(risen[reached], torch.full_like(risen[reached], rise), rtol=0, atol=1e-6)
    torch.testing.assert_close(L1().size(step)[reached], radius[reached], rtol=1e-6, atol=1e-6)


def test_a_greedy_step_that_cannot_suffice_moves_every_pixel_to_the_end_of_its_range():
    x, gradient = torch.tensor([[0.3, 0.6, 0.5]]), torch.tensor([[2.0, -1.0, 0.0]])
    torch.testing.assert_close(greedy_step(x, gradient, torch.tensor([9.0])), torch.tensor([[0.7, -0.6, 0.0]]))
    torch.testing.assert_close(greedy_step(x, gradient, torch.tensor([-9.0])), torch.tensor([[-0.3, 0.4, 0.0]]))
    assert greedy_step(x, gradient, torch.tensor([0.0])).abs().sum() == 0
