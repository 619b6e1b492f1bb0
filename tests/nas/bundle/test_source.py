"""A bundle of a custom space holds the space's source, and no path of the machine that made it."""

import shutil

import pytest
import torch
import yaml

import nas
from nas.bundle.manifest import read_manifest
from nas.bundle.source import copy_sources, data_settings, has_place, without_places
from nas.pipeline.search import search_events

SPACE = """
import math

from torch import nn

from search_spaces import Choice, SearchSpace


def build(architecture, input_shape, num_classes):
    width = architecture["width"]
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), width), nn.ReLU(), nn.Linear(width, num_classes))


own = SearchSpace(name="own", choices={"width": Choice(4, 8)}, build=build)
"""


@pytest.fixture(scope="module")
def made(tiny, all_forms, tmp_path_factory):
    """A moved bundle, images and their logits. The original file of the bundle's custom space is deleted."""
    folder = tmp_path_factory.mktemp("custom")
    own = folder / "own.py"
    own.write_text(SPACE)
    config = tiny(f"space={{name: '{own}:own'}}", all_forms, "finalists.references=false", "search.trials=1")
    list(search_events(config, folder / "run"))
    (bundle,) = (folder / "run" / "bundles").glob("1-*")
    images = torch.rand(3, 1, 8, 8)
    logits = nas.load(bundle, trust=True)(images)
    moved = shutil.move(bundle, folder / "moved")
    own.unlink()
    return moved, images, logits


def test_network_is_rebuilt_from_the_source_in_the_bundle(made):
    bundle, images, logits = made
    assert torch.equal(nas.load(bundle, trust=True)(images), logits)
    assert torch.allclose(nas.load(bundle)(images), logits, atol=1e-5)
    assert all(outcome.passed for outcome in nas.verify(bundle, trust=True))
    assert all(outcome.passed for outcome in nas.verify(bundle))


def test_source_has_a_checksum(made, tmp_path):
    bundle = shutil.copytree(made[0], tmp_path / "copy")
    assert "source/own.py" in read_manifest(bundle)["files"]
    (bundle / "source" / "own.py").write_text("")
    with pytest.raises(nas.errors.BundleError, match=r"source/own\.py differs"):
        nas.load(bundle)


def test_no_file_of_the_bundle_holds_the_folder_where_it_was_made(made):
    bundle = made[0]
    for path in bundle.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(bundle.parent).encode() not in content, path
            assert nas.__path__[0].encode() not in content, path


@pytest.mark.parametrize(
    ("name", "path", "kept"),
    [
        ("folder", "/data/mine/cats", "cats"),
        ("npz", "/data/x.npz", "x.npz"),
        ("mnist", "/cache", None),
        ("digits", None, None),
    ],
)
def test_places_of_a_machine_are_left_out(name, path, kept, tmp_path):
    executor = {"name": "ray", "address": "10.0.0.1:6379", "cpus": 1}
    search = {"trials": 3, "storage": "postgresql://host/db", "executor": executor}
    left = without_places({"data": {"name": name, "path": path}, "search": search, "seed": 0})
    assert left == {
        "data": {"name": name, "path": kept},
        "search": {"trials": 3, "storage": None, "executor": {"name": "ray", "cpus": 1}},
        "seed": 0,
    }
    bundle = tmp_path / "bundles" / "1-a"
    assert data_settings(bundle, {"config": left}) == left["data"]
    assert has_place(left["data"]) is (name in ("mnist", "digits"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": {"name": name, "path": path}}))
    assert data_settings(bundle, {"config": left}) == {"name": name, "path": path}
    assert data_settings(tmp_path / "others" / "1-a", {"config": left}) == left["data"]


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ({"name": "folder", "path": "/moved/dogs"}, "/moved/dogs"),
        ({"name": "folder", "path": "../images"}, "RUN/../images"),
        ({"name": "folder", "path": 5}, "cats"),
        ({"name": "folder", "path": ["a"]}, "cats"),
        ({"name": "folder", "path": "~nobody-of-this-name/x"}, "cats"),
        ({"name": "folder", "path": None}, "cats"),
        ({"name": "npz", "path": "/other/y.npz"}, "cats"),
        ({"path": "/moved/dogs"}, "cats"),
        ([], "cats"),
        (None, "cats"),
    ],
)
def test_place_of_the_images_is_that_of_the_run(written, found, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": written}))
    settings = data_settings(tmp_path / "bundles" / "1-a", {"config": {"data": {"name": "folder", "path": "cats"}}})
    assert settings == {"name": "folder", "path": found.replace("RUN", str(tmp_path))}


def test_path_in_a_bundle_of_an_earlier_version_is_kept(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": {"name": "folder", "path": "/new"}}))
    old = {"name": "folder", "path": "/old/cats"}
    assert data_settings(tmp_path / "bundles" / "1-a", {"config": {"data": old}}) == old
    assert has_place(old)


def test_files_of_the_same_name_are_both_kept(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.py").write_text(f"x = '{name}'")
    (tmp_path / "bundle").mkdir()
    content = {"one": f"{tmp_path}/a/own.py:x", "more": [f"{tmp_path}/b/own.py:x", f"{tmp_path}/a/own.py:y", 3, "pgd"]}
    copied = copy_sources(content, tmp_path / "bundle")
    assert copied["one"] == "source/own.py:x"
    assert copied["more"][1:] == ["source/own.py:y", 3, "pgd"]
    other = copied["more"][0].partition(":")[0]
    assert (tmp_path / "bundle" / other).read_text() == "x = 'b'"
    assert (tmp_path / "bundle" / "source" / "own.py").read_text() == "x = 'a'"


@pytest.mark.parametrize("text", ["relative.py:x", "/missing/file.py:x", "package:x", "/etc/hosts:x", "https://a/b.py:x"])
def test_other_texts_stay(text, tmp_path):
    assert copy_sources(text, tmp_path) == text
    assert not list(tmp_path.iterdir())
