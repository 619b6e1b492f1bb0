import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from evaluators import BIM, DDN, FGSM, FMN, L2, PGD, IterativeLL, Linf, StepLL
from evaluators.attacks import margin
from evaluators.surface import Segment
from evaluators.surface.directions import adversarial_direction, aimed, random_direction
from evaluators.surface.lines import Crossing, boundary_line
from evaluators.surface.planes import plane_along, plane_through, response_surface, window


@pytest.fixture
def image():
    """Returns a factory of images (1, 8, 8) with pixels away from 0 and 1."""

    def make(seed=0, *, low=0.3, high=0.7, dtype=torch.float64):
        return low + (high - low) * torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=dtype)

    return make


def answer(network, image):
    with torch.no_grad():
        return int(network(image[None]).argmax())


def unit(direction):
    return direction / direction.norm()


class Stripes(nn.Module):
    """Predicts one of `classes`, by the interval between `edges` that contains the mean pixel."""

    def __init__(self, edges, classes):
        super().__init__()
        self.edges, self.classes = torch.tensor(edges, dtype=torch.float64), torch.tensor(classes)

    def forward(self, x):
        stripe = torch.bucketize(x.flatten(1).mean(1).double(), self.edges)
        return nn.functional.one_hot(self.classes[stripe], int(self.classes.max()) + 1).to(x.dtype)


# Lines.


@pytest.mark.parametrize("classes", [2, 5])
def test_crossing_of_a_linear_network_is_at_margin_over_slope(linear, image, classes, device):
    network, x = linear(classes).double().to(device), image().to(device)
    label = answer(network, x)
    weight, bias = (p.detach().double().cpu().numpy() for p in network[1].parameters())
    logits = weight @ x.cpu().flatten().numpy() + bias
    for seed in range(5):
        direction = random_direction(x, 3.0, seed=seed)
        rise = weight @ unit(direction).cpu().flatten().numpy()
        # The nearest boundary in closed form: its position, and the class behind it.
        ways = {j: (logits[label] - logits[j]) / (rise[j] - rise[label]) for j in range(classes) if rise[j] > rise[label]}
        rival = min(ways, key=ways.get, default=None)
        sampled = boundary_line(network, x, label, direction, segment=Segment(stop=6, points=301))
        if rival is None or ways[rival] > 6:
            assert sampled.crossings == ()
        else:
            first = sampled.crossings[0]
            assert (first.before, first.after) == (label, rival)
            assert first.position == pytest.approx(ways[rival], abs=1e-5)
        np.testing.assert_allclose(
            sampled.margin,
            [(logits + t * rise)[label] - np.delete(logits + t * rise, label).max() for t in sampled.positions],
            atol=1e-9,
        )


def test_the_class_is_the_same_between_neighbouring_crossings(conv, image):
    network, x = conv(4).double(), image()
    for seed in range(5):
        sampled = boundary_line(
            network, x, answer(network, x), random_direction(x, 20.0, seed=seed), segment=Segment(start=-30, stop=30)
        )
        edges = np.array([crossing.position for crossing in sampled.crossings])
        assert (np.diff(edges) > 0).all()
        classes = [sampled.label[0], *(crossing.after for crossing in sampled.crossings)]
        assert [crossing.before for crossing in sampled.crossings] == classes[:-1]
        np.testing.assert_array_equal(sampled.label, np.array(classes)[np.searchsorted(edges, sampled.positions)])


def test_all_crossings_of_three_stripes_are_found(image):
    x = image().mul(0).add(0.5)
    network = Stripes([0.5103, 0.5412, 0.6131], [0, 1, 2, 1])
    direction = torch.full_like(x, 0.25)  # The mean pixel rises by 1/8 per unit of L2 distance.
    sampled = boundary_line(network, x, 0, direction, segment=Segment(points=21), tolerance=1e-7)
    assert [(c.before, c.after) for c in sampled.crossings] == [(0, 1), (1, 2), (2, 1)]
    assert [c.position for c in sampled.crossings] == pytest.approx([8 * 0.0103, 8 * 0.0412, 8 * 0.1131], abs=1e-7)
    assert sampled.length == pytest.approx(2)
    assert sampled.positions[[0, -1]].tolist() == [0, 4]
    np.testing.assert_array_equal(sampled.margin > 0, sampled.label == 0)
    assert (sampled.margin == np.where(sampled.label == 0, 1, -1)).all()


