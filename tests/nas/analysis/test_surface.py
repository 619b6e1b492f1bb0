"""`hardcell surface`, its pictures, and the surfaces in reports."""

import dataclasses
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import nn

from evaluators import L2, PGD, Linf
from evaluators.bounds import NoBound, ProvableRadii
from evaluators.regions import Sampling, ball_shares
from nas.analysis.networks import open_network
from nas.analysis.surface.config import SurfaceConfig
from nas.analysis.surface.figures import class_colours, draw_lines, draw_summary, draw_surface
from nas.analysis.surface.result import surface_record
from nas.analysis.surface.surface import image_surfaces, surfaces_of
from nas.bundle.load import open_bundle
from nas.data import open_test
from nas.data.config import DataConfig
from nas.reports.networks import load_bundles
from nas.reports.surfaces import neighbourhood_sentence, report_surfaces
from nas.runs.run import read_run

QUICK = ("--data", "digits", "--epsilon", "0.2", "--points", 9, "--device", "cpu")
DIGITS = tuple("0123456789")


@pytest.fixture
def run(here, cli):
    """Runs `hardcell surface` in the folder of networks."""
    return lambda *arguments: cli("surface", *arguments)


@pytest.fixture
def drawn(here):
    """A function that computes the surfaces of a linear network around a test image of digits."""

    def make(**settings):
        config = SurfaceConfig(**{"image": 0, "epsilon": 0.2, "points": 15, "device": "cpu", **settings})
        return image_surfaces("own.py:network", config)

    return make


@pytest.fixture
def undrawn(monkeypatch):
    """Replaces pictures by empty ones, because drawing is slow."""
    for name in ("draw_surface", "draw_lines"):
        monkeypatch.setattr(f"nas.analysis.surface.figures.{name}", lambda *args: b"")


def test_pictures_numbers_and_a_table(run, tmp_path):
    folder = tmp_path / "new" / "surfaces"
    code, out, err = run("own.py:network", "--image", 3, *QUICK, "--others", 5, 8, "--out", folder)
    assert (code, err) == (0, "")
    planes = ("adversarial_random", "two_adversarial", "three_images")
    wanted = {"surface.json", *(f"{name}.{form}" for name in (*planes, "lines") for form in ("svg", "png"))}
    assert {path.name for path in folder.iterdir()} == wanted
    for path in folder.glob("*.svg"):
        ElementTree.parse(path)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))
    record = json.loads((folder / "surface.json").read_text(encoding="utf-8"))
    assert tuple(record["surfaces"]) == planes
    assert record["notes"] == []

    # The numbers equal direct evaluations of the network.
    network, test = open_network("own.py:network"), open_test(DataConfig())
    logits = network(test.x[3:4])[0].detach()
    label = int(test.y[3])
    assert record["label"] == label == int(logits.argmax())
    assert record["margin"] == pytest.approx(float(logits.topk(2).values.diff().abs()), rel=1e-4)
    point = PGD()(network, test.x[3:4], test.y[3:4], 0.2)[0]
    lead = record["leads"]["adversarial"]
    assert lead["label"] == int(network(point[None]).argmax()) != label
    assert lead["l2"] == pytest.approx(float((point - test.x[3]).norm()), rel=1e-4)
    assert lead["linf"] == pytest.approx(0.2, rel=1e-4)
    first = record["lines"]["adversarial"]["crossings"][0]
    before, after = (test.x[3] + (first["position"] + d) / lead["l2"] * (point - test.x[3]) for d in (-1e-3, 1e-3))
    assert int(network(before[None]).argmax()) == label == first["before"]
    assert int(network(after[None]).argmax()) == first["after"]
    second = record["leads"]["second adversarial"]
    assert second["label"] not in (label, lead["label"])
    assert np.shape(record["surfaces"]["three_images"]["margin"]) == (9, 9)

    # Balls around the adversarial image, measured directly by the evaluators.
    around, y = record["neighbourhood"], test.y[3:4]
    balls = ball_shares(network, point[None], y, Linf(), around["radii"], sampling=Sampling(samples=500))
    assert (around["norm"], around["samples"], around["no_bound"]) == ("linf", 500, None)
    assert around["radii"] == pytest.approx([0.025, 0.05, 0.1, 0.2], rel=1e-4)
    assert around["adversarial"] == balls.counts[0].tolist()
    assert np.allclose(around["interval"], balls.interval[0], atol=1e-5)
    # Radius of a linear network: the smallest (logit difference / L1 norm of its gradient) over the other classes.
    # The proved radius may be larger, because pixels stay in [0, 1].
    with torch.no_grad():
        steep = network(torch.eye(64).view(64, 1, 8, 8)) - network(torch.zeros(64, 1, 8, 8))
        at = network(point[None])[0]
    others = [j for j in range(10) if j != lead["label"]]
    nearest = min(float((at[lead["label"]] - at[j]) / (steep[:, lead["label"]] - steep[:, j]).abs().sum()) for j in others)
    assert nearest * 0.999 <= around["proved_radius"] <= 0.2

    lines = out.splitlines()
    assert f"of class {lead['label']}" in out
    assert lines[0].startswith(f"image 3 of digits: class {label}, prediction {label}, margin ")
    rows = {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in (re.split("[│┃]", x) for x in lines) if row[1:]}
    assert rows["direction"] == ["class at the end", "L2 size", "L∞ size", "first crossing, L2", "class after it"]
    assert rows["radius"] == ["radius / perturbation size", "share"]
    share, (low, high) = around["share"][3], around["interval"][3]
    assert rows["0.2"] == ["1", f"{share:.3f} [{low:.3f}, {high:.3f}]"]
    assert rows["adversarial"][0] == str(lead["label"])
    assert float(rows["adversarial"][3]) == pytest.approx(first["position"], rel=1e-3)
    assert rows["random"][3].startswith("none up to") or float(rows["random"][3]) > 0
    assert lines[-1] == f"surfaces: {folder}"


