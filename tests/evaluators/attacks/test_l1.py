"""Attacks in L1: exact radii of linear networks with and without the pixel range, and strength on a trained network."""

import math
import re

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from evaluators import APGD, BIM, FGSM, FMN, PGD, AutoAttack, DeepFool, EpsilonGrid, HopSkipJump, MinimumNormEnsemble, radii
from evaluators.attacks import (
    DDN,
    FAB,
    ConstraintRelaxation,
    FastPGD,
    GradientOracle,
    Square,
    StepLL,
    Strong,
    SuperDeepFool,
    TargetedAPGD,
    TrustRegion,
    cross_entropy,
    margin,
)
from evaluators.attacks.apgd_l1 import climb_l1
from evaluators.engine.noise import ImageNoise
from evaluators.norms import L1


def right_labels(network, x):
    with torch.no_grad():
        return network(x).argmax(1)


def slopes_and_gaps(network, x, y):
    """Returns the gradient of the margin of a linear network of two classes, (N, D), and the logit differences, (N,)."""
    weight = network[1].weight.detach().double()
    logits = network(x).detach().double()
    gaps = logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])
    return weight[1 - y] - weight[y], gaps.squeeze(1)


def linear_radii(network, x, y):
    """Returns the exact L1 radii of a linear network of two classes within the pixel range, (N,).

    The pixels with the largest slopes move to the end of the range one after the other, as in a fractional knapsack.
    """
    slopes, gaps = slopes_and_gaps(network, x, y)
    flat = x.flatten(1).double()
    room = torch.where(slopes > 0, 1 - flat, flat)
    order = slopes.abs().argsort(1, descending=True)
    slope, room = slopes.abs().gather(1, order), room.gather(1, order)
    risen, spent = (slope * room).cumsum(1), room.cumsum(1)
    place = torch.searchsorted(risen, gaps[:, None])
    before = [torch.cat([torch.zeros(len(x), 1), part], 1).gather(1, place) for part in (risen, spent)]
    return (before[1] + (gaps[:, None] - before[0]) / slope.gather(1, place)).squeeze(1)


@pytest.fixture
def case(linear, images):
    network, x = linear(), images(40, low=0.3, high=0.7, seed=1)
    x = torch.where(images(40, seed=2) < 0.2, 1.0, torch.where(images(40, seed=2) > 0.8, 0.0, x))
    return network, x, right_labels(network, x)


class TestLinearNetworks:
    def test_the_exact_radii_of_these_tests_solve_the_linear_program(self, case):
        slopes, gaps = slopes_and_gaps(*case)
        flat, exact = case[1].flatten(1).double().numpy(), linear_radii(*case)
        for slope, gap, pixels, radius in zip(slopes.numpy(), gaps.numpy(), flat, exact, strict=True):
            # The perturbation is split into the parts that raise and lower a pixel.
            bounds = [*((0, 1 - p) for p in pixels), *((0, p) for p in pixels)]
            solved = linprog(np.ones(128), A_ub=-np.concatenate([slope, -slope])[None], b_ub=[-gap], bounds=bounds)
            assert radius == pytest.approx(solved.fun, rel=1e-6, abs=1e-9)

    def test_without_the_pixel_range_the_radius_is_the_margin_over_the_largest_slope(self, linear, images):
        network, x = linear(), images(40, low=0.49, high=0.51)
        y = right_labels(network, x)
        slopes, gaps = slopes_and_gaps(network, x, y)
        exact = gaps / L1().dual(slopes)
        assert exact.max() < 0.3
        torch.testing.assert_close(linear_radii(network, x, y), exact)
        image_radii = radii(network, x, y, FMN(norm=L1()), EpsilonGrid(epsilons=[0.5], tolerance=0.01))
        torch.testing.assert_close(image_radii, exact, rtol=0.01, atol=1e-5)

    @pytest.mark.parametrize(
        "attack",
        [
            APGD(norm=L1(), loss=margin, steps=50),
            FMN(norm=L1()),
            FMN(norm=L1(), candidates=10),
            FAB(),
            MinimumNormEnsemble(norm=L1()),
            AutoAttack(norm=L1(), steps=50),
            PGD(norm=L1(), loss=margin, steps=50, step_size=0.1),
            FastPGD(norm=L1(), steps=50, step_size=0.1),
            TargetedAPGD(norm=L1(), targets=1, steps=50),
        ],
        ids=lambda attack: type(attack).__name__,
    )
    def test_radii_within_the_pixel_range(self, attack, case):
        exact = linear_radii(*case)
        grid = EpsilonGrid(epsilons=[0.1 * 2.25**k for k in range(6)], tolerance=0.01)
        image_radii = radii(*case, attack, grid)
        assert (image_radii >= exact * (1 - 1e-4)).all()
        assert exact.median() > 0.8
        ratios = image_radii / exact
        # The steps of PGD have a fixed number of pixels.
        assert (ratios <= (1.15 if isinstance(attack, PGD) else 1.03)).double().mean() >= 0.95


