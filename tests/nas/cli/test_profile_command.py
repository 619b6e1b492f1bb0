"""`hardcell profile` and `hardcell check-table`: output streams, messages and exit codes."""

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from evaluators import FGSM, describe, load_profile, radii
from nas.analysis.network_source import NetworkSource
from nas.analysis.networks import open_network
from nas.cli.profile_options import profile_config
from nas.config.schema import FinalistsConfig
from nas.data import open_test
from nas.data.config import DataConfig
from nas.data.sources import SOURCES
from nas.errors import ConfigError

ROOT = Path(__file__).parents[3]
QUICK = ("--data", "digits", "--images", "60", "--attack", "fgsm", "--device", "cpu")


@pytest.fixture
def profiled(here, cli):
    """Runs `hardcell profile` in the folder of networks; returns the record."""

    def run(*arguments):
        code, out, err = cli("profile", *arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return run


@pytest.fixture
def refused(here, refused):
    """Runs a command that must fail, in the folder of networks; returns stderr."""
    return refused


# The networks.


@pytest.mark.parametrize("network", ["own.py:network", "own:NETWORK", "scripted.pt", "traced.pth", "graph.pt2"])
def test_every_kind_of_network_is_profiled(network, profiled):
    record = profiled(network, *QUICK, "--epsilon", "0.02", "--epsilon", "8/255")
    assert (record["dataset"], record["n"], record["clean_error"]) == ("digits", 60, pytest.approx(2 / 60))
    assert record["attacks"]["fgsm"]["epsilons"] == [0.02, 8 / 255]
    test = open_test(DataConfig()).first(60)
    expected = radii(open_network("own.py:network"), test.x, test.y, FGSM(), [0.02, 8 / 255]).numpy()
    assert record["attacks"]["fgsm"]["error"] == [float((expected <= epsilon).mean()) for epsilon in (0.02, 8 / 255)]
    assert 2 / 60 < record["attacks"]["fgsm"]["error"][1] < 1


def test_a_bundle_is_profiled_on_the_images_of_its_search(finished_run, cli):
    (bundle,) = (finished_run / "bundles").glob("1-*")
    code, out, err = cli("profile", bundle, "--attack", "fgsm", "--images", 60, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["clean_error"] == load_profile(bundle).record["clean_error"]


def test_the_example_of_the_readme(cli):
    example = f"{ROOT}/examples/custom_network.py"
    code, out, _ = cli("profile", f"{example}:network", *QUICK, "--json")
    assert code == 0
    assert json.loads(out)["clean_error"] < 0.1
    out = cli("profile", f"{example}:with_softmax", *QUICK)[1]
    assert out.startswith("FAILED CHECKS: logits_not_probabilities, enough_images. ")


# Printed output.


def test_the_union_of_norms_is_measured_and_printed(here, cli, profiled):
    attacks = ("--attack", "{name: fmn, norm: l1, steps: 20}", "--union", "{linf: 8/255, l1: 1}")
    record = profiled("own.py:network", *QUICK, *attacks)
    assert record["union"]["epsilons"] == {"linf": 8 / 255, "l1": 1.0}
    entries = zip(record["attacks"].values(), (8 / 255, 1.0), strict=True)
    each = [entry["error"][entry["epsilons"].index(size)] for entry, size in entries]
    assert max(each) <= record["union"]["error"] <= sum(each)
    _, out, _ = cli("profile", "own.py:network", *QUICK, *attacks)
    low, high = record["union"]["interval"]
    expected = f"adversarial error over the union of L∞ 8/255, L1 1: {record['union']['error']:.3f} [{low:.3f}, {high:.3f}]"
    assert expected in out.splitlines()


def test_headline_then_a_table_then_the_checks_that_failed(here, cli):
    code, out, err = cli("profile", "own.py:softmax", *QUICK, "--attack", "pgd", "--epsilon", "0.05", "--epsilon", "0.1")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("FAILED CHECKS: logits_not_probabilities, ")
    assert re.search(r"clean error 3\.3%, adversarial error \d+\.\d% at linf 0\.1, on 60 images", lines[0])
    (header,) = (line for line in lines if "error at 0.05" in line)
    assert "error at 0.1" in header
    rows = [re.split("[│┃] *", line)[1:4] for line in lines if line.startswith("│")]
    assert [row[0].strip() for row in rows] == ["fgsm", "pgd", "worst case"]
    for _, *errors in rows:
        for error in errors:
            value, low, high = map(float, re.fullmatch(r"(\S+) \[(\S+), (\S+)\] *", error).groups())
            assert 0 <= low <= value <= high <= 1
    reasons = [line for line in lines if line.startswith("no power law for ")]
    assert [line.split()[4] for line in reasons] == ["fgsm:", "pgd:", "worst"]
    assert "2 cells of the grid" in reasons[0]
    failed = [line for line in lines if line.startswith("FAILED ")][1:]
    assert failed[0].startswith("FAILED logits_not_probabilities: ")
    assert re.fullmatch(r"\d+ of \d+ checks passed", lines[-1])
    assert "\x1b" not in out


def test_a_profile_with_a_power_law_and_no_failed_check(here, cli):
    code, out, _ = cli("profile", "own.py:network", "--data", "digits", "--attack", "pgd")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("clean error ")
    assert "449 images" in lines[0]
    (row,) = (line for line in lines if line.startswith("│ pgd"))
    assert re.search(r"│ \d\.\d\d \[\d\.\d\d, \d\.\d\d\] up to 0\.\d+(, saturated)? +│$", row)
    assert "FAILED" not in out
    counted = re.fullmatch(r"(\d+) of (\d+) checks passed", lines[-1])
    assert counted[1] == counted[2]


def test_what_else_was_measured_is_shown(here, cli):
    options = ("--corruptions", "--certify", "0.25", "--transfer", "graph.pt2", "--exact", "--seed", "3")
    code, out, _ = cli("profile", "own.py:network", *QUICK, "--epsilon", "0.1", *options)
    assert code == 0
    assert re.search(r"│ transfer_1 +│ 0\.\d{3} \[", out)
    assert re.search(r"error under common corruptions, \D*0\.\d{3}", out)
    assert "│ gaussian_blur" in out
    assert re.search(r"certified under noise of 0\.25: median L2 radius 0\.\d+", out)
    assert re.search(r"clean images: median margin \d.*, mean entropy .* nats, .*first-order prediction", out)


def test_a_median_radius_beyond_the_epsilons_is_shown_as_a_bound(here, cli):
    _, out, _ = cli("profile", "own.py:network", *QUICK, "--epsilon", "0.01")
    assert "above 0.01" in out


def test_all_epsilons_asked_for_are_shown(here, cli):
    epsilons = ("0.01", "0.02", "0.03", "0.04", "0.05")
    _, out, _ = cli("profile", "own.py:network", *QUICK, *(word for e in epsilons for word in ("--epsilon", e)))
    assert re.findall(r"error at (\d\S+)", out) == list(epsilons)


def test_json_is_the_record_and_nothing_else(profiled):
    record = profiled("own.py:network", *QUICK, "--seed", 7, "--exact", "--corruptions", "--certify", "0.1")
    assert record["schema"].startswith("hardcell-profile/")
    assert (record["seed"], record["tolerance"], record["certificates"]["sigma"]) == (7, 0.01, 0.1)
    assert "corruptions" in record


def test_out_writes_a_profile_that_loads_back_and_is_never_overwritten(here, cli, refused, tmp_path):
    folder = tmp_path / "new" / "profile"
    code, out, _ = cli("profile", "own.py:network", *QUICK, "--out", folder)
    assert code == 0
    assert out.splitlines()[-1] == f"profile: {folder}"
    loaded = load_profile(folder)
    assert loaded.record["n"] == 60
    assert loaded.radii["fgsm"].shape == (60,)
    assert loaded.error_at(0) == loaded.record["clean_error"]
    assert {path.name for path in folder.glob("*.svg")} == {"error_curves.svg", "margins.svg"}
    assert all(path.read_text(encoding="utf-8").startswith("<svg") for path in folder.glob("*.svg"))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert "profile: holds a profile already; name another folder" in refused(
        "profile", "own.py:five", *QUICK, "--out", folder
    )
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_progress_bar_is_shown_on_a_terminal_alone(here, cli, monkeypatch):
    assert cli("profile", "own.py:network", *QUICK)[2] == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich then assumes a terminal.
    code, out, err = cli("profile", "own.py:network", *QUICK, "--json")
    assert code == 0
    assert json.loads(out)["n"] == 60
    for message in ("opening the network", "checks", "100%"):  # A stage shorter than 0.1 s is not drawn.
        assert message in err


def test_ctrl_c_says_that_nothing_is_kept_and_speaks_of_no_run(here, cli, tmp_path):
    code, out, err = cli("profile", "own.py:interrupted", *QUICK, "--out", tmp_path / "profile")
    assert (code, out) == (130, "")
    assert "interrupted" in err
    assert "hardcell resume" not in err
    assert not (tmp_path / "profile").exists()
    # The same folder can then be used.
    assert cli("profile", "own.py:network", *QUICK, "--out", tmp_path / "profile")[0] == 0


def test_disk_full_speaks_of_no_run(refused, monkeypatch, tmp_path):
    def full(path, *args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_text", full)
    err = refused("profile", "own.py:network", *QUICK, "--out", tmp_path / "profile")
    assert "error_curves.svg: cannot be written: No space left on device" in err


# The options.


def options(*attacks, norm=None, epsilons=(), data="digits", **others):
    unset = dict.fromkeys(("union", "images", "certify", "seed", "device"))
    unset |= {"exact": False, "corruptions": False, "transfer": ()}
    source = NetworkSource("net.py:net", nn.Identity())
    typed = {"data": data, "attacks": attacks, "norm": norm, "epsilons": tuple(epsilons)}
    return profile_config(source, {**unset, **typed, **others})


def described(config):
    return {name: describe(attack) for name, attack in config.attacks.items()}


def test_attacks_are_named_by_themselves_or_by_the_user():
    attacks = described(options("pgd", "{name: pgd, steps: 40}", "strong={name: pgd, norm: l2}", "mine=fgsm"))
    assert list(attacks) == ["pgd", "pgd_2", "strong", "mine"]
    assert [attacks[name]["steps"] for name in ("pgd", "pgd_2", "strong")] == [10, 40, 10]
    assert [entry["norm"] for entry in attacks.values()] == ["linf", "linf", "l2", "linf"]


def test_an_attack_of_the_users_own():
    config = options(f"{ROOT}/examples/custom_attack.py:RandomSigns")
    assert list(config.attacks) == ["RandomSigns"]


def test_the_norm_applies_only_to_attacks_given_by_name_alone():
    attacks = described(options("pgd", "{name: fgsm}", norm="l2"))
    assert {name: entry["norm"] for name, entry in attacks.items()} == {"pgd": "l2", "fgsm": "linf"}
    # ddn has a fixed norm.
    assert described(options("ddn"))["ddn"]["norm"] == "l2"


def test_without_attacks_they_are_those_of_finalists_in_the_norm_asked_for():
    assert dict(options().attacks) == dict(FinalistsConfig().attacks)
    every = {"fgsm", "pgd", "fmn"}
    for norm, names in (("linf", every), ("l2", {*every, "ddn"}), ("l1", {"pgd", "fmn", "strong"})):
        attacks = described(options(norm=norm))
        assert {entry["norm"] for entry in attacks.values()} == {norm}
        assert names <= set(attacks)
    assert "ddn" not in options(norm="linf").attacks
    assert "fgsm" not in options(norm="l1").attacks  # FGSM refuses L1.


@pytest.mark.parametrize(
    ("attacks", "norm", "expected"),
    [
        ([], None, {"linf": (8 / 255, 0.25)}),
        ([], "l2", {"l2": (8 / 255, 0.25)}),
        (["pgd", "{name: pgd, norm: l2}"], None, {"linf": (8 / 255, 0.25)}),
        (["{name: pgd, norm: l2}"], None, {"l2": (8 / 255, 0.25)}),
        (["fgsm"], None, {"linf": (8 / 255, 0.25)}),
    ],
)
def test_epsilons_belong_to_the_norm_of_the_attacks(attacks, norm, expected):
    assert options(*attacks, norm=norm, epsilons=["8/255", "0.25"]).epsilons == expected


def test_data_by_name_by_path_or_in_yaml(tmp_path):
    assert options(data="mnist").data.name == "mnist"
    data = options(data="photos.npz").data
    assert (data.name, data.path) == ("npz", "photos.npz")
    data = options(data=str(tmp_path)).data
    assert (data.name, data.path) == ("folder", str(tmp_path))
    data = options(data="{name: digits, test: 0.5}").data
    assert (data.name, data.test) == ("digits", 0.5)


def test_images_of_ones_own_are_profiled(profiled, tmp_path):
    test = open_test(options().data)
    np.savez(tmp_path / "own.npz", x=test.x.numpy(), y=test.y.numpy())
    record = profiled("own.py:network", "--data", tmp_path / "own.npz", "--attack", "fgsm")
    assert (record["dataset"], record["n"]) == ("npz", 112)


def test_all_faults_of_the_options_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        options("fgms", "{name: pgd, stpes: 40}", images=0, seed=-1, certify="lots")
    message = str(caught.value)
    for fault in (
        "did you mean 'fgsm'",
        "did you mean 'steps'",
        "images must be at least 1",
        "seed must be",
        "certify must be",
    ):
        assert fault in message


# Realistic mistakes.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.pt", *QUICK], "hardcell: none.pt: no such file or folder; a network is a bundle's folder"),
        (["weights.pt", *QUICK], "found a pickle (of weights or of a whole module); write a function without arguments"),
        (["own.py:needs", *QUICK], "own.py:needs: must be called without arguments, but needs width"),
        (["own.py:state", *QUICK], "own.py:state: must return a network, an nn.Module, got OrderedDict"),
        (["own.py:colour", *QUICK], "own.py:colour: cannot take the images of digits, 1 x 8 x 8"),
        (["own.py:five", *QUICK], "own.py:five: has 5 logits, but the labels of digits are 0 to 9"),
        (
            ["own.py:network", *QUICK, "--epsilon", "8"],
            "must hold epsilons above 0 in pixel units (8/255, not 8), got [8.0]",
        ),
        (["own.py:network", *QUICK, "--epsilon", "8/25x"], "epsilons.linf[0] must be a number, got '8/25x'"),
        (["own.py:network", *QUICK, "--attack", "pdg"], "attacks.pdg must be one of fgsm, step_ll, pgd"),
        (["own.py:network", *QUICK, "--attack", "pdg"], "got 'pdg'; did you mean 'pgd'?"),
        (
            ["own.py:network", *QUICK, "--attack", "{name: pgd, stpes: 40}"],
            "profile: unknown key attacks.pgd.stpes; did you mean 'steps'?",
        ),
        (["own.py:network", *QUICK, "--attack", "{name: pgd, steps: 0}"], "steps must be at least 1, got 0"),
        (["own.py:network", *QUICK, "--attack", "{name: pgd"], "--attack: not YAML: '{name: pgd'"),
        (["own.py:network", *QUICK, "--attack", "a=fgsm", "--attack", "a=pgd"], "there is another attack named 'a'"),
        (["own.py:network", *QUICK, "--attack", "8"], "attacks.8 must be a name, or a mapping with a name, got 8"),
        (["own.py:network", *QUICK, "--attack", "[pgd]"], "must be a name, or a mapping with a name, got ['pgd']"),
        (["own.py:network", *QUICK, "--attack", "{steps: 4}"], "attacks.attack must have a name"),
        (["own.py:network", *QUICK, "--norm", "l0"], "'l0' is not one of 'linf', 'l2', 'l1'"),
        (
            ["own.py:network", *QUICK, "--attack", "pgd", "--union", "{linf: 8/255}"],
            "profile: union must hold an epsilon for each of at least two norms, got {'linf': 0.0313",
        ),
        (
            ["own.py:network", *QUICK, "--attack", "pgd", "--union", "{linf: 8/255, l2: 1}"],
            "profile: union.l2 has no attack of that norm; the attacks use linf",
        ),
        (
            ["own.py:network", *QUICK, "--attack", "pgd", "--union", "{linf: 8/255, l2: 0}"],
            "profile: union.l2 must be an epsilon above 0 in pixel units (8/255, not 8), got 0",
        ),
        (["own.py:network", *QUICK, "--attack", "pgd", "--union", "0.1"], "profile: union must be a mapping, got 0.1"),
        (["own.py:network", *QUICK, "--device", "tpu"], "device must be one that this machine has, got 'tpu'"),
        (["own.py:network", *QUICK, "--transfer", "none.pt"], "none.pt: no such file or folder"),
        (["own.py:network", "--attack", "fgsm"], "--data must be given for a network that is not a bundle: digits, mnist, "),
        (["own.py:network", "--data", "digts"], "data.name must be one of digits"),
        (["own.py:network", "--data", "none.npz"], "none.npz: no such file"),
        (["own.py:network", "--data", "./photos"], "photos: no such folder"),
        (["own.py:network", "--data", "{name: digits, tets: 0.5}"], "unknown key data.tets; did you mean 'test'?"),
        (["own.py:network", "--imgaes", "3"], "--imgaes"),
        ([], "Missing argument 'NETWORK'"),
    ],
)
def test_wrong_input(arguments, message, refused):
    assert message in refused("profile", *arguments)


def test_every_source_that_needs_no_path_is_named_where_data_are_missing(refused):
    err = refused("profile", "own.py:network")
    assert all(name in err for name in SOURCES)


# Tables.

GOOD = "network,clean,fgsm_2/255,pgd_2/255\na,93.1,61.0,55.2\nb,92.0,60.1,54.0\nc,91.5,58.8,50.9\n"


def test_a_table_in_which_nothing_is_found(cli, tmp_path):
    (tmp_path / "good.csv").write_text(GOOD, encoding="utf-8")
    code, out, err = cli("check-table", tmp_path / "good.csv")
    assert (code, err) == (0, "")
    assert all(line.startswith("passed ") for line in out.splitlines())
    assert "accuracies_in_range: " in out


def test_a_table_with_a_finding_tells_it_first_and_exits_1(cli, tmp_path):
    (tmp_path / "bad.csv").write_text(GOOD.replace("60.1,54.0", "40.1,54.0"), encoding="utf-8")
    code, out, err = cli("check-table", tmp_path / "bad.csv")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert re.match(r"FAILED one_step_never_beats_many: .*in 1 of 3 rows, by up to 13\.9 percentage points", lines[0])
    assert all(line.startswith("passed ") for line in lines[1:])
    code, out, _ = cli("check-table", tmp_path / "bad.csv", "--json")
    record = json.loads(out)
    assert (code, record["passed"]) == (1, False)
    (failed,) = (check for check in record["checks"] if not check["passed"])
    assert failed["name"] == "one_step_never_beats_many"
    assert "in 1 of 3 rows" in failed["sentence"]
    assert failed["evidence"]["of"] == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "table.csv: no such file"),
        ("", "table.csv: must hold a header and at least one row, got an empty file"),
        ("a,b\n1,2\n", "table.csv, line 1: no accuracy columns among a, b"),
        ("clean,pgd_1\n90,4\n91\n", "table.csv, line 3: must have 2 cells"),
        ("clean,pgd_1\n90,x\n", "table.csv, line 2: pgd_1 must be a number, got 'x'"),
    ],
)
def test_what_is_no_table(content, message, refused, tmp_path):
    if content is not None:
        (tmp_path / "table.csv").write_text(content, encoding="utf-8")
    assert message in refused("check-table", tmp_path / "table.csv")


