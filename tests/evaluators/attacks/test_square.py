"""The square attack: schedule and patterns by hand, exact radii of a linear network, comparison with autoattack."""

import math
import re
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from evaluators import L2, Linf, Square, radii
from evaluators.attacks import margin
from evaluators.attacks.square import shift, stripes, tiles
from evaluators.attacks.square_l1 import sparse_shift, sparse_tiles
from evaluators.attacks.square_patterns import bumps
from evaluators.engine.noise import ImageNoise
from evaluators.norms import L1

NORMS = (Linf(), L2(), L1())


def right_labels(network, x):
    with torch.no_grad():
        return network(x).argmax(1)


class Noting(nn.Module):
    """Records the number of images of each call and the margins of complete batches. Fails if a gradient is computed."""

    def __init__(self, network, y):
        super().__init__()
        self.network, self.y, self.counts, self.margins = network, y, [], []

    def forward(self, x):
        assert not x.requires_grad
        self.counts.append(len(x))
        logits = self.network(x)
        if len(x) == len(self.y):
            self.margins.append(margin(logits, self.y))
        return logits


def test_squares_shrink_as_in_the_paper():
    x = torch.zeros(1, 3, 32, 32)
    attack = Square(queries=10_000)
    starts = [1, 12, 52, 202, 502, 1002, 2002, 4002, 6002, 8002]
    sides = [29, 20, 14, 10, 7, 5, 4, 3, 2, 1]
    assert [attack.side(query, x) for query in starts] == sides
    assert [attack.side(query - 1, x) for query in starts[1:]] == sides[:-1]
    # With another number of queries, the sides shrink after the same shares of the queries.
    assert [Square(queries=1000).side(query, x) for query in (1, 3, 7, 22, 52, 102)] == sides[:6]
    # In L2 and L1 the sides are odd and at least 3, except in smaller images. They are never larger than the image.
    for norm in (L2(), L1()):
        assert [Square(norm=norm, queries=10_000).side(query, x) for query in starts] == [29, 21, 15, 11, 7, 5, 5, 3, 3, 3]
    for norm in NORMS:
        assert Square(norm=norm, p_init=1.0).side(1, torch.zeros(1, 1, 2, 9)) == 2


def test_bumps_by_hand():
    # The upper half is one row. In each half, the value falls from 1 + 1/4 in the middle to 1/4. Then the half is scaled to
    # the squared L2 length 1/2.
    upper = torch.tensor([[1.0, 5.0, 1.0]], dtype=torch.float64) / math.sqrt(2 * 27)
    lower = torch.tensor([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0]], dtype=torch.float64) / math.sqrt(2 * 30)
    expected = torch.cat([upper, -lower])
    upright, turned = bumps(3, torch.float64, torch.device("cpu"), 2).view(2, 3, 3)
    torch.testing.assert_close(upright, expected)
    torch.testing.assert_close(turned, expected.T)
    # In L1, the value falls from 1 + 1/16 to 1/16, and the L1 length of each half is 1/2.
    upper = torch.tensor([[1.0, 17.0, 1.0]], dtype=torch.float64) / (2 * 19)
    lower = torch.tensor([[1.0, 1.0, 1.0], [1.0, 17.0, 1.0]], dtype=torch.float64) / (2 * 22)
    upright, turned = bumps(3, torch.float64, torch.device("cpu"), 1).view(2, 3, 3)
    torch.testing.assert_close(upright, torch.cat([upper, -lower]))
    torch.testing.assert_close(turned, upright.T)
    for power in (1, 2):
        assert bumps(1, torch.float32, torch.device("cpu"), power).tolist() == [[-1], [-1]]


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("side", [*range(1, 12), 29])
def test_bumps_are_autoattacks(side, power):
    square = pytest.importorskip("pyautoattack.square")
    with torch.random.fork_rng(devices=[]):
        theirs = square.SquareAttack(None, norm=f"L{power}", eps=1.0).eta(side)
    ours = bumps(side, torch.float32, torch.device("cpu"), power).view(2, side, side)
    assert (ours - theirs).flatten(1).abs().amax(1).min() < 1e-6


