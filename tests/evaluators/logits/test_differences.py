"""Logit differences: their shape, their density at zero, and the error curve that the mean field predicts."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import nn

from evaluators import Linf, error_curve, margins
from evaluators.logits.differences import (
    independent_logits,
    logit_differences,
    logits_of,
    mean_field_radii,
    near_zero,
    shape_distance,
)

NUMBERS = np.random.default_rng(0)


class TestLogits:
    def test_are_those_of_the_network_whatever_the_batch(self, conv, images):
        network, x = conv(), images(10)
        with torch.no_grad():
            wanted = network(x).double().numpy()
        for size in (None, 3):
            assert logits_of(network, x, size) == pytest.approx(wanted, abs=1e-5)

    def test_leaves_the_network_as_it_was(self, conv, images):
        network = conv().train()
        logits_of(network, images(4))
        assert network.training
        assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())

    def test_pixels_must_be_in_range(self, conv, images):
        with pytest.raises(ValueError, match=r"must have pixels in \[0, 1\]"):
            logits_of(conv(), images(4) - 3)


class TestDifferences:
    def test_by_hand(self):
        assert logit_differences(np.array([[1.0, 4.0, 2.5], [0.0, 0.0, -1.0]])).tolist() == [[1.5, 3.0], [0.0, 1.0]]

    def test_do_not_change_with_a_shift_or_an_order(self):
        logits = NUMBERS.normal(size=(20, 5))
        shifted = logits[:, ::-1] + NUMBERS.normal(size=(20, 1))
        assert logit_differences(shifted) == pytest.approx(logit_differences(logits))

    def test_agree_with_the_margins_of_right_images(self, linear, images):
        network, x = linear(classes=4), images(30)
        logits = logits_of(network, x)
        logit_margins = margins(network, x, torch.tensor(logits.argmax(1)), [Linf()])
        assert logit_margins.differences == pytest.approx(logit_differences(logits), abs=1e-5)

    @pytest.mark.parametrize("logits", [np.zeros((0, 3)), np.zeros((3, 1)), np.zeros(3)])
    def test_logits_must_be_a_table(self, logits):
        with pytest.raises(ValueError, match=r"logits must be \(N, K\).* got shape"):
            logit_differences(logits)

    def test_logits_must_be_finite(self):
        with pytest.raises(ValueError, match="logits must be finite, got nan"):
            logit_differences(np.array([[1.0, math.nan]]))


class TestIndependent:
    def test_keeps_each_class_and_removes_their_correlation(self):
        first = NUMBERS.normal(size=4000)
        tied = np.stack([first, first + 0.1, NUMBERS.normal(size=4000)], axis=1)
        free = independent_logits(tied, seed=1)
        assert (np.sort(free, axis=0) == np.sort(tied, axis=0)).all()
        assert np.corrcoef(tied.T)[0, 1] > 0.99
        assert abs(np.corrcoef(free.T)[0, 1]) < 0.06

    def test_the_seed_decides(self):
        logits = NUMBERS.normal(size=(50, 3))
        assert (independent_logits(logits, seed=1) == independent_logits(logits, seed=1)).all()
        assert (independent_logits(logits, seed=1) != independent_logits(logits, seed=2)).any()


class TestNearZero:
    def test_of_an_exponential_is_one(self):
        density = near_zero(NUMBERS.exponential(3.0, size=200_000))
        # The expected value is the mean density over (0, 0.1).
        assert density.density == pytest.approx((1 - math.exp(-0.1)) / 0.1, abs=0.02)
        assert density.interval[0] < density.density < density.interval[1]
        assert density.count == round(density.density * 0.1 * density.n)

    def test_of_a_uniform_is_a_half_and_of_a_gap_zero(self):
        assert near_zero(NUMBERS.uniform(size=100_000)).density == pytest.approx(0.5, abs=0.02)
        gap = near_zero(1 + NUMBERS.uniform(size=1000))
        assert (gap.density, gap.count, gap.interval[0]) == (0.0, 0, 0.0)

    def test_grows_without_bound_where_the_density_diverges(self):
        steep = NUMBERS.uniform(size=100_000) ** 4
        assert near_zero(steep, within=0.001).density > 5 * near_zero(steep, within=0.1).density > 10

    def test_has_no_unit(self):
        differences = NUMBERS.gamma(1.3, size=500)
        assert near_zero(differences) == near_zero(1000 * differences)

    @pytest.mark.parametrize(
        ("differences", "got"),
        [
            ([-1.0, 2.0], "-1 to 2"),
            ([0.0, 0.0], "0 to 0"),
            ([math.inf, 1.0], "1 to inf"),
            ([[1.0]], r"shape \(1, 1\)"),
            ([], "none"),
        ],
    )
    def test_bad_differences_are_refused(self, differences, got):
        rule = "differences must be a vector of finite numbers, none negative and not all 0"
        with pytest.raises(ValueError, match=f"{rule}, got {got}"):
            near_zero(np.array(differences))

    def test_within_must_be_a_share(self):
        with pytest.raises(ValueError, match=r"within must be .*above 0, got 0"):
            near_zero(np.ones(3), within=0)


class TestShapeDistance:
    def test_depends_on_the_shape_and_not_on_the_scale(self):
        first, second = NUMBERS.exponential(size=4000), NUMBERS.exponential(7.0, size=3000)
        assert shape_distance(first, 4 * first) == 0
        assert shape_distance(first, second) < 0.05
        # The distance between an exponential and a uniform distribution of mean 1: the largest |exp(-x) - max(0, 1 - x/2)|.
        wanted = max(abs(math.exp(-x) - max(0, 1 - x / 2)) for x in np.linspace(0, 4, 4001))
        assert shape_distance(first, NUMBERS.uniform(size=4000)) == pytest.approx(wanted, abs=0.03)

    def test_is_scipys_statistic_also_for_ties_and_single_images(self):
        for sizes in ((40, 30), (200, 7), (2, 3)):
            first, second = (np.round(NUMBERS.gamma(2, size=size), 1) + 0.1 for size in sizes)
            wanted = ks_2samp(first / first.mean(), second / second.mean()).statistic
            assert shape_distance(first, second) == pytest.approx(wanted)
        assert shape_distance(np.array([2.0]), np.array([3.0])) == 0
        assert shape_distance(np.array([2.0]), np.array([1.0, 3.0])) == 0.5


class TestMeanField:
    def test_is_the_first_order_radius_if_all_gradients_are_equal(self, linear, images):
        network, x = linear(), images(40, low=0.4, high=0.6)
        logit_margins = margins(network, x, torch.arange(40) % 2, [Linf()])
        assert 0 < logit_margins.right.sum() < 40
        assert mean_field_radii(logit_margins, "linf") == pytest.approx(logit_margins.radii["linf"], rel=1e-6)

    def test_takes_the_mean_gradient_norm_of_the_correct_images(self, conv, images):
        network, x = conv(classes=3), images(60)
        y = torch.tensor(logits_of(network, x).argmax(1))
        y[:20] = (y[:20] + 1) % 3
        logit_margins = margins(network, x, y, [Linf()])
        radii = mean_field_radii(logit_margins, "linf")
        assert (radii[:20] == 0).all()
        steepness = logit_margins.gradient_norms["linf"][20:].mean(0)
        assert radii[20:] == pytest.approx((logit_margins.differences[20:] / steepness).min(1))
        assert (radii[20:] > 0).all()

    def test_predicts_a_law_of_exponent_one_from_a_density_at_zero(self):
        class Scores(nn.Module):
            """Two logits whose difference is the sum of the pixels. All images have the same gradient."""

            def forward(self, x):
                total = x.flatten(1).sum(1)
                return torch.stack([total, torch.zeros_like(total)], dim=1)

        pixels = torch.tensor(NUMBERS.exponential(0.02, size=(20_000, 1)), dtype=torch.float32).clamp(max=1)
        logit_margins = margins(Scores(), pixels, torch.zeros(len(pixels), dtype=torch.int64), [Linf()])
        curve = error_curve(mean_field_radii(logit_margins, "linf"), [0.0005, 0.001])
        assert curve.flip_rate == pytest.approx(np.array([0.0005, 0.001]) / 0.02, rel=0.1)

    def test_without_a_correct_image_all_are_zero(self, linear, images):
        network, x = linear(), images(6)
        wrong = torch.tensor(1 - logits_of(network, x).argmax(1))
        assert (mean_field_radii(margins(network, x, wrong, [Linf()]), "linf") == 0).all()

    def test_a_constant_network_is_never_flipped(self, linear, images):
        network = linear(weight=torch.zeros(2, 64), bias=torch.tensor([1.0, 0.0]))
        logit_margins = margins(network, images(3), torch.zeros(3, dtype=torch.int64), [Linf()])
        assert (mean_field_radii(logit_margins, "linf") == math.inf).all()

    def test_norm_must_have_been_measured(self, linear, images):
        logit_margins = margins(linear(), images(3), torch.zeros(3, dtype=torch.int64), [Linf()])
        with pytest.raises(ValueError, match=r"norm must be one that was measured \(linf\), got 'l2'"):
            mean_field_radii(logit_margins, "l2")
