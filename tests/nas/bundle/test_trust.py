"""Bundles and runs that others made are data: nothing in them is imported, called or unpickled without trust."""

import json
import os
import shutil
import sqlite3
import time
from contextlib import closing
from functools import reduce
from operator import getitem
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import nas
from nas.bundle.manifest import read_manifest
from nas.config.files import load_config, load_untrusted_config
from nas.data import open_test
from nas.data.config import DataConfig
from nas.errors import BundleError, ConfigError, DataError, HardcellError
from nas.files import write_atomic
from nas.reports.page import report as write_report


@pytest.fixture
def evil(tmp_path):
    """A Python file that creates the folder `ran` when it is imported."""
    path = tmp_path / "evil.py"
    path.write_text(f"import os\nos.makedirs({str(tmp_path / 'ran')!r}, exist_ok=True)\ndef f(*a, **k): return {{}}\n")
    return path


@pytest.fixture
def nothing_ran(tmp_path):
    yield
    assert not (tmp_path / "ran").exists()


def edit_yaml(path, change):
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


SPACES = {
    "a call": lambda marker, evil: {"name": "os:mkdir", "options": {"path": str(marker)}},
    "a file": lambda marker, evil: {"name": f"{evil}:f", "options": {}},
    "a module of Hardcell": lambda marker, evil: {"name": "nas.cli:main", "options": {}},
    "an operation": lambda marker, evil: {"name": "cells", "options": {"operations": ["none", f"{evil}:f"]}},
}


@pytest.fixture(params=list(SPACES))
def with_code_as_space(request, bundle_copy, reseal, tmp_path, evil):
    edit_yaml(
        bundle_copy / "architecture.yaml", lambda stored: stored.update(space=SPACES[request.param](tmp_path / "ran", evil))
    )
    reseal(bundle_copy)
    return bundle_copy


@pytest.mark.usefixtures("nothing_ran")
def test_bundle_of_a_custom_space_is_read_through_its_graph(with_code_as_space, finished_run, cli, tmp_path):
    (original,) = (finished_run / "bundles").glob("1-*")
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(nas.load(with_code_as_space)(images), nas.load(original)(images))
    outcomes = nas.verify(with_code_as_space)
    assert all(outcome.passed for outcome in outcomes), outcomes
    assert "weights.safetensors" in {outcome.name for outcome in outcomes}
    assert cli("profile", with_code_as_space, "--images", "20", "--attack", "fgsm")[0] == 0
    with pytest.raises(nas.errors.NetworkError, match="--trust"):
        nas.build(with_code_as_space)


def test_code_of_a_bundle_runs_with_trust(bundle_copy, reseal, tmp_path, evil, cli):
    edit_yaml(bundle_copy / "architecture.yaml", lambda stored: stored.update(space={"name": f"{evil}:f", "options": {}}))
    reseal(bundle_copy)
    code, _, err = cli("verify", bundle_copy, "--trust")
    assert code == 2  # The code runs, but it returns no space.
    assert "SearchSpace" in err
    assert (tmp_path / "ran").exists()


@pytest.mark.usefixtures("nothing_ran")
@pytest.mark.parametrize("place", ["finalists.attacks.pgd", "evaluation.attacks.pgd"])
def test_attacks_of_a_manifest_are_not_imported(place, bundle_copy, reseal, evil, cli):
    section, _, attack = place.split(".")
    change = lambda manifest: manifest["config"][section]["attacks"].update({attack: {"name": f"{evil}:f"}})  # noqa: E731
    edit_json(bundle_copy / "manifest.json", change)
    reseal(bundle_copy)
    outcomes = {outcome.name: outcome for outcome in nas.verify(bundle_copy)}
    if section == "finalists":
        assert outcomes["error curve, pgd"].passed is None
        assert "--trust" in outcomes["error curve, pgd"].detail
        assert cli("verify", bundle_copy)[0] == 2


