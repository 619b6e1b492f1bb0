"""`hardcell compare`: measurements, printed output, pictures, files and error messages."""

import errno
import json
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from evaluators import FGSM, FMN, L2, PGD, AutoAttack, Linf, compare, compare_radii, fit_power_law, radii, worst_case
from evaluators.attacks import HopSkipJump, Square
from evaluators.curves.power_law import law_record
from evaluators.regions import Sampling, disagreement
from evaluators.transferability.matrix import TooFewImagesError, transfer_matrix
from nas.analysis.compare.compare import common_grid, compare_networks
from nas.analysis.compare.config import CompareConfig, default_attacks, parse_compare_config
from nas.analysis.compare.crafting import crafting_attacks
from nas.analysis.compare.figures import compare_figures
from nas.analysis.compare.result import NoTransfer, as_record
from nas.analysis.network_source import open_source
from nas.analysis.networks import open_network
from nas.bundle.manifest import digest_of
from nas.cli.compare_options import compare_config
from nas.data import open_data, open_test
from nas.data.config import DataConfig

OWN = """
import torch
from torch import nn


def linear(seed, classes=10, channels=1):
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(channels * 64, classes)
    weights = WEIGHTS(classes, channels).items()
    layer.load_state_dict({n: value + SIZE * torch.randn(value.shape, generator=generator) for n, value in weights})
    return nn.Sequential(nn.Flatten(), layer)


SIZE = 0.3


def WEIGHTS(classes, channels):
    if (classes, channels) == (10, 1):
        return torch.load(__file__.replace("nets.py", "weights.pt"), weights_only=True)
    return {"weight": torch.zeros(classes, channels * 64), "bias": torch.zeros(classes)}


def a():
    return linear(1)


def b():
    return linear(2)


def c():
    return linear(3)


def twelve():
    return linear(1, classes=12)


def colour():
    return linear(1, channels=3)


def wrong():
    # Misclassifies almost all digits, because it predicts the next class.
    return nn.Sequential(linear(1), Roll())


class Roll(nn.Module):
    def forward(self, x):
        return x.roll(1, 1)


class Breaks(nn.Module):
    def forward(self, x):
        if len(x) > 3:
            raise RuntimeError("a broken layer\\nand a second line")
        return x


def breaks():
    return nn.Sequential(linear(1), Breaks())


def interrupted():
    raise KeyboardInterrupt


class Halves(nn.Module):
    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place

    def forward(self, x):
        return x.mul_(0.5) if self.in_place else x * 0.5


def plain():
    return nn.Sequential(Halves(False), linear(1))


def plain_too():
    return nn.Sequential(Halves(False), linear(2))


def in_place():
    return nn.Sequential(Halves(True), linear(1))


def in_place_too():
    return nn.Sequential(Halves(True), linear(2))


class Classes(nn.Module):
    def forward(self, x):
        return nn.functional.one_hot(x.argmax(1), 10)


def classes():
    return nn.Sequential(linear(1), Classes())
"""
QUICK = ("--data", "digits", "--images", "60", "--attack", "fgsm", "--device", "cpu")
THREE = ("nets.py:a", "nets.py:b", "nets.py:c")


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """A folder with linear networks for digits: one ridge regression plus different noise, so most predictions agree."""
    folder = tmp_path_factory.mktemp("nets")
    train = open_data(DataConfig()).train
    x = torch.cat([train.x.flatten(1), torch.ones(len(train.x), 1)], 1).double()
    solved = torch.linalg.solve(x.T @ x + torch.eye(65), x.T @ nn.functional.one_hot(train.y).double()).float()
    torch.save({"weight": 10 * solved[:-1].T.contiguous(), "bias": 10 * solved[-1]}, folder / "weights.pt")
    (folder / "nets.py").write_text(OWN, encoding="utf-8")
    return folder


@pytest.fixture
def here(nets, monkeypatch):
    """The folder of networks as the working directory."""
    monkeypatch.chdir(nets)
    return nets