def test_several_crossings_between_two_positions_are_all_located(image):
    x = image().mul(0).add(0.5)
    network = Stripes([0.51, 0.5175, 0.525], [0, 2, 1, 3])
    sampled = boundary_line(network, x, 0, torch.ones_like(x), segment=Segment(stop=1, points=2), tolerance=1e-6)
    assert sampled.label.tolist() == [0, 3]
    assert [(c.before, c.after) for c in sampled.crossings] == [(0, 2), (2, 1), (1, 3)]
    assert [c.position for c in sampled.crossings] == pytest.approx([0.08, 0.14, 0.2], abs=1e-6)


def test_a_stripe_narrower_than_the_spacing_is_missed_as_documented(image):
    x = image().mul(0).add(0.5)
    network = Stripes([0.51, 0.512], [0, 1, 0])
    assert boundary_line(network, x, 0, torch.ones_like(x), segment=Segment(stop=1, points=3)).crossings == ()
    assert len(boundary_line(network, x, 0, torch.ones_like(x), segment=Segment(stop=1, points=101)).crossings) == 2


def test_a_tolerance_below_rounding_ends_the_bisection(image):
    x = image().mul(0).add(0.5)
    sampled = boundary_line(
        Stripes([0.6], [0, 1]), x, 0, torch.ones_like(x), segment=Segment(stop=1, points=3), tolerance=1e-300
    )
    assert sampled.crossings == (Crossing(pytest.approx(0.8, abs=1e-12), 0, 1),)


# Surfaces.


def test_margin_of_a_linear_network_is_affine(linear, image, device):
    network, x = linear(2).double().to(device), image().to(device)
    plane = plane_along(x, random_direction(x, 1.0, seed=1), random_direction(x, 2.0, seed=2))
    across, up = np.linspace(-1, 2, 7), np.linspace(-3, 3, 5)
    surface = response_surface(network, plane, 0, across, up)
    weight, bias = (p.detach().double().cpu().numpy() for p in network[1].parameters())
    w = weight[0] - weight[1]
    a, b = (float(w @ d.cpu().flatten().numpy()) for d in (plane.across, plane.up))
    origin = float(w @ x.cpu().flatten().numpy() + bias[0] - bias[1])
    np.testing.assert_allclose(surface.margin, origin + a * across[:, None] + b * up[None, :], atol=1e-9)
    np.testing.assert_array_equal(surface.label, np.where(surface.margin > 0, 0, 1))
    np.testing.assert_allclose(surface.confidence, 1 / (1 + np.exp(-abs(surface.margin))), atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_in_a_plane_are_l2_distances(image, dtype):
    x, one, other = (image(seed, dtype=dtype) for seed in range(3))
    for plane in (plane_along(x, one - x, other - x), plane_through(torch.stack([x, one, other]))):
        marked = list(plane.marks.values())
        for i, left in enumerate((x, one, other)):
            (a, b) = marked[i]
            torch.testing.assert_close(plane.origin + a * plane.across + b * plane.up, left)
            for j, right in enumerate((x, one, other)):
                assert np.hypot(*np.subtract(marked[i], marked[j])) == pytest.approx(float((left - right).norm()), abs=1e-6)
        assert float((plane.across * plane.up).sum()) == pytest.approx(0, abs=1e-6)
        assert float(plane.up.norm()) == pytest.approx(1)


def test_the_surface_at_a_mark_is_the_output_for_that_image(conv, image):
    network = conv(4).double()
    images = torch.stack([image(seed) for seed in range(3)])
    plane = plane_through(images, ("a", "b", "c"))
    assert list(plane.marks) == ["a", "b", "c"]
    for (a, b), x in zip(plane.marks.values(), images, strict=True):
        surface = response_surface(network, plane, 1, [a], [b])
        logits = network(x[None])[0].detach()
        assert surface.label.item() == int(logits.argmax())
        assert surface.confidence.item() == pytest.approx(float(logits.softmax(0).max()))
        others = [float(logits[j]) for j in (0, 2, 3)]
        assert surface.margin.item() == pytest.approx(float(logits[1]) - max(others))


def test_a_surface_does_not_depend_on_the_batch_size_and_leaves_the_network_alone(conv, image):
    network, x = conv(4).train(), image(dtype=torch.float32)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plane = plane_along(x, random_direction(x, 1.0, seed=1), random_direction(x, 1.0, seed=2))
    across, up = window(plane, points=9)
    surfaces = [response_surface(network, plane, 0, across, up, batch_size=size) for size in (1, 7, None)]
    for other in surfaces[1:]:
        np.testing.assert_array_equal(surfaces[0].label, other.label)
        np.testing.assert_allclose(surfaces[0].margin, other.margin, atol=1e-5)
        np.testing.assert_array_equal(surfaces[0].inside, other.inside)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_inside_is_the_pixel_range(linear):
    x = torch.full((1, 8, 8), 0.5, dtype=torch.float64)
    one, other = torch.zeros_like(x), torch.zeros_like(x)
    one[0, 0, 0], other[0, 0, 1] = 1, 1  # Each coordinate is the change of one pixel.
    grid = np.linspace(-0.6, 0.6, 121)
    surface = response_surface(linear(2).double(), plane_along(x, one, other), 0, grid, grid)
    expected = (abs(grid)[:, None] <= 0.5 + 1e-9) & (abs(grid)[None, :] <= 0.5 + 1e-9)
    np.testing.assert_array_equal(surface.inside, expected)


def test_the_triangle_of_clean_adversarial_and_random_image_is_inside(conv):
    x = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)).mul(2).sub(0.5).clamp(0, 1)
    network, marks = conv(4), {}
    step = PGD()(network, x[None], torch.tensor([answer(network, x)]), 0.1)[0] - x
    plane = plane_along(x, step, random_direction(x, float(step.norm())))
    corners = np.array(list(plane.marks.values()))
    for share in np.random.default_rng(0).dirichlet((1, 1, 1), 20):
        a, b = share @ corners
        marks[a, b] = response_surface(network, plane, 0, [a], [b]).inside.item()
    assert all(marks.values())