def test_a_bundle_brings_its_images_its_epsilon_and_its_classes(finished_run, run, tmp_path):
    (bundle,) = (finished_run / "bundles").glob("1-*")
    test, network = open_test(DataConfig(limit=400)), open_network(str(bundle))
    image = int((network(test.x).argmax(1) == test.y).nonzero()[0])
    out = tmp_path / "out"
    code, text, err = run(bundle, "--image", image, "--points", 5, "--device", "cpu", "--out", out, "--json")
    assert (code, err) == (0, "")
    record = json.loads(text)
    assert (record["epsilon"], record["data"], record["attack"]["name"]) == (0.05, "digits", "pgd")
    assert record["attack"]["norm"] == "linf"
    assert record == json.loads((out / "surface.json").read_text(encoding="utf-8"))
    message = run(bundle, "--image", image, "--attack", "ddn", "--out", tmp_path / "l2")
    assert message[0] == 2
    assert "--epsilon must be given for an attack in l2: the bundle's search was in linf" in message[2]


def test_an_attack_that_fails_is_reported_and_two_random_directions_drawn(run, tmp_path):
    options = ("--data", "digits", "--epsilon", "0.001", "--points", 5, "--device", "cpu")
    code, out, _ = run("own.py:network", "--image", 3, *options, "--out", tmp_path / "out")
    assert code == 0
    assert re.search(r"does not fool .*image 3\b.*epsilon 0\.001\b", out)
    assert "a larger --epsilon may find an adversarial direction" in out
    record = json.loads((tmp_path / "out" / "surface.json").read_text(encoding="utf-8"))
    assert list(record["surfaces"]) == ["two_random"]
    assert list(record["leads"]) == ["random", "second random"]
    assert record["neighbourhood"] is None
    assert "balls around" not in out
    # The random direction ends in a corner of the ball: each of 8 x 8 pixels changes by 0.001, so the L2 length is 0.008.
    assert record["leads"]["random"]["l2"] == pytest.approx(0.008, rel=1e-4)
    assert (tmp_path / "out" / "two_random.svg").exists()


def test_an_attack_that_cannot_find_a_second_direction_is_reported(drawn):
    from evaluators import DeepFool

    surfaces = drawn(attack=DeepFool(), epsilon=0.5)
    assert list(surfaces.surfaces) == ["adversarial_random"]
    (note,) = surfaces.notes
    assert "no second adversarial direction" in note


@pytest.mark.parametrize("as_json", [False, True])
def test_why_no_radius_is_proved_is_reported(as_json, run, tmp_path, undrawn):
    code, out, err = run("scripted.pt", "--image", 3, *QUICK, "--out", tmp_path, *["--json"] * as_json)
    assert (code, err) == (0, "")
    if as_json:
        neighbourhood = json.loads(out)["neighbourhood"]
        assert neighbourhood["proved_radius"] is None
        assert neighbourhood["no_bound"].startswith("the network cannot be traced")
        assert neighbourhood["share"][0] > 0
    else:
        assert re.search(r"no radius is certified.*torch\.fx", out)


