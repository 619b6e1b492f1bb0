"""Profiles of any network: settings, compatibility checks, and equality with the evaluators' profile."""

import re

import numpy as np
import pytest

from evaluators import FGSM, L2, PGD, ProfileOptions, load_profile, profile
from nas.analysis.network_source import open_source
from nas.analysis.networks import open_network
from nas.analysis.profile import ProfileConfig, parse_profile_config, profile_network
from nas.config.schema import FinalistsConfig
from nas.data import open_test
from nas.data.config import DataConfig
from nas.errors import ConfigError, DataError, NetworkError, RunError

DIGITS = {"name": "digits"}


@pytest.fixture
def measured(network_folder):
    """Profiles a network of the folder with few images and custom settings."""

    def run(name="own.py:network", progress=None, **settings):
        settings = {"data": DIGITS, "attacks": {"fgsm": {"name": "fgsm"}}, "images": 40, "threads": 1, **settings}
        settings["transfer"] = [f"{network_folder}/{other}" for other in settings.get("transfer", ())]
        return profile_network(f"{network_folder}/{name}", parse_profile_config(settings), progress)

    return run


def test_defaults_are_those_of_finalists():
    assert dict(ProfileConfig().attacks) == dict(FinalistsConfig().attacks)
    assert parse_profile_config({}) == ProfileConfig()
    assert ProfileConfig().images == 1000


def test_settings_are_read():
    config = parse_profile_config(
        {
            "data": {"name": "npz", "path": "images.npz"},
            "attacks": {"strong": {"name": "pgd", "steps": 40, "norm": "l2"}},
            "epsilons": {"l2": ["8/255", 0.5]},
            "tolerance": 0.01,
            "certify": "64/255",
            "transfer": ["a.pt2", "b.py:net"],
        }
    )
    assert config.attacks == {"strong": PGD(steps=40, norm=L2())}
    assert config.epsilons == {"l2": (8 / 255, 0.5)}
    assert config.certify == 64 / 255
    assert config.transfer == ("a.pt2", "b.py:net")


def test_all_faults_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_profile_config(
            {
                "data": {"name": "cifar"},
                "attacks": {"a": "fgms", "b": {"name": "pgd", "stpes": 3}},
                "images": 0,
                "imgaes": 3,
                "tolerance": 2,
                "certify": 64,
                "seed": "x",
                "corruptions": "yes",
            }
        )
    message = "\n".join(caught.value.faults)
    for fault in (
        "profile: data.name must be one of digits",
        "profile: attacks.a must be one of fgsm, .* got 'fgms'; did you mean 'fgsm'?",
        "profile: unknown key attacks.b.stpes; did you mean 'steps'?",
        "profile: images must be at least 1, got 0",
        "profile: unknown key imgaes; did you mean 'images'?",
        "profile: tolerance must be at most 0.5, got 2",
        "profile: certify must be at most 10, got 64",
        "profile: seed must be int, got 'x'",
        "profile: corruptions must be true or false, got 'yes'",
    ):
        assert re.search(fault, message), fault


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"epsilons": {"linf": [8]}},
            r"linf must hold epsilons above 0 in pixel units \(8/255, not 8\), got \[8.0\]",
        ),
        ({"epsilons": {"linf": []}}, "epsilons.linf must hold epsilons above 0"),
        ({"epsilons": {"l3": [0.1]}}, r"epsilons must be named by norm \(linf, l2, l1\), got 'l3'"),
        ({"attacks": {}}, "attacks must name at least one attack"),
        ({"attacks": {"file": {"name": "fgsm"}}}, "attacks must not be named 'file'"),
        ({"data": {"name": "folder"}}, "data.path must be given for folder"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ConfigError, match=message):
        parse_profile_config(settings)


def test_it_is_the_profile_of_the_evaluators_on_the_first_test_images(measured, network_folder):
    result = measured(attacks={"fgsm": {"name": "fgsm"}, "pgd": {"name": "pgd", "steps": 3}}, seed=5)
    test = open_test(DataConfig()).first(40)
    network = open_network(f"{network_folder}/own.py:network")
    attacks = {"fgsm": FGSM(), "pgd": PGD(steps=3)}
    expected = profile(network, test.x, test.y, attacks, options=ProfileOptions(dataset="digits"), seed=5)
    assert {**result.record, "checks": None} == {**expected.record, "checks": None}
    assert [(c["name"], c["passed"]) for c in result.record["checks"]] == [
        (c["name"], c["passed"]) for c in expected.record["checks"]
    ]
    assert {name: r.tolist() for name, r in result.radii.items()} == {name: r.tolist() for name, r in expected.radii.items()}
    assert (result.record["n"], result.record["dataset"], result.record["split"]) == (40, "digits", "test")


def test_images_crafted_on_a_similar_network_transfer_better(measured):
    pgd = {"name": "pgd"}
    result = measured(
        attacks={"pgd": pgd}, epsilons={"linf": [0.05, 0.1]}, transfer=["own.py:softmax", "graph.pt2", "own.py:blank"]
    )
    errors = {name: entry["error"][-1] for name, entry in result.record["attacks"].items()}
    assert list(errors) == ["pgd", "transfer_1", "transfer_2", "transfer_3"]
    # The images of transfer_2 are crafted on the network itself, as a graph; those of transfer_3 on random weights.
    assert errors["transfer_2"] == pytest.approx(errors["pgd"], abs=0.08)
    assert errors["transfer_3"] < errors["pgd"] - 0.2
    assert result.record["attacks"]["transfer_1"]["config"]["attack"]["name"] == "pgd"