@given(st.floats(1, 5), st.integers(2, 40), st.integers(0, 100))
def test_a_window_holds_all_marks_and_is_square(extent, points, seed):
    generator = torch.Generator().manual_seed(seed)
    plane = plane_through(torch.rand(3, 1, 4, 4, generator=generator))
    across, up = window(plane, extent, points)
    assert len(across) == len(up) == points
    assert np.ptp(across) == pytest.approx(np.ptp(up))
    marked = np.array(list(plane.marks.values()))
    assert np.ptp(across) == pytest.approx(extent * np.ptp(marked, axis=0).max())
    for axis, coordinates in enumerate((across, up)):
        assert coordinates[0] <= marked[:, axis].min() + 1e-9
        assert coordinates[-1] >= marked[:, axis].max() - 1e-9


# Directions.


@pytest.mark.parametrize("attack", [FGSM(), PGD(norm=L2()), FMN(norm=L2())])
def test_an_adversarial_direction_fools_within_the_ball(linear, image, attack, device):
    network, x = linear(3).double().to(device), image().to(device)
    label = answer(network, x)
    epsilon = 0.2 if isinstance(attack.norm, Linf) else 2.0
    direction = adversarial_direction(network, x, label, attack, epsilon)
    assert direction is not None
    assert answer(network, x + direction) != label
    assert float(attack.norm.size(direction[None])) <= epsilon * (1 + 1e-6)
    assert adversarial_direction(network, x, label, attack, 1e-7) is None


def test_an_attack_aimed_at_a_class_leads_there(linear, image):
    network, x = linear(5).double(), image()
    label = answer(network, x)
    for towards in set(range(5)) - {label}:
        direction = adversarial_direction(network, x, label, PGD(), 0.3, towards=towards)
        assert direction is not None
        assert answer(network, x + direction) == towards
        # The closed form of one step: the signs of the difference of the two weights.
        weight = network[1].weight.detach()
        step = aimed(FGSM(loss=margin), towards)(network, x[None], torch.tensor([label]), 0.1)[0] - x
        torch.testing.assert_close(step.flatten(), 0.1 * (weight[towards] - weight[label]).sign())


