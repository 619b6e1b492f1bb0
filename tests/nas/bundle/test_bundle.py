"""A bundle has all its files and runs without Hardcell. Files that differ from the exported ones are named."""

import io
import json
import pickletools
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from nas.analysis.network_source import open_source
from nas.bundle import export
from nas.bundle.load import load
from nas.bundle.manifest import digest_of, read_manifest
from nas.bundle.verify import verify
from nas.data import open_test
from nas.errors import BundleError, SearchFailedError
from nas.pipeline.events import BundleFailed
from nas.pipeline.search import resume_events, search_events

pytestmark = pytest.mark.usefixtures("no_surfaces")

FILES = {
    "architecture.yaml",
    "weights.safetensors",
    "model.pt2",
    "model.onnx",
    "profile.json",
    "radii.npz",
    "README.md",
    "plots/error_curves.svg",
    "plots/cell.svg",
    "manifest.json",
}


def files_of(bundle):
    return {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}


def edit_profile(bundle, change):
    record = json.loads((bundle / "profile.json").read_text())
    change(record)
    (bundle / "profile.json").write_text(json.dumps(record))


def test_every_bundle_has_all_its_files(finished_run):
    bundles = list((finished_run / "bundles").iterdir())
    assert sorted(path.name.split("-")[0] for path in bundles) == ["1", "random", "residual"]
    for bundle in bundles:
        names = files_of(bundle)
        assert names - {"plots/cell.svg"} == FILES - {"plots/cell.svg"}
        assert set(json.loads((bundle / "manifest.json").read_text())["files"]) == names - {"manifest.json"}


def test_architecture_is_that_of_the_trial_and_the_manifest_says_what_made_it(finished_run, stored):
    (bundle,) = (finished_run / "bundles").glob("1-*")
    architecture = yaml.safe_load((bundle / "architecture.yaml").read_text())
    manifest = json.loads((bundle / "manifest.json").read_text())
    trial = stored(finished_run)[manifest["trial"]]
    assert architecture["architecture"] == trial.user_attrs["architecture"]
    assert architecture["key"] == trial.user_attrs["key"] == bundle.name.split("-")[1]
    assert architecture["input_shape"] == [1, 8, 8]
    assert architecture["num_classes"] == len(architecture["classes"]) == 10
    assert manifest["config"] == yaml.safe_load((finished_run / "config.yaml").read_text())
    assert manifest["environment"]["versions"]["torch"] == version("torch")
    assert set(manifest["data"]) == {"train", "validation", "test"}


def test_load_gives_the_measured_network_in_evaluation_mode(finished_run, tiny):
    test = open_test(tiny().data).first(60)
    for bundle in (finished_run / "bundles").iterdir():
        network = load(bundle)
        assert not any(module.training for module in network.modules())
        with torch.no_grad():
            logits = network(test.x)
        wrong = (logits.argmax(1) != test.y).double().mean()
        # The profile was measured on the network before it was exported.
        assert float(wrong) == pytest.approx(json.loads((bundle / "profile.json").read_text())["clean_error"])
        program = torch.export.load(bundle / "model.pt2").module()
        torch.testing.assert_close(program(test.x), logits, atol=1e-5, rtol=0)


def test_load_takes_a_path_as_text(finished_run):
    (bundle,) = (finished_run / "bundles").glob("1-*")
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load(str(bundle))(x), load(bundle)(x))


ALONE = """
import sys
for name in ("nas", "search_spaces", "evaluators", {blocked}):
    sys.modules[name] = None  # Its import raises an error.
import numpy as np
{load}
for n in (1, 7):
    np.save(f"out{{n}}.npy", run(np.load(f"in{{n}}.npy")))
assert not [m for m in sys.modules if m.partition(".")[0] in ("nas", "search_spaces", "evaluators") and sys.modules[m]]
"""
WITH_TORCH = """
import torch
program = torch.export.load({path!r}).module()
run = lambda x: program(torch.from_numpy(x)).detach().numpy()
"""
WITH_ONNX = """
import onnxruntime

session = onnxruntime.InferenceSession({path!r})
run = lambda x: session.run(["logits"], {{"image": x}})[0]
"""