@pytest.fixture(scope="module")
def compared(nets):
    """A comparison of three networks under three attacks at two epsilons."""
    sources = [f"{nets}/nets.py:{name}" for name in "abc"]
    # The weakest attack comes last. The worst case must still count the stronger attacks before it.
    attacks = {"pgd": PGD(steps=3), "fgsm": FGSM(), "fmn": FMN(steps=1)}
    config = CompareConfig(attacks=attacks, epsilons=(0.05, 0.02), images=120, device="cpu")
    return compare_networks(sources, config, names=["first", "second", "third"])


@pytest.fixture
def refused(here, refused):
    """Runs `hardcell compare`, which must fail, in the folder of networks; returns stderr."""
    return partial(refused, "compare")


# Measurements.


def test_radii_are_the_worst_case_over_the_attacks_on_one_grid(compared, nets):
    test = open_test(DataConfig()).first(120)
    assert (compared.names, compared.n, compared.norm) == (("first", "second", "third"), 120, "linf")
    assert compared.epsilons == (0.02, 0.05)
    assert {0.02, 0.05} <= set(compared.grid)
    for name, source in compared.sources.items():
        network = open_network(source)
        of_attacks = [radii(network, test.x, test.y, attack, compared.grid).numpy() for attack in compared.attacks.values()]
        assert np.array_equal(compared.radii[name], worst_case(of_attacks))


def test_tests_are_those_of_every_pair_and_corrected_for_their_number(compared):
    pairs = [("first", "second"), ("first", "third"), ("second", "third")]
    assert [(one.first, one.second) for one in compared.over_all] == pairs
    assert [(one.epsilon, one.first, one.second) for one in compared.at_epsilon] == [
        (epsilon, *pair) for epsilon in (0.02, 0.05) for pair in pairs
    ]
    for one in (*compared.at_epsilon, *compared.over_all):
        r = compared.radii[one.first], compared.radii[one.second]
        assert one.test == (compare_radii(*r) if one.epsilon is None else compare(*r, one.epsilon))
    # Holm's correction of n tests: the smallest p-value times n, the next times n - 1, each at least the one before.
    for tests in (compared.at_epsilon, compared.over_all):
        largest = 0.0
        for place, one in enumerate(sorted(tests, key=lambda one: one.test.p_value)):
            largest = max(largest, (len(tests) - place) * one.test.p_value)
            assert one.corrected == pytest.approx(min(1, largest))


def test_a_verdict_goes_by_the_corrected_p_value(compared):
    one = replace(compared.at_epsilon[0], test=compare(np.ones(40), np.r_[np.zeros(8), np.ones(32)], 0.5), corrected=0.2)
    assert one.test.verdict() == "more robust"
    assert one.verdict == "not distinguishable"
    assert replace(one, corrected=0.04).verdict == "more robust"


def test_transfer_is_measured_with_every_attack_that_runs_to_its_end(compared, nets):
    test = open_test(DataConfig()).first(120)
    networks = {name: open_network(source) for name, source in compared.sources.items()}
    assert list(compared.transfers) == ["pgd", "fgsm"]
    for name, matrix in compared.transfers.items():
        again = transfer_matrix(networks, test.x, test.y, compared.attacks[name], [0.02, 0.05])
        assert np.array_equal(matrix.fooled, again.fooled)
        assert matrix.fooled.any()
        assert np.array_equal(matrix.index, again.index)


def test_attacks_that_stop_where_they_fool_craft_nothing():
    pgd, fmn = PGD(steps=3), FMN()
    assert crafting_attacks({"fmn": fmn, "mine": pgd}) == {"mine": pgd}
    assert crafting_attacks({"fmn": FMN(norm=L2())}) == {"pgd": PGD(norm=L2())}
    assert crafting_attacks({"strong": AutoAttack()}) == {"pgd": PGD()}
    hop = {"hop": HopSkipJump(norm=L2())}
    assert crafting_attacks(hop, gradients=False) == {"square": Square(norm=L2(), queries=1000)}