class TestAPGD:
    @pytest.mark.parametrize("steps", [1, 2, 5, 20])
    def test_it_evaluates_the_start_of_each_phase_and_each_step(self, steps, conv, images):
        network, x = conv(), images()
        y, seen = right_labels(network, x), []

        def recorded(logits, y):
            seen.append(len(logits))
            return margin(logits, y)

        APGD(norm=L1(), loss=recorded, steps=steps)(network, x, y, 0.5)
        assert len(seen) == steps + (3 if steps >= 4 else 1)

    def test_it_returns_the_best_point_of_the_last_phase(self, conv, images):
        network, x = conv(), images()
        y, ball = right_labels(network, x), torch.full((16, 1, 1, 1), 1.0)
        target = GradientOracle(network, x, y, L1(), ball, keep="nothing")
        seen = []

        def ascend(points):
            value, gradient = target.value_and_gradient(points, margin)
            inside = L1().size(points - x) <= 1 + 1e-5
            seen.append(torch.where(inside, value, -math.inf))
            return value, gradient

        points, value = climb_l1(ascend, x, ball, ImageNoise.of(0, torch.arange(16)), steps=20)
        assert (L1().size(points - x) <= 1 + 1e-5).all()
        torch.testing.assert_close(value, target.value(points, margin))
        torch.testing.assert_close(value, torch.stack(seen[-9:]).amax(0))

    def test_the_first_phases_search_larger_balls(self, images):
        x, sizes = images(low=0.3, high=0.7), []

        def recorded(points):
            sizes.append(L1().size(points - x).max().item())
            return points.flatten(1).sum(1), torch.ones_like(points)

        climb_l1(recorded, x, torch.full((16, 1, 1, 1), 0.5), ImageNoise.of(0, torch.arange(16)), steps=10)
        expected = [1.5] * 4 + [1.0] * 4 + [0.5] * 5
        np.testing.assert_allclose(sizes, expected, rtol=1e-3)

    def test_steps_become_sparse_on_a_network_of_few_pixels(self, images):
        # Two pixels raise the loss. Steps that change a fifth of the pixels would spread most of the ball over the others.
        x = images(low=0.3, high=0.7)
        slope = torch.full((64,), 0.01)
        slope[[3, 40]] = 1.0

        def ascend(points):
            return points.flatten(1) @ slope, slope.view(1, 1, 8, 8).expand_as(points)

        points, _ = climb_l1(ascend, x, torch.full((16, 1, 1, 1), 0.5), ImageNoise.of(0, torch.arange(16)), steps=50)
        moved = (points - x).flatten(1)[:, [3, 40]].sum(1)
        torch.testing.assert_close(moved, torch.full((16,), 0.5), rtol=0.01, atol=0)


class TestTrainedNetwork:
    def errors(self, digits, attack, epsilon):
        network, x, y = digits
        return (right_labels(network, attack(network, x, y, epsilon)) != y).float().mean().item()

    @pytest.mark.parametrize("epsilon", [1.0, 2.0])
    def test_attacks_are_ordered_by_their_strength(self, digits, epsilon):
        clean = self.errors(digits, BIM(norm=L1()), 0.0)
        few, many, adaptive = (
            self.errors(digits, attack, epsilon)
            for attack in (
                BIM(norm=L1(), loss=margin, steps=4, step_size=0.25),
                BIM(norm=L1(), loss=margin, steps=40, step_size=0.1),
                APGD(norm=L1(), loss=margin),
            )
        )
        assert clean < few <= many <= adaptive < 1

    def test_fmn_and_apgd_agree_and_the_ensemble_is_no_weaker(self, digits):
        grid = EpsilonGrid(epsilons=[0.1 * 1.5**k for k in range(12)], tolerance=0.02)
        fmn, apgd, ensemble = (
            radii(*digits, attack, grid)
            for attack in (FMN(norm=L1()), APGD(norm=L1(), loss=margin, steps=30), MinimumNormEnsemble(norm=L1()))
        )
        right = fmn > 0
        assert fmn.isfinite().all()
        assert fmn[right].median() == pytest.approx(apgd[right].median().item(), rel=0.05)
        assert (ensemble <= torch.minimum(fmn, apgd) * 1.05).double().mean() >= 0.9

    def test_fast_pgd_finds_as_much_as_pgd(self, digits):
        grid = [0.25, 0.5, 1.0, 1.5, 2.0, 3.0]
        fast, slow = (
            radii(*digits, kind(norm=L1(), loss=cross_entropy, steps=20, step_size=0.2), grid) for kind in (FastPGD, PGD)
        )
        for epsilon in grid:
            assert (fast <= epsilon).sum() >= (slow <= epsilon).sum() - 1


def test_ensembles_leave_out_members_that_cannot_search_in_l1():
    assert [type(member) for member in AutoAttack(norm=L1()).members()] == [APGD, FMN, TargetedAPGD, Square]
    assert [type(member) for member in Strong(norm=L1()).members()] == [FMN, ConstraintRelaxation, TargetedAPGD, Square]
    assert [type(member) for member in MinimumNormEnsemble(norm=L1()).members()] == [FAB, FMN, FMN, FMN, APGD]
    assert type(FastPGD(norm=L1()).members()[0]) is FMN


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (DeepFool, "norm must be linf or l2 for DeepFool, got l1; FMN and APGD take every norm"),
        (SuperDeepFool, "norm must be linf or l2 for SuperDeepFool, got l1; FMN and APGD take every norm"),
        (TrustRegion, "norm must be linf or l2 for TrustRegion, got l1; FMN and APGD take every norm"),
        (HopSkipJump, "norm must be linf or l2 for HopSkipJump, got l1; FMN and APGD take every norm"),
        (DDN, "norm must be l2 for DDN, got l1; FMN takes every norm"),
        (FGSM, "norm must be linf or l2 for FGSM, got l1; FMN and APGD take every norm"),
        (StepLL, "norm must be linf or l2 for StepLL, got l1; FMN and APGD take every norm"),
    ],
)
def test_attacks_that_cannot_search_in_l1_refuse_it(kind, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(norm=L1())