def test_a_proved_radius_of_zero_promises_nothing(run, tmp_path, monkeypatch, undrawn):
    nothing = ProvableRadii(np.array([0]), np.zeros(1), np.zeros(1))
    monkeypatch.setattr("nas.analysis.surface.surface.provable_radii", lambda *args: nothing)
    code, out, _ = run("own.py:network", "--image", 3, *QUICK, "--out", tmp_path)
    assert code == 0
    assert "no radius is certified" in out
    assert "torch.fx" not in out


def test_balls_are_of_the_norm_of_the_attack(drawn):
    surfaces = drawn(attack=PGD(norm=L2()), epsilon=1.5)
    around = surfaces.neighbourhood
    assert (around.norm, around.size) == ("l2", pytest.approx(surfaces.endpoints["adversarial"].l2, rel=1e-5))
    assert around.balls.radii.tolist() == pytest.approx([around.size * share for share in (0.125, 0.25, 0.5, 1)])
    assert 0 < around.proved < around.size


def test_pictures_are_not_lost_where_the_neighbourhood_cannot_be_measured(drawn, monkeypatch):
    with monkeypatch.context() as patched:
        # At the end of this short direction, the image is still classified correctly.
        patched.setattr(
            "nas.analysis.surface.surface.adversarial_direction",
            lambda network, x, *args, **kwargs: torch.full_like(x, 1e-6),
        )
        surfaces = drawn()
    message = "the balls around the adversarial image cannot be measured: the image is so near to the boundary that"
    assert surfaces.neighbourhood is None
    assert surfaces.notes[-1].startswith(message)
    assert draw_lines(surfaces)


def test_the_same_seed_draws_the_same(drawn):
    one, other, third = (surface_record(drawn(seed=seed)) for seed in (1, 1, 2))
    assert json.dumps(one) == json.dumps(other)
    assert json.dumps(one) != json.dumps(third)
    surfaces = drawn()
    assert draw_lines(surfaces) == draw_lines(surfaces)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", 449, *QUICK], "image must be the number of a test image of digits, 0 to 448, got 449"),
        (["--image", -1, *QUICK], "surface: image must be at least 0, got -1"),
        (
            ["--image", 3, *QUICK, "--others", 5, 1000],
            "others must be the number of a test image of digits, 0 to 448, got 1000",
        ),
        (["--image", 3, *QUICK, "--others", 3, 4], "others must be two different images other than image 3, got 3 and 4"),
        (
            ["--image", 3, *QUICK, "--epsilon", "8"],
            "epsilon must be above 0 and at most 1, in pixel units (8/255, not 8), got 8",
        ),
        (
            ["--image", 3, *QUICK, "--epsilon", "9", "--attack", "{name: pgd, norm: l2}"],
            "epsilon must be between 0 and 8, the size of the pixel range in this norm, got 9",
        ),
        (["--image", 3, *QUICK, "--epsilon", "lots"], "must be a number, got 'lots'"),
        (["--image", 3, *QUICK, "--attack", "pdg"], "surface: attack must be one of fgsm"),
        (["--image", 3, *QUICK, "--attack", "pdg"], "did you mean 'pgd'?"),
        (["--image", 3, *QUICK, "--extent", "0.5"], "surface: extent must be at least 1, got 0.5"),
        (["--image", 3, *QUICK, "--points", "1"], "surface: points must be at least 2, got 1"),
        (["--image", 3, *QUICK, "--device", "tpu"], "device must be one that this machine has, got 'tpu'"),
        (["--image", 3, "--data", "digits"], "--epsilon must be given for a network that is not a bundle"),
        (["--image", 3, "--epsilon", "0.1"], "--data must be given for a network that is not a bundle"),
        (["--image", "three", *QUICK], "'three' is not a valid integer"),
        ([*QUICK], "Missing option '--image'"),
    ],
)
def test_wrong_input(arguments, message, run, tmp_path):
    code, out, err = run("own.py:network", *arguments, "--out", tmp_path / "new" / "out")
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("own.py:five", "own.py:five: has 5 logits, but the labels of digits are 0 to 9"),
        ("own.py:one_way", "own.py:one_way: its surfaces cannot be drawn: no way back"),
        ("none.pt", "none.pt: no such file or folder"),
    ],
)
def test_wrong_networks(network, message, run, tmp_path):
    code, out, err = run(network, "--image", 3, *QUICK, "--out", tmp_path)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


