"""ConstraintRelaxation and the ranking of classes on which it relies."""

import math

import pytest
import torch
from torch import nn

from evaluators import L2, PGD, Linf, radii
from evaluators.attacks import ConstraintRelaxation, GradientOracle, margin
from evaluators.attacks.gradient_oracle import AllFooledError
from evaluators.attacks.losses import targeted_margin
from evaluators.attacks.rivals import margin_to_nearest, rank_rivals
from evaluators.engine.noise import ImageNoise

BOTH = pytest.mark.parametrize("norm", [Linf(), L2()], ids=lambda norm: norm.name)


def right_labels(network, x):
    with torch.no_grad():
        return network(x).argmax(1)


class Recording(nn.Module):
    """Records the points of all passes with gradients, and counts those without."""

    def __init__(self, network):
        super().__init__()
        self.network, self.points, self.forwards = network, [], 0
        self.register_forward_hook(lambda module, inputs, output: None)  # So that no faster copy is made.

    def forward(self, x):
        if torch.is_grad_enabled():
            self.points.append(x.detach().clone())
        else:
            self.forwards += len(x)
        return self.network(x)


class Wave(nn.Module):
    """Adds a wave to the pixels, so that the gradient of a quarter of them has the wrong sign."""

    def __init__(self, network, period):
        super().__init__()
        self.network, self.frequency = network, 2 * math.pi / period

    def forward(self, x):
        return self.network(x + 2 * torch.sin(self.frequency * x) / self.frequency)


@BOTH
def test_rivals_are_ranked_by_the_distance_of_their_linear_boundary(linear, images, norm):
    network, x = linear(6), images(30, low=0.3, high=0.7)
    y = right_labels(network, x)
    weight, bias = (p.detach() for p in network[1].parameters())
    logits = x.flatten(1) @ weight.T + bias
    gap = logits.gather(1, y[:, None]) - logits
    away = gap / (weight[y][:, None] - weight[None]).norm(1 if norm == Linf() else 2, dim=2)
    expected = away.scatter(1, y[:, None], math.inf).argsort(1)[:, :5]
    target = GradientOracle(network, x, y, norm, torch.full((30,), 0.1), keep="nothing")
    assert torch.equal(rank_rivals(target, norm, x, 10), expected)
    # Of the two largest wrong logits, the nearer one comes first.
    largest = gap.scatter(1, y[:, None], math.inf).topk(2, largest=False).indices
    assert torch.equal(rank_rivals(target, norm, x, 3).sort(1).values, largest.sort(1).values)
    assert (expected[:, 0] != largest[:, 0]).any()


@pytest.mark.parametrize(
    ("classes", "candidates", "passes", "gradients"), [(6, 10, 1, 5), (6, 3, 1, 2), (6, 2, 0, 0), (2, 10, 1, 0)]
)
def test_the_nearest_rival_costs_one_pass_and_its_gradients(linear, images, classes, candidates, passes, gradients):
    network, x = Recording(linear(classes)), images(30)
    target = GradientOracle(network, x, right_labels(network.network, x), L2(), torch.full((30,), 0.1), keep="nearest")
    loss, towards = margin_to_nearest(target, L2(), x, candidates)
    assert (network.forwards, len(network.points)) == (30 * passes, gradients)
    if gradients:
        assert loss is targeted_margin
        assert torch.equal(towards[0], rank_rivals(target, L2(), x, candidates)[:, 0])
    else:
        assert (loss, towards) == (margin, ())


@BOTH
def test_a_linear_network_is_fooled_exactly_up_to_the_distance_of_its_boundary(linear, images, norm):
    network, x = linear(), images(40, low=0.35, high=0.65, seed=1)
    y = right_labels(network, x)
    weight, bias = (p.detach().double() for p in network[1].parameters())
    normal = weight[0] - weight[1]
    exact = (x.flatten(1).double() @ normal + bias[0] - bias[1]).abs() / normal.norm(1 if norm == Linf() else 2)
    grid = [float(exact.quantile(q)) for q in (0.2, 0.5, 0.8)]
    found = radii(network, x, y, ConstraintRelaxation(norm=norm), grid)
    for epsilon in grid:
        assert (found <= epsilon).sum() == pytest.approx(int((exact <= epsilon).sum()), abs=1)