@pytest.mark.usefixtures("nothing_ran")
def test_norm_of_a_manifest_is_a_name(bundle_copy, reseal, evil, cli, tmp_path):
    def change(manifest):
        for attack in manifest["config"]["evaluation"]["attacks"].values():
            attack["norm"] = f"{evil}:f"

    edit_json(bundle_copy / "manifest.json", change)
    reseal(bundle_copy)
    for command in (["verify"], ["profile"], ["surface", "--image", "0", "--out", tmp_path / "out"]):
        code, _, err = cli(command[0], bundle_copy, *command[1:])
        assert code == 2
        assert "norm must be one of" in err


CONFIGS = {
    "record": ("evaluation", "record"),
    "sampler": ("search", "sampler"),
    "recipe": ("training", "recipe"),
    "attack": ("evaluation", "attacks", "evil"),
    "space": ("space",),
    "executor": ("search", "executor"),
}


@pytest.mark.usefixtures("nothing_ran", "no_surfaces")
@pytest.mark.parametrize("keys", [["space"], sorted(set(CONFIGS) - {"space"})], ids=["space", "others"])
def test_names_in_the_config_of_a_run_are_not_imported(keys, run_copy, evil, cli):
    original = (run_copy / "config.yaml").read_text()

    def plant(key):
        *front, last = CONFIGS[key]
        name = f"{evil}:{key}"
        edit_yaml(
            run_copy / "config.yaml",
            lambda config: reduce(getitem, front, config).update({last: name if key == "record" else {"name": name}}),
        )

    for key in keys:
        (run_copy / "config.yaml").write_text(original)
        plant(key)
        code, _, err = cli("export", run_copy)
        assert code == 2
        assert "--trust" in err
    for key in keys:
        plant(key)
    assert cli("status", run_copy)[0] == 0
    assert nas.status(run_copy).state
    assert cli("report", run_copy)[0] == 0
    for key in keys:
        assert key == "space" or f"{evil}:{key}" in (run_copy / "report.html").read_text()


def test_config_of_a_run_is_imported_with_trust(run_copy, evil, tmp_path):
    edit_yaml(run_copy / "config.yaml", lambda config: config["evaluation"].update(record=f"{evil}:f"))
    assert nas.read_run(run_copy).refused
    assert not (tmp_path / "ran").exists()
    assert nas.read_run(run_copy, trust=True).refused == ()
    assert (tmp_path / "ran").exists()


def quick(work):
    """Asserts that `work` raises a HardcellError within 20 s, and returns the message."""
    start = time.monotonic()
    with pytest.raises(HardcellError) as error:
        work()
    assert time.monotonic() - start < 20
    return str(error.value)


BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join(f'*a{i - 1}' for _ in range(10))}]\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("architecture.yaml", BOMB),
        ("architecture.yaml", "[" * 50_000),
        ("architecture.yaml", "x" * 2_000_000),
        ("architecture.yaml", "{a: 1, a: 2}"),
        ("profile.json", "[" * 500_000),
        ("profile.json", '{"schema": "hardcell-profile/2"}'),
        ("profile.json", '{"schema": "hardcell-profile/2", "attacks": 3}'),
    ],
    ids=["aliases", "nested YAML", "large YAML", "duplicate keys", "nested JSON", "empty profile", "other profile"],
)
def test_hostile_text_is_refused(name, content, bundle_copy, reseal):
    (bundle_copy / name).write_text(content)
    reseal(bundle_copy)
    quick(lambda: nas.verify(bundle_copy))


def test_nested_manifest_is_refused(bundle_copy):
    (bundle_copy / "manifest.json").write_text("[" * 500_000)
    assert "manifest.json: damaged" in quick(lambda: nas.load(bundle_copy))


@pytest.mark.parametrize("shape", [(10**12,), (10**6, 10**6), (3,), ()])
def test_radii_that_promise_another_size_are_refused(shape, bundle_copy, reseal):
    import zipfile

    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    with zipfile.ZipFile(bundle_copy / "radii.npz") as archive:
        names = archive.namelist()
    with zipfile.ZipFile(bundle_copy / "radii.npz", "w") as archive:
        for name in names:
            with archive.open(name, "w") as file:
                np.lib.format.write_array_header_1_0(file, header)
                file.write(b"\0" * 480)
    reseal(bundle_copy)
    assert "radii.npz" in quick(lambda: nas.verify(bundle_copy))