def test_another_class_than_the_one_aimed_at_does_not_count(linear, image):
    x = image().mul(0).add(0.5)
    # With the mean pixel m, the logits are 0, 10 (m - 0.52) and 20 (m - 0.55). So class 1 is predicted for m from 0.52 to
    # 0.58, and class 2 above.
    rise = torch.tensor([0.0, 10.0, 20.0])
    weight = (rise[:, None] / 64).expand(3, 64)
    network = linear(weight=weight, bias=torch.tensor([0.0, -5.2, -11.0])).double()
    near = adversarial_direction(network, x, 0, PGD(), 0.05)
    assert near is not None
    assert answer(network, x + near) == 1
    assert adversarial_direction(network, x, 0, PGD(), 0.05, towards=2) is None
    assert adversarial_direction(network, x, 0, PGD(), 0.1, towards=2) is not None


def test_a_point_that_fools_on_the_way_counts_where_the_last_does_not(image):
    x = image().mul(0).add(0.5)

    class Band(nn.Module):
        """Predicts class 1 where the mean pixel is between 0.52 and 0.56. Gradient steps leave this interval."""

        def forward(self, x):
            mean = x.flatten(1).mean(1)
            inside = (mean > 0.52) & (mean < 0.56)
            return torch.stack([-mean, mean - 2 + 10 * inside], dim=1)

    attack = BIM(steps=10, step_size=0.1)
    direction = adversarial_direction(Band(), x, 0, attack, 0.1)
    assert direction is not None
    assert 0.02 < float(direction.mean()) < 0.06


@given(st.floats(0.01, 3), st.integers(0, 1000))
def test_a_random_direction_has_its_length_and_leads_to_an_image_where_it_can(length, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 8, 8, generator=generator).mul(3).sub(1).clamp(0, 1)
    direction = random_direction(x, length, seed=seed)
    assert float(direction.norm()) == pytest.approx(length, rel=1e-5)
    if float(direction.abs().max()) < 0.5:
        assert 0 <= float((x + direction).min()) <= float((x + direction).max()) <= 1
    assert torch.equal(direction, random_direction(x, length, seed=seed))
    assert not torch.equal(direction, random_direction(x, length, seed=seed + 1))


def test_a_random_direction_is_uniform():
    x = torch.full((1, 8, 8), 0.5)
    drawn = torch.stack([random_direction(x, 1.0, seed=seed).flatten() for seed in range(400)])
    # Each coordinate of a uniform direction in 64 dimensions has mean 0 and variance 1/64.
    assert float(drawn.mean(0).abs().max()) < 4 / (64 * 400) ** 0.5
    assert float(drawn.var()) == pytest.approx(1 / 64, rel=0.02)


# Invalid inputs.


def test_images_that_span_no_plane_are_refused(image):
    x, other = image(dtype=torch.float32), image(1, dtype=torch.float32)
    step = other - x
    with pytest.raises(ValueError, match="clean, adversarial, random must not lie on one line"):
        plane_along(x, step, -0.5 * step)
    with pytest.raises(ValueError, match="random must differ from clean"):
        plane_along(x, step, torch.zeros_like(x))
    with pytest.raises(ValueError, match=re.escape("adversarial must have the shape of the image, (1, 8, 8), got (64,)")):
        plane_along(x, step.flatten(), step)
    for images, message in (
        ([x, other, (x + other) / 2], "first, second, third must not lie on one line"),
        ([x, x, other], "second must differ from first"),
        ([x, other, x], "third must differ from first"),
        ([x, other, other], "third must differ from second"),
        ([x, other], "images must hold 3 images, got 2"),
        ([x, other, x + 1], "x must have pixels in \\[0, 1\\]"),
    ):
        with pytest.raises(ValueError, match=message):
            plane_through(torch.stack(images))


def test_invalid_surfaces_are_refused(linear, image):
    network, x = linear(3).double(), image()
    plane = plane_along(x, random_direction(x, 1.0), random_direction(x, 1.0, seed=1))
    with pytest.raises(ValueError, match="across and up must be vectors of at least one coordinate"):
        response_surface(network, plane, 0, [], [0.0])
    with pytest.raises(ValueError, match="y must hold labels from 0 to 2"):
        response_surface(network, plane, 3, [0.0], [0.0])
    with pytest.raises(ValueError, match=r"extent must be at least 1.* got 0\.5"):
        window(plane, 0.5)
    with pytest.raises(ValueError, match="points must be at least 2, got 1"):
        window(plane, points=1)