@BOTH
def test_the_first_walk_leaves_the_ball_and_only_points_inside_it_count(conv, images, norm):
    network, x = Recording(conv()), images(16)
    y, epsilon = right_labels(network.network, x), 0.002 if norm == Linf() else 0.01
    adversarial = ConstraintRelaxation(norm=norm)(network, x, y, epsilon)
    sizes = torch.cat([norm.size(p - x) for p in network.points if len(p) == len(x)])
    assert epsilon * 1.2 < sizes.max() <= epsilon * 1.5 * (1 + 1e-4)
    assert (norm.size(adversarial - x) <= epsilon * (1 + 1e-5)).all()


def test_distant_images_are_given_up_after_one_cycle_for_each_class(linear, images):
    network, x = linear(), images(20, low=0.3, high=0.7)
    y = right_labels(network, x)
    weight, bias = (p.detach() for p in network[1].parameters())
    away = ((x.flatten(1) @ weight.T + bias).diff(dim=1).squeeze(1) / (weight[0] - weight[1]).norm(1)).abs()
    counted = Recording(network)
    attack = ConstraintRelaxation(steps=4, cycles=5)
    attack(counted, x, y, away / 10)
    gradients = sum(len(p) for p in counted.points[1:])  # The first pass finds the batch size.
    # One gradient for the ranking, three walks of four steps, and the check before the next cycle.
    assert gradients == len(x) * (1 + 3 * 4 + 1)
    counted = Recording(network)
    attack(counted, x, y, away * 0.98)  # Just out of reach: every cycle runs, as its share reaches the boundary.
    assert sum(len(p) for p in counted.points[1:]) == len(x) * (1 + 5 * (3 * 4 + 1) - 1)


@BOTH
def test_an_image_does_not_depend_on_its_batch(conv, images, norm):
    network, x = conv().double(), images(12).double()
    y, attack, epsilon = (
        right_labels(network, x),
        ConstraintRelaxation(norm=norm, targets=1),
        0.02 if norm == Linf() else 0.2,
    )
    target = GradientOracle(network, x, y, norm, torch.full((12,), epsilon, dtype=x.dtype), keep="first")
    together = attack.perturb(
        target, x, torch.full((12, 1, 1, 1), epsilon, dtype=x.dtype), ImageNoise.of(0, torch.arange(12))
    )
    for i in range(12):
        one = slice(i, i + 1)
        target = GradientOracle(network, x[one], y[one], norm, torch.full((1,), epsilon, dtype=x.dtype), keep="first")
        ball, noise = torch.full((1, 1, 1, 1), epsilon, dtype=x.dtype), ImageNoise.of(0, torch.arange(i, i + 1))
        try:
            alone = attack.perturb(target, x[one], ball, noise)
        except AllFooledError:
            continue
        torch.testing.assert_close(alone, together[one])


def test_misleading_gradients_stop_it_less_than_pgd(trained):
    network, x, y = trained
    masked = Wave(network, 0.16).eval()
    epsilon = 0.12
    pgd = radii(masked, x, y, PGD(steps=60, loss=margin, step_size=0.1), [epsilon]) <= epsilon
    relaxed = radii(masked, x, y, ConstraintRelaxation(), [epsilon]) <= epsilon
    assert relaxed.sum() > pgd.sum() + 5


@BOTH
def test_it_is_as_strong_as_pgd_with_as_many_gradients(trained, norm):
    network, x, y = trained
    grid = [0.02, 0.04, 0.08] if norm == Linf() else [0.2, 0.4, 0.8]
    pgd = radii(network, x, y, PGD(norm=norm, steps=60, step_size=0.1), grid)
    relaxed = radii(network, x, y, ConstraintRelaxation(norm=norm), grid)
    for epsilon in grid:
        assert (relaxed <= epsilon).sum() >= (pgd <= epsilon).sum() > 2


@pytest.mark.parametrize("setting", ["targets", "steps", "cycles"])
def test_budgets_below_1_are_refused(setting):
    with pytest.raises(ValueError, match=f"^{setting} must be at least 1, got 0$"):
        ConstraintRelaxation(**{setting: 0})


def test_fewer_than_2_candidates_are_refused():
    with pytest.raises(ValueError, match="candidates must be at least 2"):
        ConstraintRelaxation(candidates=1)