@pytest.mark.parametrize("sizes", [[10**9, 8, 8], [1, 0, 8], [1, 8, True], [1, 8]])
def test_input_shape_out_of_range_is_refused(sizes, bundle_copy, reseal):
    edit_yaml(bundle_copy / "architecture.yaml", lambda stored: stored.update(input_shape=sizes))
    reseal(bundle_copy)
    assert "input_shape" in quick(lambda: nas.load(bundle_copy))


@pytest.mark.parametrize("options", [{"channels": 10**9}, {"cells_per_stage": 10**9}, {"stages": 10**6}])
def test_options_that_use_up_memory_or_time_are_refused(options, bundle_copy, reseal):
    edit_yaml(bundle_copy / "architecture.yaml", lambda stored: stored["space"]["options"].update(options))
    reseal(bundle_copy)
    assert "must be at most" in quick(lambda: nas.load(bundle_copy))


@pytest.mark.parametrize("name", ["README.md", "manifest.json", "model.onnx"])
def test_links_are_refused(name, bundle_copy, tmp_path):
    shutil.move(bundle_copy / name, tmp_path / name)
    (bundle_copy / name).symlink_to(tmp_path / name)
    with pytest.raises(BundleError, match="link"):
        nas.load(bundle_copy)


def test_links_to_folders_are_refused(bundle_copy, tmp_path):
    (bundle_copy / "more").symlink_to(tmp_path)
    with pytest.raises(BundleError, match="more"):
        nas.load(bundle_copy)


@pytest.mark.parametrize("key", ["name", "role"])
def test_escape_sequences_are_refused(key, bundle_copy, reseal):
    edit_json(bundle_copy / "manifest.json", lambda manifest: manifest.update({key: "\x1b[2Jgone"}))
    reseal(bundle_copy)
    with pytest.raises(BundleError, match="control characters"):
        read_manifest(bundle_copy)


@pytest.mark.usefixtures("no_surfaces")
def test_profile_of_another_version_is_left_out_of_the_report(run_copy, reseal):
    (best,) = (run_copy / "bundles").glob("1-*")
    edit_json(best / "profile.json", lambda record: record["checks"][0].update(detail="x"))
    reseal(best)
    write_report(run_copy)
    page = (run_copy / "report.html").read_text()
    assert "is damaged and left out" in page
    assert "unknown key" in page


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(seed=m["seed"] + 1),
        lambda m: m.update(role="residual"),
        lambda m: m["config"]["training"].update(epochs=77),
        lambda m: m["data"].update(test="0" * 16),
        lambda m: m.update(epsilon=0.01),
        lambda m: m["environment"].update(python="2.7"),
        lambda m: m.pop("created"),
        lambda m: m.update(digest=None),
    ],
    ids=["seed", "role", "config", "data", "epsilon", "environment", "created", "digest"],
)
def test_altered_manifest_is_noticed(change, bundle_copy, cli):
    edit_json(bundle_copy / "manifest.json", change)
    code, _, err = cli("verify", bundle_copy)
    assert code == 2
    assert "its digest differs from its content" in err


def test_manifest_without_a_digest_is_read_but_not_verified(bundle_copy, cli):
    edit_json(bundle_copy / "manifest.json", lambda manifest: manifest.pop("digest"))
    nas.load(bundle_copy)
    code, out, err = cli("verify", bundle_copy)
    assert code == 2
    assert "not run manifest" in out
    assert "not checked: manifest" in err
    assert cli("verify", bundle_copy, "--allow-skipped")[0] == 0


def test_exported_graph_names_no_path_of_the_machine(finished_run):
    for graph in finished_run.glob("bundles/*/model.pt2"):
        content = graph.read_bytes()
        assert str(Path.cwd()).encode() not in content
        assert str(Path(nas.__file__).parent).encode() not in content


