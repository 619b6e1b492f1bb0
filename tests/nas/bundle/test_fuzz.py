"""A bundle with one change is refused with a HardcellError, or opened. In both cases, none of its code runs."""

import json
import random
import shutil
import zipfile
from contextlib import suppress

import pytest
import torch
import yaml

import nas
from evaluators import explain
from evaluators.checks import CheckResult
from evaluators.profiles.record import fitted
from nas.analysis.networks import open_network
from nas.bundle.load import open_bundle
from nas.bundle.manifest import read_manifest
from nas.errors import HardcellError

TEXT = ("manifest.json", "architecture.yaml", "profile.json")
FILES = (*TEXT, "weights.safetensors", "model.pt2", "radii.npz")


def one_byte(bundle, draw, marker):
    path = bundle / draw.choice(FILES)
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content))
    content[place] ^= draw.randrange(1, 256)
    path.write_bytes(content)
    return path.name


def places(value, path=()):
    """Yields the path of every entry of nested mappings and lists."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*path, key)
        yield from places(entry, (*path, key))


def change_entry(content, draw, marker):
    *front, last = draw.choice(list(places(content)))
    for key in front:
        content = content[key]
    code = f"{marker.parent}/evil.py:f"
    values = [
        None,
        True,
        -1,
        0,
        10**30,
        1.5,
        "",
        "x",
        code,
        "os:getcwd",
        [],
        {},
        [[]],
        {"name": code},
        "\x1b[2J",
        "=1+1",
        "../x",
    ]
    if draw.random() < 0.3 and isinstance(content, dict):
        del content[last]
    else:
        content[last] = draw.choice(values)


def one_key(bundle, draw, marker):
    path = bundle / draw.choice(TEXT)
    content = (yaml.safe_load if path.suffix == ".yaml" else json.loads)(path.read_text())
    change_entry(content, draw, marker)
    path.write_text(yaml.safe_dump(content) if path.suffix == ".yaml" else json.dumps(content))
    return path.name


def one_member(bundle, draw, marker):
    path = bundle / draw.choice(["model.pt2", "radii.npz"])
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(list(entries))
    kind = draw.choice(["drop", "empty", "garble", "rename", "add", "json"])
    if kind == "drop":
        del entries[name]
    elif kind == "empty":
        entries[name] = b""
    elif kind == "garble":
        entries[name] = draw.randbytes(len(entries[name]))
    elif kind == "rename":
        entries[draw.choice(["x", "../x", "archive/../../x", "archive/data/x"])] = entries.pop(name)
    elif kind == "add":
        entries[draw.choice(["archive/extra.py", "extra.npy", "archive/data/sample_inputs/more.pt"])] = b"x"
    else:
        name = draw.choice([name for name in entries if name.endswith(".json")] or [name])
        if name.endswith(".json"):
            content = json.loads(entries[name])
            change_entry(content, draw, marker)
            entries[name] = json.dumps(content).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return path.name


def use(bundle, images):
    """Opens all parts of a bundle that commands read; returns the logits of its network."""
    opened = open_bundle(bundle)
    for entry in opened.profile.record["attacks"].values():
        fitted(entry)
    for check in opened.profile.record["checks"]:
        explain(CheckResult(**check))
    network = nas.load(bundle)
    open_network(str(bundle / "model.pt2"))
    return network(images)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sealed", [False, True], ids=["old checksums", "new checksums"])
def test_a_thousand_changes(sealed, bundle_copy, reseal, tmp_path):
    (tmp_path / "evil.py").write_text(f"import os\nos.makedirs({str(tmp_path / 'ran')!r})\nf = 1\n")
    images = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        expected = use(bundle_copy, images)
    draw, refused, copy = random.Random(20_261_129), 0, tmp_path / "copy"
    for number in range(500):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(bundle_copy, copy)
        name = (one_byte, one_key, one_member)[number % 3](copy, draw, tmp_path / "ran")
        if sealed:
            with suppress(ValueError, TypeError):  # The manifest may be no mapping any more.
                reseal(copy)
        try:
            with torch.no_grad():
                logits = use(copy, images)
        except HardcellError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"change {number} of {name}: {error!r}") from error
        else:
            if not sealed:  # It affects the layout of the manifest's text, or its digest, which older bundles lack.
                record = read_manifest(bundle_copy)
                without_digest = {key: value for key, value in record.items() if key != "digest"}
                assert name == "manifest.json", number
                assert read_manifest(copy) in (record, without_digest), number
            elif name != "weights.safetensors":
                assert torch.allclose(logits, expected), f"change {number} of {name}"
        assert not (tmp_path / "ran").exists(), f"change {number} of {name} ran code"
    assert refused > 150