def test_what_is_not_finite_is_refused_before_the_network_runs(linear, image):
    network, x, step = linear(3).double(), image(), random_direction(image(), 1.0)
    plane = plane_along(x, step, random_direction(x, 1.0, seed=1))
    for wrong, value in ((step * float("nan"), "NaN"), (step / 0, "infinity")):
        with pytest.raises(ValueError, match=f"adversarial must be finite, got {value}"):
            plane_along(x, wrong, step)
        with pytest.raises(ValueError, match=f"random must be finite, got {value}"):
            plane_along(x, step, wrong)
        with pytest.raises(ValueError, match="direction must be finite and not zero"):
            boundary_line(network, x, 0, wrong)
    with pytest.raises(ValueError, match="extent must be finite, got inf"):
        window(plane, float("inf"))
    with pytest.raises(ValueError, match=r"extent must be at least 1.* got nan"):
        window(plane, float("nan"))
    with pytest.raises(ValueError, match="up must be finite, got inf"):
        response_surface(network, plane, 0, [0.0], [1.0, float("inf")])
    with pytest.raises(ValueError, match="across must be finite, got nan"):
        response_surface(network, plane, 0, [float("nan")], [1.0])
    with pytest.raises(ValueError, match="length must be finite, got inf"):
        random_direction(x, float("inf"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stop": float("inf")}, "start and stop must be finite, got 0.0 and inf"),
        ({"start": float("nan")}, "start and stop must be finite, got nan and None"),
        ({"stop": 0.0}, "stop must be beyond start, 0, got 0"),
        ({"points": 1}, "points must be at least 2, got 1"),
    ],
)
def test_invalid_segments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Segment(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"segment": Segment(start=17.0)}, "stop must be beyond start, 17, got 16"),
        ({"tolerance": 0}, "tolerance must be above 0, got 0"),
        (
            {"direction": torch.zeros(1, 8, 8)},
            "direction must be finite and not zero, got a direction of length 0",
        ),
        ({"direction": torch.ones(8, 8)}, re.escape("a direction must have the shape of the image, (1, 8, 8), got (8, 8)")),
        ({"image": torch.ones(64)}, re.escape("image must be one image, (C, H, W), got shape (64,)")),
    ],
)
def test_invalid_lines_are_refused(linear, image, settings, message):
    given = {"image": image(), "label": 0, "direction": torch.ones(1, 8, 8), **settings}
    with pytest.raises(ValueError, match=message):
        boundary_line(linear(3).double(), **given)


def test_invalid_directions_are_refused(linear, image):
    network, x = linear(3).double(), image()
    label = answer(network, x)
    wrong = (label + 1) % 3
    with pytest.raises(ValueError, match=f"got class {label} for label {wrong}"):
        adversarial_direction(network, x, wrong, PGD(), 0.1)
    with pytest.raises(ValueError, match="towards must be a class from 0 to 2 other than the label"):
        adversarial_direction(network, x, label, PGD(), 0.1, towards=label)
    with pytest.raises(ValueError, match=r"epsilon must be between 0 and 1.*8/255 rather than 8"):
        adversarial_direction(network, x, label, PGD(), 8)
    with pytest.raises(ValueError, match="to target a class, got FMN"):
        adversarial_direction(network, x, label, FMN(), 0.1, towards=wrong)
    for stubborn in (DDN(), StepLL(), IterativeLL()):  # They choose the class themselves or minimise the norm.
        with pytest.raises(ValueError, match=f"to target a class, got {type(stubborn).__name__}"):
            aimed(stubborn, 1)
    with pytest.raises(ValueError, match="to target a class, got PGD"):
        aimed(PGD(loss=lambda logits, y: logits.sum(1)), 1)
    with pytest.raises(TypeError, match="write PGD\\(\\)"):
        adversarial_direction(network, x, label, PGD, 0.1)
    with pytest.raises(ValueError, match="length must be above 0, got 0"):
        random_direction(x, 0)
    with pytest.raises(TypeError, match="x must be a tensor of images, got list"):
        random_direction([0.5], 1)