def test_a_folder_is_no_table(refused, tmp_path):
    assert "Is a directory" in refused("check-table", tmp_path)


def test_slopes_of_a_table_are_printed_below_the_checks(cli, tmp_path):
    text = "network,clean,pgd_1/255,pgd_2/255,pgd_4/255\na,100,99,96,84\nb,50,45,40,30\nc,100,20,10,5\n"
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    code, out, _ = cli("check-table", tmp_path / "table.csv")
    assert code == 0
    assert out.splitlines()[-1] == (
        "slope of ln(flip rate) over ln(epsilon), pgd L∞, epsilon 1/255 to 4/255: median 1.50, 5 % to 95 % of the rows "
        "1.05 to 1.95 (2 of 3 rows with 3 rates above 0 and at most 0.5)"
    )
    (record,) = json.loads(cli("check-table", tmp_path / "table.csv", "--json")[1])["slopes"]
    assert record["slopes"][:2] == pytest.approx([2, 1])
    assert record["slopes"][2] is None


def test_the_published_table_of_nas_bench_201(cli, shared_data):
    code, out, _ = cli("check-table", shared_data / "nasbench201-robustness.csv.gz")
    assert code == 1
    # The rows whose accuracy under FGSM is more than 0.1 points below that under PGD, counted independently.
    assert "in 15,268 of 15,625 rows" in out