def test_disagreement_is_measured_around_the_first_images_at_multiples_of_the_first_epsilon(compared, nets):
    test = open_test(DataConfig()).first(120)
    networks = [open_network(source) for source in compared.sources.values()]
    again = disagreement(networks, test.x[:50], Linf(), [0, 0.025, 0.05, 0.1], sampling=Sampling(samples=40))
    assert compared.disagreement.counts.shape == (50, 4)
    assert vars(compared.disagreement).keys() == vars(again).keys()
    assert all(np.array_equal(value, vars(again)[name]) for name, value in vars(compared.disagreement).items())
    # Radius 0: votes of the networks at the images themselves.
    votes = np.array([network(test.x[:50]).argmax(1).numpy() for network in networks])
    assert compared.disagreement.mean_share[0] == pytest.approx((votes != votes[0]).any(0).mean())
    assert 0 < compared.disagreement.mean_share[0] < compared.disagreement.mean_share[-1]


def test_balls_are_no_larger_than_the_pixel_range(here):
    config = CompareConfig(attacks={"fgsm": FGSM()}, epsilons=(0.7,), images=20, seed=5, device="cpu")
    measured = compare_networks(THREE[:2], config).disagreement
    assert measured.epsilons.tolist() == [0, 0.35, 0.7, 1]
    assert measured.counts.shape == (20, 4)


def test_the_grid_suits_every_network_and_holds_the_epsilons_asked_for():
    first_order = {"weak": np.linspace(0.001, 0.01, 200), "strong": np.linspace(0.1, 0.5, 200)}
    grid = common_grid(first_order, 1.0, [0.03, 0.2])
    assert grid == sorted(set(grid))
    assert grid[0] < 0.002
    assert grid[-1] >= 0.6
    assert [epsilon for epsilon in grid if 0.19 < epsilon < 0.21] == [0.2]  # Grid points near 0.2 are dropped.
    assert 0.03 in grid


def test_default_epsilons_include_those_of_the_searches(finished_run, nets):
    (bundle,) = (finished_run / "bundles").glob("1-*")
    config = CompareConfig(attacks={"fgsm": FGSM()}, images=60, device="cpu")
    comparison = compare_networks([str(bundle), f"{nets}/nets.py:a"], config)
    assert 0.05 in comparison.epsilons
    assert 1 < len(comparison.epsilons) <= 4
    assert set(comparison.epsilons) <= set(comparison.grid)
    # The search's epsilon is not used in another norm.
    comparison = compare_networks([str(bundle), f"{nets}/nets.py:a"], replace(config, attacks={"fgsm": FGSM(norm=L2())}))
    assert min(comparison.epsilons) > 0.05


def test_the_record_is_json_and_holds_what_was_found(compared):
    record = json.loads(json.dumps(as_record(compared), allow_nan=False))
    assert record["schema"] == "hardcell-comparison/1"
    assert list(record["networks"]) == ["first", "second", "third"]
    for name, r in compared.radii.items():
        assert [np.inf if value is None else value for value in record["radii"][name]] == r.tolist()
        place = record["grid"].index(0.05)
        assert record["curves"][name]["error"][place] == pytest.approx((r <= 0.05).mean())
    parted = record["disagreement"]
    assert (parted["images"], parted["samples"], parted["epsilons"]) == (50, 40, [0, 0.025, 0.05, 0.1])
    assert parted["counts"] == compared.disagreement.counts.tolist()
    assert parted["mean_entropy_interval"] == compared.disagreement.mean_entropy_interval.tolist()
    matrix, recorded = compared.transfers["pgd"], record["transfer"]["pgd"]
    assert recorded["among_all"]["counts"] == matrix.fooled.sum(-1).tolist()
    assert recorded["images"] == matrix.index.tolist()
    assert {(one["source"], one["epsilon"]) for one in recorded["reach"]} == {
        (n, e) for n in matrix.names for e in (0.02, 0.05)
    }
    assert record["tests_over_all"][0]["corrected_p_value"] == compared.over_all[0].corrected
    assert record["attacks"]["pgd"]["steps"] == 3
    for name, law in record["power_laws"].items():
        assert law == json.loads(json.dumps(law_record(fit_power_law(compared.radii[name], compared.grid))))