@pytest.mark.parametrize(
    ("form", "code", "blocked"),
    [
        ("model.pt2", WITH_TORCH, '"onnx", "onnxruntime", "safetensors"'),
        ("model.onnx", WITH_ONNX, '"torch", "onnx", "safetensors"'),
    ],
    ids=["torch", "onnxruntime"],
)
def test_form_runs_alone_in_a_new_process(form, code, blocked, bundle_copy, tmp_path):
    work = tmp_path / "elsewhere"
    work.mkdir()
    network = load(bundle_copy)
    expected = {}
    for n in (1, 7):
        x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(n))
        np.save(work / f"in{n}.npy", x.numpy())
        expected[n] = network(x).detach().numpy()
    # The form is copied to another folder, so that it cannot use the other files of the bundle.
    shutil.copy(bundle_copy / form, work)
    script = ALONE.format(blocked=blocked, load=code.format(path=str(work / form)))
    subprocess.run([sys.executable, "-c", script], cwd=work, check=True, capture_output=True, timeout=120)
    for n in (1, 7):
        np.testing.assert_allclose(np.load(work / f"out{n}.npy"), expected[n], atol=1e-4, rtol=0)


def pickles(name, content):
    """Yields the names of pickles in a file, including those in archives."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield from pickles(f"{name}/{member}", archive.read(member))
        return
    if name.endswith((".pkl", ".pickle")):
        yield name
    if content[:1] == b"\x80" and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        try:
            list(pickletools.genops(content))
        except Exception:  # Weights may begin with these bytes by chance.
            return
        yield name


def test_nothing_in_a_bundle_is_pickled(finished_run, tmp_path):
    for path in (finished_run / "bundles").rglob("*"):
        if path.is_file():
            assert list(pickles(path.name, path.read_bytes())) == []
    for path in (finished_run / "bundles").rglob("*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            assert all(arrays[name].dtype == np.float64 for name in arrays)
    # `pickles` finds a pickle where there is one.
    torch.save({"a": torch.ones(2)}, tmp_path / "a.bin")
    assert list(pickles("a.bin", (tmp_path / "a.bin").read_bytes())) != []


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [flip, truncate, empty, Path.unlink], ids=["flipped", "truncated", "emptied", "deleted"])
@pytest.mark.parametrize("name", sorted(FILES - {"manifest.json"}))
def test_harmed_file_is_named(harm, name, bundle_copy):
    harm(bundle_copy / name)
    message = "is missing" if harm is Path.unlink else "differs from the exported file"
    with pytest.raises(BundleError, match=f"tampered with: {name} {message}$"):
        load(bundle_copy)
    (outcome,) = verify(bundle_copy)
    assert outcome.passed is False
    assert name in outcome.detail


@pytest.mark.parametrize("name", ["extra.txt", "plots/extra.svg", ".hidden", "new/model.pt2", "plots/manifest.json"])
def test_added_file_is_named(name, bundle_copy):
    (bundle_copy / name).parent.mkdir(exist_ok=True)
    (bundle_copy / name).write_text("extra")
    with pytest.raises(BundleError, match=f"{name} was not exported"):
        load(bundle_copy)


def test_all_harmed_files_are_named_at_once(bundle_copy):
    flip(bundle_copy / "profile.json")
    (bundle_copy / "README.md").unlink()
    with pytest.raises(BundleError, match=r"README\.md is missing; profile\.json differs from the exported file"):
        load(bundle_copy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a bundle"),
        (b"", "manifest.json: damaged"),
        (b"\xff\xfe", "manifest.json: damaged"),
        (b"[1]", "manifest.json: schema must be"),
        (b'{"schema": "hardcell-bundle/2", "files": {}}', "manifest.json: schema must be"),
        (b'{"schema": "hardcell-bundle/1", "files": [1]}', "manifest.json: schema must be"),
        (b'{"schema": "hardcell-bundle/1", "files": {}}', "damaged: name, role, config, data, seed, epsilon missing"),
    ],
)
def test_harmed_manifest(content, message, bundle_copy):
    if content is None:
        (bundle_copy / "manifest.json").unlink()
    else:
        (bundle_copy / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=message):
        load(bundle_copy)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("config",), [], "config must be a mapping, got []"),
        (("config", "data"), "digits", "config.data must be a mapping, got 'digits'"),
        (("config", "evaluation"), 3, "config.evaluation must be a mapping, got 3"),
        (
            ("config", "evaluation", "other_norms"),
            ["l2"],
            "config.evaluation.other_norms must be null or a mapping, got ['l2']",
        ),
        (("config", "evaluation", "attacks"), None, "config.evaluation.attacks must be a mapping, got None"),
        (("config", "evaluation", "attacks", "pgd"), "pgd", "config.evaluation.attacks.pgd must be a mapping, got 'pgd'"),
        (("epsilon",), "x", "epsilon must be a finite number above 0, got 'x'"),
        (("epsilon",), True, "epsilon must be a finite number above 0, got True"),
        (("epsilon",), float("nan"), "epsilon must be a finite number above 0, got nan"),
        (("data",), [], "data must be a mapping, got []"),
        (("seed",), None, "seed must be int, got None"),
        (("name",), 1, "name must be str, got 1"),
    ],
)
def test_a_manifest_whose_entries_are_of_another_kind(place, value, message, bundle_copy, cli, tmp_path):
    path = bundle_copy / "manifest.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    within = record
    for key in place[:-1]:
        within = within[key]
    within[place[-1]] = value
    path.write_text(json.dumps(record), encoding="utf-8")
    wanted = f"{path}: damaged: {message}"
    with pytest.raises(BundleError, match=re.escape(wanted)):
        load(bundle_copy)
    out = tmp_path / "out"
    for command in (("compare", bundle_copy, "own.py:network"), ("surface", bundle_copy, "--image", 0, "--out", out)):
        code, text, err = cli(*command)
        assert (code, text) == (2, "")
        assert " ".join(wanted.split()) in " ".join(err.split())
    assert not out.exists()


def test_all_faults_of_a_manifest_are_named_at_once(bundle_copy):
    path = bundle_copy / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "config": [], "epsilon": "x"}), encoding="utf-8")
    message = "epsilon must be a finite number above 0, got 'x'; config must be a mapping"
    with pytest.raises(BundleError, match=re.escape(message)):
        load(bundle_copy)


def test_manifest_with_another_checksum(bundle_copy):
    path = bundle_copy / "manifest.json"
    record = json.loads(path.read_text())
    record["files"]["model.onnx"] = "0" * 64
    record["digest"] = digest_of(record)
    path.write_text(json.dumps(record))
    with pytest.raises(BundleError, match=r"model\.onnx differs from the exported file"):
        load(bundle_copy)


def test_verify_command_exits_2_for_a_harmed_bundle(bundle_copy, cli):
    flip(bundle_copy / "weights.safetensors")
    code, out, _ = cli("verify", bundle_copy)
    assert code == 2
    assert "FAILED checksums" in out
    assert "weights.safetensors differs from the exported file" in out


def test_untouched_bundle_passes_and_its_curves_come_out_the_same(finished_run):
    for bundle in (finished_run / "bundles").iterdir():
        outcomes = {outcome.name: outcome for outcome in verify(bundle)}
        assert set(outcomes) == {
            "checksums",
            "manifest",
            "profile",
            "clean error",
            "model.pt2",
            "model.onnx",
            "error curve, fgsm",
            "error curve, pgd",
        }
        assert all(outcome.passed is True for outcome in outcomes.values())
        assert "largest difference 0.0000" in outcomes["error curve, pgd"].detail


def save_images(path, seed):
    rng = np.random.default_rng(seed)
    np.savez(path, x=rng.integers(0, 256, (120, 8, 8), dtype=np.uint8), y=np.arange(120) % 3)


def test_verify_says_what_it_could_not_try(tiny, all_forms, tmp_path, cli):
    images = tmp_path / "images.npz"
    save_images(images, 0)
    overrides = (
        f"data={{name: npz, path: '{images}'}}",
        "search.trials=1",
        "finalists.references=false",
        "finalists.epochs=1",
    )
    list(search_events(tiny(all_forms, *overrides), tmp_path / "run"))
    (bundle,) = (tmp_path / "run" / "bundles").glob("1-*")
    assert not any(
        str(tmp_path) in path.read_text() for path in bundle.iterdir() if path.suffix in (".json", ".yaml", ".md")
    )
    assert all(outcome.passed for outcome in verify(bundle))
    assert open_source(bundle).data["path"] == str(images)
    away = Path(shutil.copytree(bundle, tmp_path / "away" / bundle.name))
    assert verify(away)[-1].passed is None
    assert re.search(r"on the machine that made the bundle; .*--data", verify(away)[-1].detail)
    assert all(outcome.passed for outcome in verify(away, data=images))
    assert cli("verify", away, "--data", images)[0] == 0
    for command in (("verify", "--data", "~nobody-of-this-name/x"), ("profile", "--attack", "fgsm")):
        code, _, err = cli(command[0], away, *command[1:])
        assert code == 2
        assert "data" in err
    images.unlink()
    *tried, curves = verify(bundle)
    assert [outcome.passed for outcome in tried] == [True] * 5
    assert (curves.name, curves.passed) == ("error curves", None)
    assert "the images cannot be opened" in curves.detail
    code, out, err = cli("verify", bundle)
    assert code == 2
    assert "not run error curves" in out
    assert re.search(r"not checked: error curves; --allow-skipped", err)
    assert json.loads(cli("verify", bundle, "--json")[1])["passed"] is False
    assert cli("verify", bundle, "--allow-skipped")[0] == 0
    assert json.loads(cli("verify", bundle, "--json", "--allow-skipped")[1])["passed"] is True
    save_images(images, 1)
    *_, curves = verify(bundle)
    assert curves.passed is None
    assert "hash" in curves.detail


def lower(values):
    return [0.2 * value for value in values]


def error_lowered(record, arrays):
    for entry in record["attacks"].values():
        entry["error"] = lower(entry["error"])
        entry["error_interval"] = [lower(pair) for pair in entry["error_interval"]]


def error_lowered_in_wide_intervals(record, arrays):
    for entry in record["attacks"].values():
        entry["error"] = lower(entry["error"])
        entry["error_interval"] = [[0.0, 1.0] for _ in entry["error"]]


def radii_raised(record, arrays):
    for name in arrays:
        arrays[name][:] = np.inf


def clean_error_lowered(record, arrays):
    record["clean_error"] = 0.0


def epsilons_doubled(record, arrays):
    for entry in record["attacks"].values():
        entry["epsilons"] = [2 * epsilon for epsilon in entry["epsilons"]]


def attack_said_to_be_stronger(record, arrays):
    record["attacks"]["pgd"]["config"]["steps"] = 1000


@pytest.mark.parametrize(
    "claim",
    [
        error_lowered,
        error_lowered_in_wide_intervals,
        radii_raised,
        clean_error_lowered,
        epsilons_doubled,
        attack_said_to_be_stronger,
    ],
    ids=lambda claim: claim.__name__,
)
def test_inflated_claim_with_new_checksums_is_caught(claim, bundle_copy, cli, reseal):
    """Anyone can recompute checksums, so `verify` also measures the numbers again and compares the files with each other."""
    with np.load(bundle_copy / "radii.npz") as stored:
        arrays = {name: stored[name].copy() for name in stored}
    edit_profile(bundle_copy, lambda record: claim(record, arrays))
    np.savez_compressed(bundle_copy / "radii.npz", **arrays)
    reseal(bundle_copy)
    load(bundle_copy)  # Recomputed checksums pass.
    failed = [outcome.name for outcome in verify(bundle_copy) if outcome.passed is False]
    assert failed
    assert "checksums" not in failed


@pytest.mark.parametrize("form", ["model.pt2", "model.onnx"])
def test_form_of_another_network_with_new_checksums_is_caught(form, bundle_copy, finished_run, reseal):
    (other,) = (finished_run / "bundles").glob("residual-*")
    shutil.copy(other / form, bundle_copy / form)
    reseal(bundle_copy)
    failed = [outcome.name for outcome in verify(bundle_copy) if outcome.passed is False]
    assert failed == [form]


@pytest.mark.parametrize("form", ["model.pt2", "model.onnx"])
def test_unreadable_form_with_new_checksums_is_named_without_a_traceback(form, bundle_copy, cli, reseal):
    (bundle_copy / form).write_bytes(b"not a network")
    reseal(bundle_copy)
    code, out, err = cli("verify", bundle_copy)
    assert code == 2
    assert form in out + err


def test_weights_of_another_network_with_new_checksums_are_refused(bundle_copy, finished_run, reseal):
    (other,) = (finished_run / "bundles").glob("residual-*")
    shutil.copy(other / "weights.safetensors", bundle_copy)
    reseal(bundle_copy)
    with pytest.raises(BundleError, match=r"cannot be rebuilt: .*; open model\.pt2 with torch"):
        load(bundle_copy)


def test_bundle_of_a_space_that_is_gone_is_verified_through_its_graph(bundle_copy, finished_run, reseal):
    (original,) = (finished_run / "bundles").glob("1-*")
    path = bundle_copy / "architecture.yaml"
    stored = yaml.safe_load(path.read_text())
    stored["space"] = {"name": "/nowhere/space.py:SPACE", "options": {}}
    path.write_text(yaml.safe_dump(stored))
    reseal(bundle_copy)
    with pytest.raises(BundleError, match=r"/nowhere/space\.py does not exist; open model\.pt2 with torch"):
        load(bundle_copy, trust=True)
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(load(bundle_copy)(images), load(original)(images))
    assert all(outcome.passed for outcome in verify(bundle_copy))


@pytest.mark.parametrize(
    ("form", "off"), [("model.pt2", 0.01), pytest.param("model.onnx", float("nan"), marks=pytest.mark.slow)]
)
def test_a_form_that_disagrees_is_left_out_and_the_bundle_stays(form, off, run_copy, monkeypatch):
    (best,) = (run_copy / "bundles").glob("1-*")
    shutil.rmtree(best)
    original = export.logits_of

    def wrong(name, *args, **options):
        return original(name, *args, **options) + (off if name == form else 0)

    monkeypatch.setattr(export, "logits_of", wrong)
    list(resume_events(run_copy))
    monkeypatch.undo()
    assert not (best / form).exists()
    assert "its logits differ" in read_manifest(best)["not_exported"][form]
    load(best)
    outcomes = {outcome.name: outcome for outcome in verify(best)}
    assert outcomes[form].passed is None
    assert all(outcome.passed for name, outcome in outcomes.items() if name != form)


@pytest.mark.slow
def test_finalist_that_cannot_be_exported_does_not_stop_the_others(run_copy, monkeypatch):
    (best,) = (run_copy / "bundles").glob("1-*")
    (reference,) = (run_copy / "bundles").glob("random-*")
    shutil.rmtree(best)
    shutil.rmtree(reference)
    original, calls = export.write_formats, []

    def fails_at_first(*args):
        calls.append(args)
        if len(calls) == 1:
            raise BundleError("model.onnx gives other logits than the network, by 4")
        return original(*args)

    monkeypatch.setattr(export, "write_formats", fails_at_first)
    events = []
    with pytest.raises(SearchFailedError, match="none of the finalists"):
        events.extend(resume_events(run_copy))
    (failed,) = (event for event in events if isinstance(event, BundleFailed))
    assert (failed.name, failed.reason) == (best.name, "model.onnx gives other logits than the network, by 4")
    assert reference.exists()


def test_network_that_no_attack_fools_within_the_grid_becomes_a_bundle(tiny, tmp_path):
    # An empty plot must not prevent the export of a finalist that no attack fools.
    overrides = (
        "search.trials=1",
        "finalists.references=false",
        "finalists.epochs=1",
        "finalists.epsilons={linf: [1e-6, 2e-6]}",
        "evaluation.epsilon=1e-6",
    )
    events = list(search_events(tiny(*overrides), tmp_path / "run"))
    reasons = [event.reason for event in events if type(event).__name__ == "BundleFailed"]
    assert reasons == []
    assert len(list((tmp_path / "run" / "bundles").glob("1-*"))) == 1
