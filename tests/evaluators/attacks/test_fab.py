"""FAB: several classes, one gradient a step, steps back from misclassified points, and refused settings."""

import math
import re

import pytest
import torch
from torch import nn

from evaluators import FMN, EpsilonGrid, Linf, radii
from evaluators.attacks import FAB
from evaluators.norms import L1


class DeadEnd(nn.Module):
    """Logits of three classes. Class 1 is the nearest to first order, but stays below class 0. Class 2 is 0.3 away."""

    def forward(self, x):
        first, second = x.flatten(1).T
        return torch.stack([torch.zeros_like(first), (2 * first - 1.4).clamp(max=-0.1), second - 0.8], 1)


class Curved(nn.Module):
    """Two classes. The margin is a * b + a + b - 1.05 of the two pixels, so the boundary is curved."""

    def forward(self, x):
        first, second = x.flatten(1).T
        return torch.stack([torch.zeros_like(first), first * second + first + second - 1.05], 1)


class Counting(nn.Module):
    """Counts the passes with and without a gradient."""

    def __init__(self, network):
        super().__init__()
        self.network, self.gradients, self.forwards = network, 0, 0

    def forward(self, x):
        if torch.is_grad_enabled():
            self.gradients += 1
        else:
            self.forwards += 1
        return self.network(x)


def radius(network, x, attack):
    y = network(x).argmax(1)
    return radii(network, x, y, attack, EpsilonGrid(epsilons=[x[0].numel() * 0.99], tolerance=0.01))


@pytest.mark.parametrize(("targets", "expected"), [(1, math.inf), (2, 0.3)])
def test_the_second_target_is_found_behind_a_dead_end(targets, expected):
    found = radius(DeadEnd(), torch.full((1, 2), 0.5), FAB(steps=20, targets=targets))
    assert found.item() == pytest.approx(expected, rel=2e-3)


def test_the_radius_to_a_curved_boundary_is_that_of_a_search_over_all_points():
    x = torch.tensor([[0.2, 0.3], [0.1, 0.45]])
    axis = torch.linspace(0, 1, 1001)
    points = torch.cartesian_prod(axis, axis)
    wrong = points[Curved()(points).argmax(1) == 1]
    expected = torch.stack([(wrong - image).abs().sum(1).amin() for image in x])
    torch.testing.assert_close(radius(Curved(), x, FAB(steps=50)), expected.double(), rtol=0.01, atol=0)


def test_each_step_towards_each_target_costs_one_gradient(linear, images):
    x = images(6, low=0.45, high=0.55)
    network = Counting(linear(classes=5))
    y = network(x).argmax(1)
    for targets in (1, 3):
        network.gradients = network.forwards = 0
        radii(network, x, y, FAB(steps=7, targets=targets, candidates=5), [1.0], batch_size=len(x))
        # One gradient for each wrong class ranks the classes. Each run ends with a bisection of 10 passes. The clean logits
        # are computed for the radii and for the ranking.
        assert (network.gradients, network.forwards) == (4 + 7 * targets, 2 + 10 * targets)


def test_it_finds_radii_like_those_of_fmn_on_a_trained_network(trained):
    network, x, y = trained
    grid = EpsilonGrid(epsilons=[64.0], tolerance=0.01)
    fab, fmn = (radii(network, x, y, attack, grid) for attack in (FAB(steps=60), FMN(norm=L1(), steps=180)))
    assert fab.isfinite().all()
    right = fmn > 0
    assert (fab[right] / fmn[right]).mean() <= 1.02


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": Linf()}, "norm must be l1 for FAB, got linf; FMN takes every norm"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"targets": 0}, "targets must be at least 1, got 0"),
        ({"candidates": 1}, "candidates must be at least 2, the true class and one other, got 1"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        FAB(**settings)