# Printed output, pictures and files.


def test_tables_of_errors_tests_and_transfer(here, cli):
    names = ("--name", "a [b]", "--name", "b", "--name", "c")
    code, out, err = cli("compare", *THREE, *QUICK, "--epsilon", "0.02", "--epsilon", "1/20", *names)
    assert (code, err) == (0, "")
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in out.splitlines() if line[:1] in ("│", "┃")]
    heads = [row for row in rows if row[0] in ("network", "first", "crafted on", "source")]
    assert heads[0] == [
        "network",
        "clean error",
        "error at 0.02",
        "error at 0.05",
        "median radius",
        "exponent of the power law",
    ]
    assert heads[2] == ["crafted on", "fools a [b]", "fools b", "fools c"]
    tests = [row for row in rows if row[0] == "a [b]" and row[1] in ("b", "c") and len(row) == 6]
    assert [row[2] for row in tests] == ["0.02", "0.02", "0.05", "0.05", "all", "all"]
    assert {row[5] for row in tests} <= {"more robust", "less robust", "not distinguishable"}
    cells = [cell for row in rows if len(row) == 4 and row[0] in ("a [b]", "b", "c") for cell in row[1:]]
    assert len(cells) == 18
    own = r"\d+: \d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]"
    assert sum(bool(re.fullmatch(own, cell)) for cell in cells) == 6
    assert sum(bool(re.fullmatch(own + r" \(\d+ of \d+\)", cell)) for cell in cells) == 12
    reach = (
        r"^at epsilon 0\.05: over all 3 source networks, \d+ of \d+ adversarial images that fool .* fool both other networks"
    )
    assert re.search(reach + r" as well; \d+\.\d would be expected if these networks were fooled independently$", out, re.M)
    assert re.search(r"^disagreement: .*\b40 random points .*L∞.* 50 clean images", out, re.M)
    table = rows[rows.index(["epsilon", "share", "vote entropy, nats"]) + 1 :]
    assert [row[0] for row in table] == ["0", "0.01", "0.02", "0.04"]
    assert all(re.fullmatch(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", cell) for row in table for cell in row[1:])
    assert "\x1b" not in out


def test_without_fooled_images_no_share_is_computed(here, cli):
    code, out, err = cli("compare", *THREE[:2], *QUICK, "--epsilon", "1e-6")
    assert (code, err) == (0, "")
    assert "at epsilon 1e-06: no adversarial image fools its source network" in out
    assert "nan" not in out


def test_with_too_few_correct_images_everything_but_transfer_is_measured(here, cli, tmp_path, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("transfer is not to be tried")

    monkeypatch.setattr("nas.analysis.compare.compare.transfer_matrix", never)
    networks, folder = ("nets.py:a", "nets.py:wrong"), tmp_path / "compared"
    code, out, err = cli("compare", *networks, *QUICK, "--epsilon", "0.05", "--out", folder)
    assert (code, err) == (0, "")
    reason = "only 0 of 60 images"
    assert f"transfer by fgsm: not measured: {reason}" in out
    assert "at least 10" in out
    assert re.search(r"nets.py:a +│ nets.py:wrong +│ all +│", out)
    record = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    assert record["transfer"]["fgsm"]["reason"].startswith(reason)
    assert record["curves"]["nets.py:wrong"]["clean_error"] > 0.9
    assert "not measured: only 0 of 60" in (folder / "transfer_fgsm.svg").read_text(encoding="utf-8")
    assert not (folder / "reach_fgsm.svg").exists()


def test_too_few_correct_images_by_rounding_leave_out_only_transfer(here, monkeypatch):
    def few(*args, **kwargs):
        raise TooFewImagesError("only 9 of 60 images")

    monkeypatch.setattr("nas.analysis.compare.compare.transfer_matrix", few)
    config = CompareConfig(attacks={"fgsm": FGSM()}, epsilons=(0.05,), images=60, device="cpu")
    comparison = compare_networks(THREE[:2], config)
    assert comparison.transfers == {"fgsm": NoTransfer("only 9 of 60 images")}
    assert len(comparison.over_all) == 1


def test_out_holds_the_record_and_pictures_and_is_never_overwritten(here, cli, refused, tmp_path):
    folder = tmp_path / "new" / "compared"
    code, out, _ = cli("compare", *THREE, *QUICK, "--epsilon", "0.05", "--seed", "3", "--out", folder)
    assert code == 0
    assert out.splitlines()[-1] == f"comparison: {folder}"
    names = ("error_curves", "transfer_fgsm", "reach_fgsm", "disagreement")
    assert {path.name for path in folder.iterdir()} == {"compare.json", *(f"{n}.{s}" for n in names for s in ("svg", "png"))}
    record = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    assert (record["n"], record["seed"], record["epsilons"]) == (60, 3, [0.05])
    assert list(record["networks"]) == list(THREE)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    message = refused(*THREE, *QUICK, "--out", folder)
    assert "holds a comparison already; name another folder, or remove this one" in message
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_json_is_the_record_and_nothing_else(here, cli):
    code, out, err = cli("compare", *THREE[:2], *QUICK, "--epsilon", "0.05", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["schema"] == "hardcell-comparison/1"


def test_pictures_are_whole(compared):
    long = dict(zip(("n" * 90, "1-05d4740bf3b4", "a $x_1$ name"), compared.sources.values(), strict=True))
    matrix = compared.transfers["pgd"]
    rename = dict(zip(compared.names, long, strict=True))
    comparison = replace(
        compared,
        sources=long,
        radii={rename[name]: r for name, r in compared.radii.items()},
        transfers={"pgd": replace(matrix, names=tuple(long), epsilons=matrix.epsilons[:1], fooled=matrix.fooled[:1])},
    )
    drawn = compare_figures(comparison)
    assert {Path(name).stem for name in drawn} == {"error_curves", "transfer_pgd", "reach_pgd", "disagreement"}
    for name, picture in drawn.items():
        if name.endswith(".svg"):
            assert ElementTree.fromstring(picture).tag.endswith("svg")
        else:
            assert picture[:8] == b"\x89PNG\r\n\x1a\n"
            width, height = struct.unpack(">II", picture[16:24])
            assert 500 < width < 2500
            assert 300 < height < 2500


def test_the_reason_in_the_place_of_a_picture_holds_any_name(compared):
    drawn = compare_figures(replace(compared, transfers={"pgd": NoTransfer(r"too few: a $\frac$ name" + 40 * " and more")}))
    assert r"too few: a $\frac$ name and" in drawn["transfer_pgd.svg"].decode()
    assert drawn["transfer_pgd.png"][:4] == b"\x89PNG"


def test_pictures_are_the_same_each_time(compared):
    comparison = replace(compared, transfers={})
    drawn = compare_figures(comparison)
    assert compare_figures(comparison) == drawn
    assert {Path(name).stem for name in drawn} == {"error_curves", "disagreement"}


def test_disk_full_is_reported(here, refused, monkeypatch, tmp_path):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    message = refused(*THREE[:2], *QUICK, "--epsilon", "0.05", "--out", tmp_path / "full")
    assert "error_curves.svg: cannot be written: No space left on device" in message
    assert not (tmp_path / "full" / "compare.json").exists()


def test_ctrl_c_says_that_nothing_is_kept(here, cli, tmp_path):
    code, out, err = cli("compare", "nets.py:a", "nets.py:interrupted", *QUICK, "--out", tmp_path / "compared")
    assert (code, out) == (130, "")
    assert "interrupted" in err
    assert not (tmp_path / "compared").exists()


def test_help_imports_nothing_heavy():
    script = (
        "import sys; sys.argv = ['hardcell', 'compare', '--help']\n"
        "import atexit; from nas.cli import main\n"
        "heavy = {'torch', 'optuna', 'numpy', 'matplotlib', 'rich', 'yaml'}\n"
        "atexit.register(lambda: print('heavy:', *sorted(heavy & set(sys.modules))))\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("Usage: hardcell compare ")
    assert done.stdout.splitlines()[-1] == "heavy:"


# Bundles.


def changed(bundle, folder, **data):
    """Returns a copy of a bundle whose manifest has other data settings."""
    copy = Path(shutil.copytree(bundle, folder / "other"))
    record = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    record["config"]["data"].update(data)
    record["digest"] = digest_of(record)
    (copy / "manifest.json").write_text(json.dumps(record), encoding="utf-8")
    return copy


def test_bundles_are_compared_on_the_images_of_their_searches(finished_run, here, cli):
    bundles = sorted((finished_run / "bundles").iterdir())
    assert len(bundles) > 1
    arguments = ("--attack", "fgsm", "--images", 60, "--device", "cpu", "--json", "--epsilon", "0.05")
    code, out, err = cli("compare", *bundles, "nets.py:a", *arguments)
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert list(record["networks"]) == [*(bundle.name for bundle in bundles), "nets.py:a"]
    assert record["data"] == "digits"


def test_bundles_of_different_data(bundle_copy, tmp_path, refused):
    other = changed(bundle_copy, tmp_path, name="cifar10")
    message = refused(bundle_copy, other, "--attack", "fgsm")
    assert re.search(r"different data.*--data", message)
    assert f"{other}: name cifar10, test 0.25, split_seed 0" in message
    shutil.rmtree(other)
    other = changed(bundle_copy, tmp_path, split_seed=7)
    assert f"{other}: name digits, test 0.25, split_seed 7" in refused(bundle_copy, other, "--attack", "fgsm")


def test_how_many_images_were_trained_on_makes_no_difference(bundle_copy, tmp_path, refused):
    other = changed(bundle_copy, tmp_path, limit=50, validation=0.5)
    # The check of the data passes, so the error is that of the epsilon.
    assert "in pixel units (8/255, not 8)" in refused(bundle_copy, other, "--epsilon", "8")


def test_the_same_bundle_twice(bundle_copy, refused, monkeypatch):
    assert f"{bundle_copy}: is given twice; name each network once" in refused(bundle_copy, bundle_copy)
    other = f"{bundle_copy.parent}/./{bundle_copy.name}/"
    assert f"{other}: is given twice, also as {bundle_copy}" in refused(bundle_copy, other)


def test_the_folder_of_a_run(finished_run, refused):
    (bundle,) = (finished_run / "bundles").glob("1-*")
    message = refused(finished_run, bundle)
    assert re.search(rf"{finished_run}: is a run, not a bundle; .*{finished_run}/bundles/", message)


# Realistic mistakes.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'NETWORK NETWORK...'"),
        (["nets.py:a", *QUICK], "nets.py:a: a comparison needs at least two networks"),
        (["nets.py:a", "./nets.py:a", *QUICK], "./nets.py:a: is given twice, also as nets.py:a; name each network once"),
        (["nets.py:a", "none.pt2", *QUICK], "none.pt2: no such file or folder"),
        (["nets.py:a", "nets.py:b"], "--data must be given if no network is a bundle: digits, mnist"),
        (["nets.py:a", "nets.py:colour", *QUICK], "nets.py:colour: cannot take the images of digits, 1 x 8 x 8"),
        (["nets.py:a", "nets.py:twelve", *QUICK], "different numbers of logits: nets.py:a has 10, nets.py:twelve has 12"),
        (["nets.py:a", "nets.py:breaks", *QUICK], "nets.py:breaks: cannot be measured: a broken layer"),
        ([*THREE, *QUICK, "--epsilon", "8"], "epsilons must hold epsilons above 0 in pixel units (8/255, not 8), got [8.0]"),
        ([*THREE, *QUICK, "--epsilon", "0"], "epsilons must hold epsilons above 0"),
        ([*THREE, *QUICK, "--epsilon", "eight"], "compare: epsilons[0] must be a number, got 'eight'"),
        (
            [*THREE, *QUICK[:4], "--attack", "{name: pgd, norm: l2}", "--epsilon", "8.5"],
            "epsilon must be between 0 and 8, the size of the pixel range in this norm, got 8.5",
        ),
        (
            [*THREE, *QUICK, "--attack", "{name: pgd, norm: l2}"],
            "compare: attacks must share one norm, because their radii are compared; got linf and l2",
        ),
        (
            [*THREE, *QUICK[:4], "--attack", "{name: pgd, norm: l1}"],
            "compare: attacks must be in linf or l2, because random points of balls are compared, too; got l1",
        ),
        ([*THREE, *QUICK, "--attack", "pdg"], "compare: attacks.pdg must be one of fgsm"),
        ([*THREE, *QUICK, "--images", "0"], "compare: images must be at least 1, got 0"),
        ([*THREE, *QUICK, "--name", "a"], "--name must be given for each network or for none: 3 networks, 1 names"),
        ([*THREE, *QUICK, "--name", "", "--name", "b", "--name", "c"], "--name must not be empty, got ''"),
        ([*THREE, *QUICK, *("--name", "a") * 3], "--name a: must be unique"),
        ([*THREE, *QUICK, "--device", "tpu"], "device must be one that this machine has, got 'tpu'"),
        ([*THREE, *QUICK, "--data", "digts"], "data.name must be one of digits"),
    ],
)
def test_wrong_input(arguments, message, refused, tmp_path):
    assert message in refused(*arguments, "--out", tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_settings_are_plain_data_too():
    config = parse_compare_config(yaml.safe_load("{data: {name: digits}, attacks: {a: fgsm}, epsilons: [8/255], images: 5}"))
    assert (config.epsilons, config.images, config.attacks) == ((8 / 255,), 5, {"a": FGSM()})


def test_default_attacks_are_of_the_norm_of_the_searches(bundle_copy):
    options = {"data": None, "attacks": (), "epsilons": (), "images": None, "seed": None, "device": None}
    source = open_source(bundle_copy)

    def attack_norms(*norms):
        sources = [replace(source, norm=norm) for norm in norms]
        return {name: attack.norm.name for name, attack in compare_config(sources, options).attacks.items()}

    assert attack_norms("linf", "linf") == {"fgsm": "linf", "pgd": "linf", "fmn": "linf"}
    assert attack_norms("l2", "l2") == {"fgsm": "l2", "pgd": "l2", "fmn": "l2"}
    assert attack_norms("l2", "linf") == {"fgsm": "linf", "pgd": "linf", "fmn": "linf"}
    assert default_attacks("linf") == CompareConfig().attacks


def test_a_network_that_normalises_in_place_is_compared_as_any_other(here, cli):
    record = {}
    for kind in ("plain", "in_place"):
        code, out, err = cli("compare", f"nets.py:{kind}", f"nets.py:{kind}_too", *QUICK, "--epsilon", "0.1", "--json")
        assert (code, err) == (0, "")
        record[kind] = json.loads(out)
    for part in ("curves", "tests_at_epsilon", "transfer", "disagreement"):
        plain, in_place = (json.dumps(record[kind][part]).replace("in_place", "plain") for kind in ("plain", "in_place"))
        assert plain == in_place


def test_classes_are_no_logits(here, refused):
    assert "the network must return floating-point logits, got torch.int64" in refused(
        "nets.py:classes", "nets.py:plain", *QUICK, "--epsilon", "0.1"
    )