def test_settings_reach_the_measurement(measured):
    result = measured(tolerance=0.01, corruptions=True, certify=0.25, epsilons={"linf": [0.05, 0.2]})
    assert result.record["attacks"]["fgsm"]["epsilons"] == [0.05, 0.2]
    finite = result.radii["fgsm"][np.isfinite(result.radii["fgsm"]) & (result.radii["fgsm"] > 0)]
    assert len(np.unique(finite)) > 10
    assert len(result.record["corruptions"]["errors"]) == 5
    assert result.record["certificates"]["sigma"] == 0.25


def test_progress_goes_from_nothing_to_all_and_names_what_is_done(measured):
    seen = []
    measured(progress=lambda stage, share: seen.append((stage, share)), corruptions=True)
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert list(dict.fromkeys(stage for stage, _ in seen)) == ["margins", "fgsm", "checks", "corruptions"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "own.py:colour",
            r"own.py:colour: cannot take the images of digits, 1 x 8 x 8 \(channels, .*3 chan",
        ),
        (
            "own.py:five",
            "own.py:five: has 5 logits, but the labels of digits are 0 to 9; use the data that the network was made for",
        ),
        (
            "own.py:pair",
            r"own.py:pair: must return logits, a tensor \(N, K\), got tuple with 0: \(1, 10\), 1: .*; choose .* --output 0 ",
        ),
        ("own.py:maps", r"own.py:maps: the network must return logits of shape \(1, K\) with K >= 2, got \(1, 10, 1\)"),
        ("own.py:nan", "own.py:nan: the network must return finite logits, got NaN"),
        ("own.py:one_way", "own.py:one_way: cannot be profiled: no way back$"),
        ("fixed.pt2", r"fixed.pt2: cannot take .*; if it was exported with a fixed batch size, .*dynamic_shapes"),
    ],
)
def test_networks_that_do_not_go_together_with_the_images(name, message, measured):
    with pytest.raises(NetworkError, match=message):
        measured(name)


def test_a_source_of_transfer_must_take_the_images_too(measured):
    with pytest.raises(NetworkError, match=r"own.py:colour: cannot take the images of digits"):
        measured(transfer=["own.py:colour"])


@pytest.mark.parametrize(
    ("epsilons", "message"),
    [
        ({"l2": [0.5]}, "profile: epsilons.l2 has no attack of that norm; the attacks use linf"),
        ({"linf": [0.1], "l2": [9]}, "profile: epsilons.l2 has no attack of that norm"),
    ],
)
def test_epsilons_without_an_attack(epsilons, message, measured):
    with pytest.raises(ConfigError, match=message):
        measured(epsilons=epsilons)


def test_epsilons_beyond_the_pixel_range(measured):
    with pytest.raises(
        ConfigError, match=r"profile: epsilons.l2: epsilon must be between 0 and 8, .* got 20; .* write 8/255"
    ):
        measured(attacks={"fgsm": {"name": "fgsm", "norm": "l2"}}, epsilons={"l2": [20]})


def test_what_is_not_there(measured, tmp_path):
    with pytest.raises(RunError, match="device must be one that this machine has, got 'tpu'"):
        measured(device="tpu")
    with pytest.raises(DataError, match=r"none.npz: no such file"):
        measured(data={"name": "npz", "path": str(tmp_path / "none.npz")})


def test_images_of_the_users_own(measured, tmp_path):
    test = open_test(DataConfig())
    np.savez(tmp_path / "own.npz", x=test.x.numpy(), y=test.y.numpy())
    result = measured(data={"name": "npz", "path": str(tmp_path / "own.npz"), "test": 0.9}, images=400)
    assert (result.record["n"], result.record["dataset"]) == (400, "npz")
    assert result.record["clean_error"] < 0.1


def test_a_bundle_measured_anew_has_the_profile_that_it_carries(finished_run):
    (bundle,) = (finished_run / "bundles").glob("1-*")
    stored = load_profile(bundle)
    grid = stored.record["attacks"]["fgsm"]["epsilons"]
    settings = {"data": open_source(bundle).data, "images": 60, "attacks": {"fgsm": {"name": "fgsm"}}, "threads": 1}
    result = profile_network(str(bundle), parse_profile_config({**settings, "epsilons": {"linf": grid}}))
    assert result.record["clean_error"] == stored.record["clean_error"]
    # Batch norm may be folded in only one measurement. Rounding may then change the class of an image at the boundary.
    assert np.allclose(result.record["attacks"]["fgsm"]["error"], stored.record["attacks"]["fgsm"]["error"], atol=0.02)


def test_the_network_moves_to_the_device(measured, device):
    on_cpu, on_device = measured(device="cpu"), measured(device=str(device))
    assert on_device.record["clean_error"] == on_cpu.record["clean_error"]