def test_it_starts_from_stripes_of_epsilon():
    x = torch.full((20, 3, 6, 9), 0.5)
    delta = stripes(x, torch.full((20, 1, 1, 1), 0.1), ImageNoise.of(0, torch.arange(20))) - x
    torch.testing.assert_close(delta.abs(), torch.full_like(x, 0.1))
    assert torch.equal(delta, delta[:, :, :1].expand_as(delta))
    assert abs(delta.sign().mean()) < 0.15


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 8), (11, 23), (3, 3), (1, 1)])
def test_it_starts_from_tiles_of_length_epsilon_in_l2(height, width):
    x = torch.full((20, 3, height, width), 0.5)
    delta = tiles(x, torch.full((20, 1, 1, 1), 0.1), ImageNoise.of(0, torch.arange(20))) - x
    torch.testing.assert_close(L2().size(delta), torch.full((20,), 0.1))
    side = max(min(height, width) // 5, 1)
    assert (delta != 0).sum() == 60 * (height // side) * (width // side) * side**2
    assert len({tuple(image.flatten().tolist()) for image in delta}) == 20 or height == 1


@pytest.mark.parametrize(("height", "width"), [(32, 32), (11, 23), (1, 1)])
def test_it_starts_from_sparse_tiles_in_l1(height, width):
    x = torch.full((20, 3, height, width), 0.5)
    x[1::2] = 0  # Here, half of the bumps would leave the pixel range, and are left out.
    epsilon = min(3.0, 0.5 * 3 * height * width)
    points = sparse_tiles(x, torch.full((20, 1, 1, 1), epsilon), ImageNoise.of(0, torch.arange(20)))
    size = L1().size(points - x)
    assert 0 <= points.min() <= points.max() <= 1
    torch.testing.assert_close(size[::2], torch.full((10,), epsilon), rtol=3e-5, atol=0)
    assert (size <= epsilon * (1 + 1e-6)).all()
    assert (points[1::2] >= 0).all()
    assert size[1::2].max() > 0
    changed = (points != x).flatten(1).float().mean(1)
    assert changed.max() < 0.6 or height < 32


@pytest.mark.parametrize("side", [3, 5])
def test_a_shift_in_l1_is_the_projection_of_the_changed_squares(side, images):
    # An independent version: one image after the other, with slices.
    x = images(30, 2)
    ball, left = torch.linspace(0.5, 3, 30).view(-1, 1, 1, 1), torch.arange(0, 30, 2)
    start = sparse_tiles(x, 0.8 * ball, ImageNoise.of(0, torch.arange(30)))
    drawn = torch.rand(15, 7, generator=torch.Generator().manual_seed(1))
    points = start.clone()
    changed, before = sparse_shift(points, x, ball, L1().size(start - x), left, drawn, side)
    assert torch.equal(points[1::2], start[1::2])
    patterns = bumps(side, torch.float32, torch.device("cpu"), 1).view(2, side, side)
    for number, image in enumerate(left.tolist()):
        delta, budget = start[image] - x[image], ball[image].item()
        row, column, row_out, column_out = (int(n * (8 - side + 1)) for n in drawn[number, :4])
        both = torch.zeros(8, 8, dtype=torch.bool)
        both[row : row + side, column : column + side] = True
        both[row_out : row_out + side, column_out : column_out + side] = True
        length = 2 * (delta * both).abs().sum((1, 2)) + max(budget - float(delta.abs().sum()), 0)
        old = delta[:, row : row + side, column : column + side].clone()
        delta[:, row_out : row_out + side, column_out : column_out + side] = 0
        bump = patterns[int(drawn[number, 4] < 0.5)] * torch.where(drawn[number, 5:] < 0.5, -1.0, 1.0).view(2, 1, 1)
        fresh = bump + old / old.abs().sum((1, 2), keepdim=True).clamp(min=1e-12)
        fresh = fresh / fresh.abs().sum((1, 2), keepdim=True) * length.view(2, 1, 1)
        delta[:, row : row + side, column : column + side] = fresh
        expected = L1().inside(x[image : image + 1], delta[None], ball[image : image + 1])[0]
        torch.testing.assert_close(points[image], expected, atol=5e-5, rtol=0)
    points.view(-1)[changed] = before
    assert torch.equal(points, start)


def test_all_of_epsilon_is_used():
    x = 0.4 + 0.2 * torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    y = right_labels(network, x)
    delta = Square(queries=150)(network, x, y, 0.01) - x
    torch.testing.assert_close(delta.abs(), torch.full_like(x, 0.01))
    delta = Square(norm=L2(), queries=150)(network, x, y, 0.1) - x
    torch.testing.assert_close(L2().size(delta), torch.full((30,), 0.1), rtol=1e-5, atol=0)
    delta = Square(norm=L1(), queries=150)(network, x, y, 0.5) - x
    torch.testing.assert_close(L1().size(delta), torch.full((30,), 0.5), rtol=1e-4, atol=0)


@pytest.mark.parametrize("side", [3, 5, 7])
def test_a_shift_empties_one_square_and_fills_another(side, images):
    x = images(50, 2, low=0.4, high=0.6)
    ball, left = torch.full((50, 1, 1, 1), 0.1), torch.arange(0, 50, 2)
    start = tiles(x, 0.8 * ball, ImageNoise.of(0, torch.arange(50)))
    drawn = torch.rand(25, 7, generator=torch.Generator().manual_seed(1))
    points = start.clone()
    changed, before = shift(points, x, ball, L2().size(start - x), left, drawn, side)
    assert torch.equal(points[1::2], start[1::2])
    torch.testing.assert_close(L2().size(points - x)[left], torch.full((25,), 0.1))
    # Each of the two channels keeps its squared length in the two squares, and gets half of the squared length that the
    # start left unused.
    delta, old = (points - x)[left].flatten(2), (start - x)[left].flatten(2)
    gained = delta.square().sum(2) - old.square().sum(2)
    torch.testing.assert_close(gained, torch.full((25, 2), (1 - 0.64) * 0.01 / 2), rtol=1e-3, atol=1e-7)
    for image in range(25):
        corners = [int(n * (8 - side + 1)) for n in drawn[image, :4]]
        into, out = (torch.zeros(8, 8, dtype=torch.bool) for _ in range(2))
        into[corners[0] : corners[0] + side, corners[1] : corners[1] + side] = True
        out[corners[2] : corners[2] + side, corners[3] : corners[3] + side] = True
        now, then = ((p - x)[left[image]] for p in (points, start))
        assert (now[:, out & ~into] == 0).all()
        assert torch.equal(now[:, ~(into | out)], then[:, ~(into | out)])
    points.view(-1)[changed] = before
    assert torch.equal(points, start)


@pytest.mark.parametrize("norm", NORMS)
def test_it_keeps_the_best_point_and_undoes_the_rest(norm, conv, images):
    network, x = conv(10, channels=3), images(60, 3)
    y = right_labels(network, x)
    noting = Noting(network, y)
    adversarial = Square(norm=norm, queries=120)(noting, x, y, {"linf": 0.08, "l2": 0.8, "l1": 5.0}[norm.name])
    assert noting.counts == [1] + [60] * 120
    seen = torch.stack(noting.margins)
    with torch.no_grad():
        reached = margin(network(adversarial), y)
    assert 5 < (seen.amax(0) > 0).sum() < 55
    torch.testing.assert_close(reached, seen.amax(0), atol=1e-5, rtol=0)
    # Once an image is fooled, it stays where it is.
    after = (seen > 0).cumsum(0) > 0
    torch.testing.assert_close(seen[after], seen.amax(0).expand_as(seen)[after], atol=1e-5, rtol=0)
    assert (reached > seen[0] + 1e-3).float().mean() > 0.8


@pytest.mark.parametrize("norm", NORMS)
def test_a_fooled_image_costs_no_further_query(norm, conv, images):
    network, x = conv(10, channels=3), images(60, 3)
    y = right_labels(network, x)
    noting, epsilon = Noting(network, y), {"linf": 0.12, "l2": 1.2, "l1": 8.0}[norm.name]
    adversarial = Square(norm=norm, queries=100)(noting, x, y, epsilon, stop_when_fooled=True)
    fooled = int((right_labels(network, adversarial) != y).sum())
    assert noting.counts[:2] == [1, 60]
    assert noting.counts[1:] == sorted(noting.counts[1:], reverse=True)
    assert 60 - fooled <= noting.counts[-1] < 50
    assert len(noting.counts) <= 101


def test_it_reaches_the_exact_radii_of_a_linear_network(linear, images):
    # In a linear network, pixels do not interact. So a search that changes pixels one by one finds the best corner of the
    # ball.
    network, x = linear(), images(100, low=0.35, high=0.65)
    y = right_labels(network, x)
    weight = network[1].weight.detach()
    with torch.no_grad():
        exact = -margin(network(x), y) / (weight[0] - weight[1]).abs().sum()
    attack = Square(queries=2500)
    assert (right_labels(network, attack(network, x, y, 1.001 * exact)) != y).all()
    assert (right_labels(network, attack(network, x, y, 0.999 * exact)) == y).all()


def test_l2_comes_near_the_exact_radii_of_a_linear_network(linear, images):
    network, x = linear(), images(100, low=0.35, high=0.65)
    y = right_labels(network, x)
    weight = network[1].weight.detach()
    with torch.no_grad():
        exact = -margin(network(x), y) / (weight[0] - weight[1]).norm()
    attack = Square(norm=L2(), queries=600)
    assert (right_labels(network, attack(network, x, y, 2 * exact)) != y).all()
    assert (right_labels(network, attack(network, x, y, 0.999 * exact)) == y).all()


@pytest.mark.parametrize("norm", NORMS)
def test_it_depends_on_neither_gradients_nor_the_scale_of_the_logits(norm, conv, images):
    network, x = conv(), images(60)
    y = right_labels(network, x)
    grid = [scale * {"linf": 0.05, "l2": 0.4, "l1": 2.0}[norm.name] for scale in (1, 2, 4)]
    attack = Square(norm=norm, queries=60)
    expected = radii(network, x, y, attack, grid)
    assert 5 < expected.isfinite().sum() < 60
    masked = Masked(network)
    assert radii(masked, x, y, attack, grid).tolist() == expected.tolist()


class Masked(nn.Module):
    """Multiplies the logits of a network by 2**20, which changes no prediction. The result has no gradient."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return 2.0**20 * self.network(x.detach()).detach()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(3, 5, 9), (1, 12, 3), (2, 2, 2), (4, 1, 1)])
def test_images_of_any_shape(norm, shape):
    x = torch.rand(20, *shape, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 3))
    y = right_labels(network, x)
    adversarial = Square(norm=norm, queries=100)(network, x, y, 0.1)
    assert (norm.size(adversarial - x) <= 0.1 * (1 + 1e-5)).all()
    with torch.no_grad():
        assert (margin(network(adversarial), y) > margin(network(x), y)).float().mean() > 0.7


@pytest.mark.parametrize("norm", NORMS)
def test_memory_format_does_not_matter(norm, conv, images):
    network, x = conv(channels=3).double(), images(30, 3, dtype=torch.float64)
    y = right_labels(network, x)
    attack = Square(norm=norm, queries=50)
    expected = attack(network, x, y, 0.03)
    adversarial = attack(network, x.to(memory_format=torch.channels_last), y, 0.03)
    torch.testing.assert_close(adversarial, expected, rtol=0, atol=1e-9)


def test_flat_images_are_refused():
    x = torch.rand(4, 64)
    message = "the square attack needs images (N, C, H, W), got (4, 64); flatten inside the network"
    with pytest.raises(ValueError, match=r".*".join(map(re.escape, message.split(" ... ")))):
        Square()(nn.Linear(64, 3), x, torch.zeros(4, dtype=torch.int64), 0.1)


@dataclass(frozen=True)
class L7:
    name: ClassVar[str] = "l7"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 0}, "queries must be at least 1, got 0"),
        ({"p_init": 0.0}, "p_init must ... above 0 ... got 0.0"),
        ({"p_init": 1.1}, "p_init must ... above 0 ... got 1.1"),
        ({"p_init": math.nan}, "p_init must ... above 0 ... got nan"),
        ({"norm": L7()}, "norm must be linf, l2 or l1 for the square attack, got l7"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=r".*".join(map(re.escape, message.split(" ... ")))):
        Square(**settings)


@pytest.mark.parametrize(("norm", "epsilon"), [(Linf(), 0.12), (L2(), 0.8), (L1(), 2.0)])
def test_errors_are_autoattacks(many_digits, norm, epsilon):
    square = pytest.importorskip("pyautoattack.square")

    class Whole(square.SquareAttack):
        """Lets the package's squares also cover the last row and column, which are almost a quarter of 8 × 8 pixels."""

        def random_int(self, low=0, high=1, shape=(1,)):
            return super().random_int(low, high + 1, shape)

    network, x, y = many_digits
    fooled_here = expected = 0
    for seed in (0, 1):
        points = Square(norm=norm, queries=400)(network, x, y, epsilon, seed=seed, stop_when_fooled=True)
        fooled_here += int((right_labels(network, points) != y).sum())
        oracle = Whole(network, norm=norm.name.capitalize(), eps=epsilon, n_queries=400, loss="margin", seed=seed)
        oracle.verbose = False
        with torch.random.fork_rng(devices=[]):
            expected += int((right_labels(network, oracle.perturb(x.clone(), y)) != y).sum())
    assert 160 < expected < 340
    # A difference of 8 of 400 images is two percentage points. Another seed changes each implementation's error as much.
    assert abs(fooled_here - expected) <= 8