def test_config_with_aliases_is_refused_for_a_run_of_others(run_copy):
    (run_copy / "config.yaml").write_text(BOMB)
    with pytest.raises(ConfigError, match="alias"):
        nas.read_run(run_copy)


def test_onnx_model_that_reads_another_file_is_refused(bundle_copy, reseal, tmp_path):
    import onnx

    path = bundle_copy / "model.onnx"
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.safetensors"
    path.write_bytes(model.SerializeToString())
    reseal(bundle_copy)
    (outcome,) = (one for one in nas.verify(bundle_copy) if one.name == "model.onnx")
    assert outcome.passed is False


def double(record, key):
    record[key] *= 2


@pytest.mark.parametrize(
    ("file", "change", "what"),
    [
        ("profile.json", lambda r: double(r["attacks"]["fgsm"], "error_area"), "attacks.fgsm.error_area"),
        ("profile.json", lambda r: r["attacks"]["fgsm"].update(success_rate=0.01), "attacks.fgsm.success_rate"),
        ("profile.json", lambda r: r["attacks"]["fgsm"]["flip_rate"].__setitem__(0, 0.9), "attacks.fgsm.flip_rate[0]"),
        ("profile.json", lambda r: r["attacks"]["fgsm"]["power_law"].update(reason="none"), "attacks.fgsm.power_law"),
        ("profile.json", lambda r: double(r["cost"], "parameters"), "cost.parameters"),
        ("profile.json", lambda r: r.update(dataset="cifar10"), "dataset"),
        ("manifest.json", lambda r: r.update(epsilon=0.123456), "epsilon"),
        ("manifest.json", lambda r: r.update(name="1-0123456789ab"), "name"),
    ],
)
def test_values_that_do_not_agree_are_noticed(file, change, what, bundle_copy, reseal):
    edit_json(bundle_copy / file, change)
    reseal(bundle_copy)
    (outcome,) = (one for one in nas.verify(bundle_copy) if one.name == "profile")
    assert (outcome.passed, what in outcome.detail) == (False, True), outcome.detail


def test_pipe_in_a_bundle_is_refused(bundle_copy):
    os.mkfifo(bundle_copy / "pipe")
    assert "pipe" in quick(lambda: nas.load(bundle_copy))


def test_attack_with_too_many_steps_is_refused(bundle_copy, reseal):
    def change(manifest):
        name = next(iter(manifest["config"]["finalists"]["attacks"]))
        manifest["config"]["finalists"]["attacks"][name] = {"name": "pgd", "steps": 10**9}

    edit_json(bundle_copy / "manifest.json", change)
    reseal(bundle_copy)
    assert "steps must be at most 100,000" in quick(lambda: nas.verify(bundle_copy))


@pytest.mark.parametrize(
    ("place", "value", "what"),
    [
        (("attacks", "fgsm", "epsilons"), [], "attacks.fgsm.epsilons"),
        (("attacks", "fgsm", "error"), [0.5], "equal lengths"),
        (("attacks", "fgsm", "error_interval"), [[0, 1, 2]], "error_interval"),
        (("attacks", "fgsm", "flip_rate"), ["x"], "flip_rate"),
        (("attacks",), {}, "attacks must not be empty"),
        (("cost", "macs"), 10**400, "64 bits"),
        (("clean_error",), -(10**400), "64 bits"),
        (("margins", "densities"), {"rival_9": [1.0], "at": [1.0]}, "rival_9"),
        (("margins", "densities"), 3, "densities"),
        (("margins", "first_order", "linf", "mean_field_error"), "x", "mean_field_error"),
        (("margins", "first_order", "linf", "parting_epsilon"), [], "parting_epsilon"),
        (("corruptions",), {"clean": 0.1, "mean": 0.1, "errors": {"fog": [0.1] * 6}}, "corruptions.errors.fog"),
        (("certificates",), {"sigma": 0.1}, "certificates"),
        (("tolerance",), "x", "tolerance"),
    ],
)
def test_profile_of_another_form_is_refused(place, value, what, bundle_copy, reseal):
    def change(record):
        *front, last = place
        for key in front:
            record = record[key]
        record[last] = value

    edit_json(bundle_copy / "profile.json", change)
    reseal(bundle_copy)
    assert what in quick(lambda: nas.verify(bundle_copy))