@pytest.mark.parametrize(
    ("network", "message"), [("none.pt", "none.pt: no such file or folder"), ("own.py:none", "has no 'none'")]
)
def test_a_network_that_cannot_be_opened_is_reported_before_the_missing_epsilon(network, message, run, tmp_path):
    code, _, err = run(network, "--image", 3, "--data", "digits", "--out", tmp_path)
    assert (code, message in " ".join(err.split()), "--epsilon" in err) == (2, True, False)


def test_a_misclassified_image_is_refused_and_the_next_right_one_named(run, tmp_path):
    network, test = open_network("own.py:network"), open_test(DataConfig())
    predicted = network(test.x).argmax(1)
    wrong = int((predicted != test.y).nonzero()[0])
    right = next(i for i in range(wrong, len(test.y)) if predicted[i] == test.y[i])
    code, _, err = run("own.py:network", "--image", wrong, *QUICK, "--out", tmp_path)
    assert code == 2
    message = " ".join(err.split())
    true, given = int(test.y[wrong]), int(predicted[wrong])
    assert re.search(rf"image {wrong} is of class {true}\b.* predicts {given}\b.*use image {right}\b", message)
    assert tmp_path.is_dir()  # The folder existed before, so it is not removed.


def test_surfaces_that_are_there_are_left_alone(run, tmp_path):
    (tmp_path / "surface.json").write_text("mine", encoding="utf-8")
    code, _, err = run("own.py:network", "--image", 3, *QUICK, "--out", tmp_path)
    assert code == 2
    assert "holds surfaces already; name another folder, or remove this one" in " ".join(err.split())
    assert (tmp_path / "surface.json").read_text(encoding="utf-8") == "mine"