@pytest.mark.parametrize("name", ["environment.json", "study.db", "config.yaml", ".lock", "report.html", "leaderboard.csv"])
def test_links_in_a_run_are_refused(name, run_copy, tmp_path, cli):
    target = tmp_path / "target"
    if (run_copy / name).exists():
        shutil.move(run_copy / name, target)
    else:
        target.write_text("kept")
    before = target.read_bytes()
    (run_copy / name).symlink_to(target)
    for command in ("report", "status"):
        code, _, error = cli(command, run_copy)
        assert (code, f"{name}: is a link" in error) == (2, True)
    assert target.read_bytes() == before


def test_pipe_in_a_run_is_refused(run_copy, cli):
    (run_copy / "environment.json").unlink()
    os.mkfifo(run_copy / "environment.json")
    assert "environment.json: is not a regular file" in cli("report", run_copy)[2]


@pytest.mark.parametrize("name", ["bundles", "best"])
def test_linked_bundles_of_a_run_are_not_read(name, run_copy, tmp_path, cli):
    (best,) = (run_copy / "bundles").glob("1-*")
    place = run_copy / "bundles" if name == "bundles" else best
    shutil.move(place, tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    _, out, error = cli("status", run_copy)
    assert "is a link" in (error if name == "bundles" else out)


def test_planted_partial_file_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / f".report.html.{os.getpid()}.partial").symlink_to(victim)
    (tmp_path / "report.html").symlink_to(victim)
    write_atomic(tmp_path / "report.html", "new")
    assert victim.read_text() == "kept"
    assert not (tmp_path / "report.html").is_symlink()


@pytest.mark.parametrize(
    "text", ['a: !!int ""', "a: !!float x", "a: !!bool foo", "a: !!timestamp x", "a: !!set [a]", "a: !x 1"]
)
def test_tags_are_refused(text, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match="must hold no tag"):
        load_untrusted_config(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="must hold no tag"):
        load_config(tmp_path / "config.yaml")


def test_download_makes_no_folder(tmp_path):
    with pytest.raises(DataError, match="no such folder; create it"):
        open_test(DataConfig(name="mnist", path=str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()


def test_file_name_with_an_escape_sequence_is_printed_harmless(bundle_copy, cli):
    (bundle_copy / "\x1b[2Jx[red]").write_text("")
    code, out, _ = cli("verify", bundle_copy)
    assert code == 2
    assert "\x1b" not in out
    assert "[2Jx[red]" in out


def set_attribute(run, name, value):
    """Changes an attribute of the first trial in the study of a run."""
    with closing(sqlite3.connect(run / "study.db")) as database, database:
        command = "update trial_user_attributes set value_json = ? where key = ? and trial_id = 1"
        assert database.execute(command, (json.dumps(value), name)).rowcount == 1


def test_texts_of_a_study_are_printed_harmless(run_copy, cli):
    set_attribute(run_copy, "key", "\x1b[2J[red]key")
    set_attribute(run_copy, "metrics", {"adversarial_error": 0.0, "clean_error": 0.0, "=cmd()": 1.0})
    code, out, _ = cli("status", run_copy)
    assert code == 0
    assert "\x1b" not in out
    assert "[2J[red]key" in out
    (run_copy / "leaderboard.csv").unlink()
    nas.report(run_copy)
    assert ",'=cmd()," in (run_copy / "leaderboard.csv").read_text().splitlines()[0]
    assert "\x1b" not in (run_copy / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metrics", [1]),
        ("metrics", {"clean_error": "x"}),
        ("key", 3),
        ("seconds", "x"),
        ("architecture", 1),
        ("epochs", [1]),
    ],
)
def test_attributes_of_another_type_are_refused(name, value, run_copy, cli):
    set_attribute(run_copy, name, value)
    for command in ("status", "report"):
        code, _, error = cli(command, run_copy)
        assert (code, f"trial 0 has attributes of a wrong type: {name}" in error) == (2, True)