def test_a_file_is_no_folder(run, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = run("own.py:network", "--image", 3, *QUICK, "--out", tmp_path / "file")
    assert code == 2
    assert "file: is a file; name a folder" in " ".join(err.split())


def test_a_full_disk_is_reported(run, tmp_path, monkeypatch, undrawn):
    def full(path, *args, **kwargs):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("pathlib.Path.write_text", full)
    code, _, err = run("own.py:network", "--image", 3, *QUICK, "--out", tmp_path)
    assert code == 2
    assert "surface.json: cannot be written: No space left on device" in " ".join(err.split())


def test_interrupted(run, tmp_path):
    code, _, err = run("own.py:interrupted", "--image", 3, *QUICK, "--out", tmp_path / "out")
    assert code == 130
    assert "interrupted" in err


# The pictures.


def test_three_images_that_span_no_plane(here):
    from nas.data import Split
    from nas.errors import ConfigError

    test = open_test(DataConfig())
    twins = Split(test.x[[0, 1, 1]], test.y[[0, 1, 1]], "")
    config = SurfaceConfig(image=0, others=(1, 2), epsilon=0.2, points=3, device="cpu")
    with pytest.raises(ConfigError, match="surface: others: image 2 must differ from image 1"):
        surfaces_of(
            open_network("own.py:network"), twins, config, network_name="", data_name="", classes=tuple("0123456789")
        )


def texts(picture):
    """Returns the texts of an SVG picture. Matplotlib draws texts as outlines and writes each text in a comment."""
    ElementTree.fromstring(picture)
    return [text.strip() for text in re.findall("<!-- (.*?) -->", picture.decode(), flags=re.DOTALL)]


def test_every_class_has_a_colour_and_a_place_in_the_legend(drawn):
    surfaces = drawn()
    plane = surfaces.surfaces["adversarial_random"]
    many = np.arange(plane.label.size).reshape(plane.label.shape) % 30
    surfaces = dataclasses.replace(
        surfaces,
        classes=tuple(f"$_{i}$ is a name far too long" for i in range(30)),
        surfaces={"adversarial_random": dataclasses.replace(plane, label=many)},
    )
    colours = class_colours(surfaces)
    assert set(colours) == set(range(30))
    assert next(iter(colours)) == surfaces.label
    for picture in (draw_surface(surfaces, "adversarial_random"), draw_summary(surfaces)):
        shown = texts(picture)
        # Twelve colours, and grey for the others.
        assert [text.endswith("(true)") for text in shown if text.startswith("$_")] == [True] + 11 * [False]
        assert f"$_{surfaces.label}$ is a name… (true)" in shown
        assert "other classes" in shown
        assert shown.count("outside the pixel range") == 1


def test_pictures_say_what_they_show(drawn):
    surfaces = drawn(others=(5, 8))
    shown = texts(draw_surface(surfaces, "two_adversarial"))
    for text in (
        "along the adversarial direction",
        "towards the second adversarial direction",
        "L2 distance at right angles,",
    ):
        assert text in shown
    assert {"clean", "adversarial", "second adversarial", "class", "confidence: largest softmax"} <= {*shown}
    assert {"image 0", "image 5", "image 8", "from image 0 to image 5"} <= {*texts(draw_surface(surfaces, "three_images"))}
    shown = texts(draw_lines(surfaces))
    assert {f"along the {name} direction" for name in ("adversarial", "second adversarial", "random")} <= {*shown}
    assert "crossing" in shown


def test_a_constant_network_is_drawn(tmp_path):
    class Constant(nn.Module):
        def forward(self, x):
            return nn.functional.one_hot(torch.full((len(x),), 4), 10).float() + 0 * x.flatten(1).sum(1, keepdim=True)

    test = open_test(DataConfig())
    image = int((test.y == 4).nonzero()[0])
    config = SurfaceConfig(image=image, epsilon=0.1, points=5, device="cpu")
    surfaces = surfaces_of(Constant(), test, config, network_name="", data_name="", classes=DIGITS)
    assert list(surfaces.surfaces) == ["two_random"]
    for picture in (draw_surface(surfaces, "two_random"), draw_lines(surfaces), draw_summary(surfaces)):
        ElementTree.fromstring(picture)


# Reports.


def test_a_report_shows_a_few_images_of_every_bundle(finished_run):
    opened, _ = load_bundles(read_run(finished_run).bundles)
    pictures = report_surfaces(opened, images=1)
    assert list(pictures) == list(opened)
    for ((picture, caption),) in pictures.values():
        ElementTree.fromstring(picture)
        assert re.match(r".*test image \d+ \(class \d\)", caption)
        assert ("around the adversarial image" in caption) == ("image that PGD finds" in caption)
    name, one = next(iter(opened.items()))
    assert report_surfaces({name: one}, images=1) == {name: pictures[name]}


def test_what_lies_around_an_adversarial_image_in_words(drawn):
    around = drawn().neighbourhood
    text = neighbourhood_sentence(around)
    assert "500 random points" in text
    assert "L∞ balls" in text
    for radius, share, (low, high) in zip(around.balls.radii, around.balls.share[0], around.balls.interval[0], strict=True):
        assert f"{100 * share:.0f} % ({100 * low:.0f} to {100 * high:.0f}) within {radius:.3g}" in text
    proved = neighbourhood_sentence(dataclasses.replace(around, proved=0.0125))
    assert "images within L∞ distance 0.013 of the adversarial image are adversarial" in proved
    for none in (0.0, NoBound("a layer that it does not know")):
        unproved = neighbourhood_sentence(dataclasses.replace(around, proved=none))
        assert unproved.endswith(". No radius around the adversarial image is certified.")


def test_a_report_does_without_what_is_too_large_or_fails(bundle_copy):
    opened, _ = load_bundles([open_bundle(bundle_copy)])
    ((name, one),) = opened.items()
    assert report_surfaces(opened, images=0) == {name: []}
    large = dataclasses.replace(one.bundle.profile, record={**one.bundle.profile.record, "cost": {"macs": 10**9}})
    heavy = dataclasses.replace(one, bundle=dataclasses.replace(one.bundle, profile=large))
    assert report_surfaces({name: heavy}) == {name: []}
    # For a network of medium size, surfaces are drawn, but no balls are sampled.
    medium = dataclasses.replace(one.bundle.profile, record={**one.bundle.profile.record, "cost": {"macs": 18 * 10**6}})
    heavier = dataclasses.replace(one, bundle=dataclasses.replace(one.bundle, profile=medium))
    pictures = report_surfaces({name: heavier})[name]
    assert len(pictures) == 2
    assert all("random points" not in caption for _, caption in pictures)
    assert report_surfaces({name: dataclasses.replace(one, network=nn.Identity())}) == {name: []}
