import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import evaluators
from evaluators import (
    FGSM,
    L2,
    PGD,
    Linf,
    NoPowerLaw,
    PowerLaw,
    ProfileOptions,
    RobustnessProfile,
    Smoothing,
    StepLL,
    UniformNoise,
    error_curve,
    fit_power_law,
    load_profile,
    macs,
    margins,
    parameters,
    profile,
    radii,
    save_profile,
)
from evaluators.attacks import margin
from evaluators.corruptions import CORRUPTIONS
from evaluators.logits.differences import (
    independent_logits,
    logit_differences,
    logits_of,
    mean_field_radii,
    near_zero,
    shape_distance,
)
from evaluators.profiles.record import fitted

ATTACKS = {
    "fgsm": FGSM(),
    "step_ll": StepLL(),
    "pgd": PGD(),
    "pgd_margin": PGD(loss=margin),
    "fgsm_l2": FGSM(norm=L2()),
}
LINF_GRID = np.geomspace(0.0005, 0.3, 16).tolist()


@pytest.fixture
def case(linear, images):
    network, x = linear(3), images(300)
    with torch.no_grad():
        y = network(x).argmax(1)
    y[::20] = (y[::20] + 1) % 3
    return network, x, y


@pytest.fixture
def measured_profile(case):
    return profile(*case, ATTACKS, options=ProfileOptions(dataset="stripes", split="valid"), seed=4)


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_exports_match():
    assert sorted(evaluators.__all__) == sorted(set(evaluators.__all__))
    assert all(hasattr(evaluators, name) for name in evaluators.__all__)
    public = {
        name
        for name, value in vars(evaluators).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("evaluators.")
    } | {name for name in vars(evaluators) if name.isupper()}
    assert public == set(evaluators.__all__)


def test_a_record_has_the_documented_keys(measured_profile):
    record = measured_profile.record
    promised = {"schema", "dataset", "split", "n", "clean_error", "attacks", "margins", "checks", "cost", "seed"}
    assert set(record) >= promised | {"worst_case"}
    assert record["schema"] == "hardcell-profile/2"
    assert (record["dataset"], record["split"], record["n"], record["seed"]) == ("stripes", "valid", 300, 4)
    assert list(record["attacks"]) == list(ATTACKS)
    law = {"exponent", "exponent_interval", "prefactor", "prefactor_interval", "window", "n", "saturated"}
    for entry in record["attacks"].values():
        assert set(entry) >= {"config", "epsilons", "error", "error_interval", "flip_rate", "power_law"}
        assert set(entry["local_exponent"]) in ({"exponent", "interval", "window", "n", "flip_rate"}, {"reason"})
        assert set(entry["power_law"]) >= law or set(entry["power_law"]) == {"fit", "reason"}
    assert any("exponent" in entry["power_law"] for entry in record["attacks"].values())
    assert set(record["margins"]) >= {"median", "density_at_zero", "mean_entropy", "first_order"}
    assert all(set(check) == {"name", "passed", "evidence"} for check in record["checks"])
    assert set(record["cost"]) == {"parameters", "macs"}


def test_numbers_are_those_of_the_separate_functions(case, measured_profile):
    network, x, y = case
    assert measured_profile.record["clean_error"] == pytest.approx(0.05)
    assert measured_profile.record["cost"] == {"parameters": parameters(network), "macs": macs(network, (1, 8, 8))}
    assert measured_profile.record["cost"] == {"parameters": 195, "macs": 192}
    for name, attack in ATTACKS.items():
        entry = measured_profile.record["attacks"][name]
        expected = radii(network, x, y, attack, entry["epsilons"], seed=4).numpy()
        np.testing.assert_array_equal(measured_profile.radii[name], expected)
        curve = error_curve(expected, entry["epsilons"])
        assert entry["error"] == curve.error.tolist()
        assert entry["error_interval"] == curve.error_interval.tolist()
        assert entry["flip_rate"] == curve.flip_rate.tolist()
        assert entry["success_rate"] == np.isfinite(expected[expected > 0]).mean()
        law, fit = fitted(entry), fit_power_law(expected, entry["epsilons"])
        assert law == (None if isinstance(fit, NoPowerLaw) else fit)
    clean = margins(network, x, y, [Linf(), L2()])
    assert measured_profile.record["margins"]["median"] == pytest.approx(np.median(clean.margin))
    assert measured_profile.record["margins"]["mean_entropy"] == pytest.approx(clean.entropy.mean())
    for name in ("linf", "l2"):
        entry = measured_profile.record["margins"]["first_order"][name]
        assert entry["predicted_error"] == error_curve(clean.radii[name], entry["epsilons"]).error.tolist()
        assert entry["mean_field_error"] == error_curve(mean_field_radii(clean, name), entry["epsilons"]).error.tolist()
        assert entry["mean_field_error"] != entry["predicted_error"]
        assert entry["median_radius"] == pytest.approx(np.median(clean.radii[name][clean.margin > 0]))


def test_nearest_differences_are_those_of_the_separate_functions(case, measured_profile):
    network, x, _ = case
    logits = logits_of(network, x)
    nearest = logit_differences(logits)[:, 0]
    entry = measured_profile.record["margins"]["nearest"]
    assert entry["near_zero"] == json.loads(json.dumps(dataclasses.asdict(near_zero(nearest))))
    assert entry["distance_to_independent"] == shape_distance(nearest, logit_differences(independent_logits(logits))[:, 0])


def test_logits_that_are_all_alike_have_no_differences():
    class Flat(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 3) * x.flatten(1).sum(1, keepdim=True)

    record = profile(Flat(), torch.rand(20, 1, 4, 4), torch.zeros(20, dtype=torch.int64), {"fgsm": FGSM()}).record
    assert record["margins"]["nearest"] is None


def test_a_chosen_grid_covers_the_whole_curve(measured_profile):
    for entry in measured_profile.record["attacks"].values():
        assert entry["error"][0] < 0.15
        assert entry["error"][-1] > 0.9


def test_error_at_and_worst_case(measured_profile):
    linf = [measured_profile.radii[name] for name in ("fgsm", "step_ll", "pgd", "pgd_margin")]
    expected = np.min(linf, axis=0)
    np.testing.assert_array_equal(measured_profile.worst_case(), expected)
    np.testing.assert_array_equal(measured_profile.worst_case("l2"), measured_profile.radii["fgsm_l2"])
    assert measured_profile.error_at(0) == pytest.approx(0.05)
    for epsilon in measured_profile.record["attacks"]["pgd"]["epsilons"][::4]:
        assert measured_profile.error_at(epsilon) == (expected <= epsilon).mean()
        assert measured_profile.error_at(epsilon) >= max((r <= epsilon).mean() for r in linf)
    largest = measured_profile.record["attacks"]["fgsm_l2"]["epsilons"][-1]
    assert measured_profile.error_at(largest, "l2") == (measured_profile.radii["fgsm_l2"] <= largest).mean()


def test_error_where_nothing_was_measured_is_refused(measured_profile):
    with pytest.raises(ValueError, match=r"linf epsilon 0\.0123 was not measured; these were: \["):
        measured_profile.error_at(0.0123)


def test_included_epsilons_are_added_to_a_given_grid(case):
    network_profile = profile(
        *case, {"fgsm": FGSM()}, epsilons={"linf": [0.2]}, options=ProfileOptions(include={"linf": [0.05]})
    )
    assert network_profile.record["attacks"]["fgsm"]["epsilons"] == [0.05, 0.2]


def test_masking_of_cross_entropy_is_checked_in_every_norm(case):
    # The check uses the worst case over all attacks with one loss, so the weak attack must not change the outcome.
    weak = PGD(norm=L2(), steps=1, step_size=0.01, random_start=False)
    network_profile = profile(*case, {"pgd": PGD(norm=L2()), "margin": PGD(norm=L2(), loss=margin), "weak": weak})
    assert {"cross_entropy_not_masked_l2"} <= {check["name"] for check in network_profile.record["checks"]}
    assert "cross_entropy_not_masked_l2" not in network_profile.failed_checks()


def test_a_norm_that_was_not_measured_is_refused(case):
    network_profile = profile(*case, {"fgsm": FGSM(), "noise": UniformNoise()})
    with pytest.raises(ValueError, match="no l2 attack in this profile; it has fgsm, noise"):
        network_profile.error_at(0.1, "l2")


def test_a_clean_network_passes_every_check_but_enough_images(measured_profile):
    names = [check["name"] for check in measured_profile.record["checks"]]
    assert len(names) == len(set(names))
    assert {
        "deterministic",
        "logits_not_probabilities",
        "batch_independent",
        "normalised_inside",
        "gradients_alive",
        "gradients_predict",
        "reaches_chance",
        "many_steps_beat_one_linf",
        "cross_entropy_not_masked_linf",
        "enough_images",
    } <= set(names)
    for check in ("noise_is_weaker", "scale_does_not_matter"):
        assert {f"{check}_linf", f"{check}_l2"} <= set(names)
    # With 300 images, the half-width of an interval can be 5.8 percentage points. The limit of the check is 5.
    assert set(measured_profile.failed_checks()) <= {"enough_images"}


class Coarse(nn.Module):
    def forward(self, x):
        return (8 * x).round() / 8


def test_planted_faults_reach_the_record(case, linear):
    network, x, y = case
    # The attacks have no random start, because a random start is noise and may fool the network without gradients.
    plain = {"fgsm": FGSM(), "pgd": PGD(random_start=False)}
    masked = profile(nn.Sequential(Coarse(), network), x, y, plain, epsilons={"linf": LINF_GRID})
    assert {"gradients_alive", "gradients_predict", "reaches_chance", "noise_is_weaker_linf"} <= {*masked.failed_checks()}
    decisive = profile(linear(3, scale=1000), x, y, ATTACKS, epsilons={"linf": LINF_GRID})
    assert "cross_entropy_not_masked_linf" in decisive.failed_checks()
    softmax = profile(nn.Sequential(network, nn.Softmax(1)), x, y, ATTACKS)
    assert "logits_not_probabilities" in softmax.failed_checks()
    assert not {"gradients_alive", "reaches_chance", "deterministic"} & {*softmax.failed_checks()}


def test_checks_that_lack_their_attacks_are_left_out(case):
    names = [check["name"] for check in profile(*case, {"fgsm": FGSM()}).record["checks"]]
    assert "many_steps_beat_one_linf" not in names
    assert "cross_entropy_not_masked_linf" not in names


def test_checks_compare_within_one_norm(case):
    network, x, y = case
    attacks = {"pgd": PGD(), "pgd_margin_l2": PGD(norm=L2(), loss=margin), "fgsm_l2": FGSM(norm=L2())}
    names = [check["name"] for check in profile(network, x, y, attacks).record["checks"]]
    assert "many_steps_beat_one_linf" not in names
    assert "cross_entropy_not_masked_linf" not in names
    # L-infinity radii are smaller than L2 radii. They must not hide that FGSM in L2 fools no image.
    attacks = {"noise": UniformNoise(), "fgsm_l2": FGSM(norm=L2())}
    grids = {"linf": [0.3, 0.6, 1.0], "l2": [2.0]}
    masked = profile(nn.Sequential(Coarse(), network), x, y, attacks, epsilons=grids)
    assert "noise_is_weaker_l2" in masked.failed_checks()


def test_grids_are_given_or_chosen_with_the_included_epsilons(case):
    given = profile(*case, ATTACKS, epsilons={"linf": [0.2, 0.1, 0.1]})
    assert given.record["attacks"]["fgsm"]["epsilons"] == [0.1, 0.2]
    assert len(given.record["attacks"]["fgsm_l2"]["epsilons"]) > 10
    chosen = profile(*case, ATTACKS, options=ProfileOptions(include={"linf": [8 / 255]})).record["attacks"]
    assert 8 / 255 in chosen["pgd"]["epsilons"]
    assert 8 / 255 not in chosen["fgsm_l2"]["epsilons"]
    assert chosen["pgd"]["epsilons"] == sorted(chosen["pgd"]["epsilons"])


def test_a_seed_makes_a_profile_reproducible(case):
    attacks = {"pgd": PGD(steps=1, step_size=0.5), "noise": UniformNoise()}
    first = profile(*case, attacks, seed=1)
    torch.manual_seed(77)
    again = profile(*case, attacks, seed=1, options=ProfileOptions(batch_size=64))
    assert json.dumps(first.record) == json.dumps(again.record)
    for name in attacks:
        np.testing.assert_array_equal(first.radii[name], again.radii[name])
    other = profile(*case, attacks, seed=2)
    assert any(not np.array_equal(first.radii[name], other.radii[name]) for name in attacks)


def test_saving_and_loading_gives_the_same_profile(measured_profile, tmp_path):
    save_profile(measured_profile, tmp_path)
    loaded = load_profile(tmp_path)
    assert loaded.record == measured_profile.record
    assert list(loaded.radii) == list(measured_profile.radii)
    for name in measured_profile.radii:
        np.testing.assert_array_equal(loaded.radii[name], measured_profile.radii[name])
        assert loaded.radii[name].dtype == np.float64
    assert loaded.error_at(0) == measured_profile.error_at(0)
    laws = [fitted(entry) for entry in loaded.record["attacks"].values()]
    assert any(isinstance(law, PowerLaw) for law in laws)


def test_saving_what_was_loaded_writes_the_same_text(measured_profile, tmp_path):
    save_profile(measured_profile, tmp_path)
    text = (tmp_path / "profile.json").read_text()
    save_profile(load_profile(tmp_path), tmp_path)
    assert (tmp_path / "profile.json").read_text() == text


def test_files_are_plain(measured_profile, tmp_path):
    save_profile(measured_profile, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["profile.json", "radii.npz"]
    strict((tmp_path / "profile.json").read_text())
    with np.load(tmp_path / "radii.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].shape for name in arrays} == dict.fromkeys(ATTACKS, (300,))


@pytest.mark.parametrize("name", ["pgd/20", "with space", "file", "allow_pickle"])
def test_the_name_of_an_attack_survives_the_files_or_is_refused(case, tmp_path, name):
    # The last two names are also parameters of `np.savez`, which takes the names of arrays as keywords.
    try:
        network_profile = profile(*case, {name: FGSM()}, epsilons={"linf": [0.01, 0.02]})
    except ValueError as error:
        assert name in ("file", "allow_pickle")
        assert name in str(error)  # noqa: PT017
    else:
        save_profile(network_profile, tmp_path)
        np.testing.assert_array_equal(load_profile(tmp_path).radii[name], network_profile.radii[name])


@pytest.mark.parametrize("kind", ["all wrong", "never flipped", "one image", "steep"])
def test_extreme_networks_give_strict_json(linear, images, tmp_path, kind):
    network, x = linear(2), images(1 if kind == "one image" else 50)
    with torch.no_grad():
        y = network(x).argmax(1)
    if kind == "all wrong":
        y = 1 - y
    if kind == "never flipped":
        network, y = linear(weight=torch.zeros(2, 64), bias=torch.tensor([1.0, 0.0])), torch.zeros_like(y)
    if kind == "steep":
        network = linear(2, scale=1e6)
    network_profile = profile(network, x, y, ATTACKS)
    save_profile(network_profile, tmp_path)
    record = strict((tmp_path / "profile.json").read_text())
    assert record["clean_error"] == (1 if kind == "all wrong" else 0)
    entry = record["attacks"]["fgsm"]
    if kind in ("all wrong", "never flipped"):
        assert entry["power_law"] == {
            "fit": "too_few",
            "reason": f"0 of {0 if kind == 'all wrong' else 50} images were flipped; a fit needs at least 20",
        }
    assert entry["flip_rate"] is None if kind == "all wrong" else entry["flip_rate"][0] >= 0


def test_large_images_take_the_chosen_l2_grid():
    # A nearly flat network has first-order radii beyond the largest L2 size of the pixel range, sqrt(3 * 64 * 64) = 110.85.
    torch.manual_seed(0)
    x = torch.rand(30, 3, 64, 64)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2))
    nn.init.constant_(network[1].weight, 1e-6)
    nn.init.constant_(network[1].weight[0], 0)
    with torch.no_grad():
        network[1].bias.copy_(torch.tensor([1.0, 0.0]))
    network_profile = profile(network, x, torch.zeros(30, dtype=torch.int64), {"fgsm_l2": FGSM(norm=L2())})
    assert max(network_profile.record["attacks"]["fgsm_l2"]["epsilons"]) <= L2().largest(3 * 64 * 64)


def test_a_network_in_double_precision(case):
    network, x, y = case
    expected = profile(network, x, y, {"fgsm": FGSM()}, epsilons={"linf": LINF_GRID})
    network_profile = profile(network.double(), x.double(), y, {"fgsm": FGSM()}, epsilons={"linf": LINF_GRID})
    assert network_profile.record["cost"] == expected.record["cost"]
    np.testing.assert_allclose(
        network_profile.record["attacks"]["fgsm"]["error"], expected.record["attacks"]["fgsm"]["error"], atol=0.01
    )


def test_every_device_gives_the_same_profile(case, device):
    network, x, y = case
    expected = profile(network, x, y, ATTACKS, epsilons={"linf": LINF_GRID})
    network_profile = profile(network.to(device), x.to(device), y.to(device), ATTACKS, epsilons={"linf": LINF_GRID})
    for name in ("fgsm", "pgd"):
        errors = (p.record["attacks"][name]["error"] for p in (network_profile, expected))
        np.testing.assert_allclose(*errors, atol=0.01)


def test_network_is_left_as_it_was(conv, images):
    network, x = conv(), images()
    with torch.no_grad():
        y = network(x).argmax(1)
    network.train()
    network[0].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    profile(network, x, y, ATTACKS)
    assert all(module.training for module in network.modules())
    assert [p.requires_grad for p in network.parameters()] == [False] + [True] * 7
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"attacks": {}}, ValueError, "attacks must name at least one attack"),
        ({"x": torch.full((4, 1, 8, 8), 2.0)}, ValueError, "x must ... [0, 1] ... got [2, 2]"),
        ({"y": torch.tensor([0, 1, 2, 4])}, ValueError, "y must hold labels from 0 to 3"),
        ({"y": [0, 1, 2, 3]}, TypeError, "y must ... int64 ... got list"),
        ({"epsilons": {"linf": [1, 8]}}, ValueError, "pixels are in [0, 1], so write 8/255 rather than 8"),
        (
            {"options": ProfileOptions(include={"linf": [8]})},
            ValueError,
            "pixels are in [0, 1], so write 8/255 rather than 8",
        ),
    ],
)
def test_inputs_that_are_refused(conv, change, kind, message):
    given = {"network": conv(), "x": torch.zeros(4, 1, 8, 8), "y": torch.arange(4), "attacks": {"fgsm": FGSM()}}
    with pytest.raises(kind, match=r".*".join(map(re.escape, message.split(" ... ")))):
        profile(**(given | change))


@pytest.mark.parametrize(
    ("setting", "kind", "message"),
    [
        ({"include": [0.1]}, TypeError, "include must ... got list"),
        ({"include": {"linf": 0.1}}, TypeError, "epsilons must ... got one number"),
        ({"tolerance": 1.5}, ValueError, "tolerance must ... between 0 and 1 ... got 1.5"),
        ({"smoothing": 0.1}, TypeError, "got 0.1"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
    ],
)
def test_options_that_are_refused(setting, kind, message):
    with pytest.raises(kind, match=r".*".join(map(re.escape, message.split(" ... ")))):
        ProfileOptions(**setting)


def test_no_number_outside_json_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        save_profile(RobustnessProfile({"clean_error": float("nan")}, {}), tmp_path)


def test_pickled_objects_are_not_loaded(measured_profile, tmp_path):
    save_profile(measured_profile, tmp_path)
    objects = dict.fromkeys(ATTACKS, np.array([{"any": "object"}], dtype=object))
    np.savez_compressed(tmp_path / "radii.npz", allow_pickle=True, **objects)
    with pytest.raises(ValueError, match=r"must be .* float64, got .* object"):
        load_profile(tmp_path)


@pytest.mark.parametrize("text", ['{"schema": "other/1"}', "[]", "{}"])
def test_a_file_that_is_no_profile_is_refused(tmp_path, text):
    (tmp_path / "profile.json").write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'profile.json'}: schema must be 'hardcell-profile/2'")):
        load_profile(tmp_path)


def test_a_missing_file_is_an_os_error(measured_profile, tmp_path):
    with pytest.raises(OSError, match=re.escape("profile.json")):
        load_profile(tmp_path)
    save_profile(measured_profile, tmp_path)
    (tmp_path / "radii.npz").unlink()
    with pytest.raises(OSError, match=re.escape("radii.npz")):
        load_profile(tmp_path)


def test_exact_radii_refine_those_of_the_grid(case):
    attacks = {"fgsm": FGSM(), "pgd": PGD(loss=margin)}
    coarse = profile(*case, attacks, epsilons={"linf": LINF_GRID})
    exact = profile(*case, attacks, epsilons={"linf": LINF_GRID}, options=ProfileOptions(tolerance=0.02))
    assert (coarse.record["tolerance"], exact.record["tolerance"]) == (None, 0.02)
    for name in attacks:
        assert (exact.radii[name] <= coarse.radii[name]).all()
        assert len(np.unique(exact.radii[name])) > 2 * len(np.unique(coarse.radii[name]))
        assert exact.record["attacks"][name]["error"] == pytest.approx(coarse.record["attacks"][name]["error"], abs=0.02)


def test_first_order_predictions_and_densities_are_recorded(measured_profile):
    entry = measured_profile.record["margins"]["first_order"]["linf"]
    # The network is linear, so prediction and measurement differ only where an attack reaches the ends of the pixel range.
    assert entry["parting_epsilon"] is None or entry["parting_epsilon"] > 0.1
    densities = measured_profile.record["margins"]["densities"]
    assert set(densities) == {"at", "rival_1", "rival_2"}
    assert densities["rival_1"][0] > densities["rival_2"][0]
    assert np.trapezoid(densities["rival_1"], densities["at"]) == pytest.approx(1, abs=0.05)


def test_corruptions_and_certificates_are_measured_on_request(case, measured_profile):
    assert not {"corruptions", "certificates"} & set(measured_profile.record)
    more = profile(*case, {"fgsm": FGSM()}, options=ProfileOptions(corruptions=True, smoothing=Smoothing(sigma=0.1))).record
    assert set(more["corruptions"]["errors"]) == set(CORRUPTIONS)
    certified = more["certificates"]
    assert certified["sigma"] == 0.1
    assert certified["certified_error"] == sorted(certified["certified_error"])
    assert certified["certified_error"][0] >= measured_profile.record["clean_error"] - 0.05
    assert certified["certified_error"][-1] == 1


def test_progress_names_every_stage_and_ends_at_1(case):
    seen = []
    attacks = {"fgsm": FGSM(), "pgd": PGD(steps=2)}
    profile(
        *case,
        attacks,
        options=ProfileOptions(corruptions=True, smoothing=Smoothing(sigma=0.1)),
        progress=lambda stage, share: seen.append((stage, share)),
    )
    assert list(dict.fromkeys(stage for stage, _ in seen)) == [
        "margins", "fgsm", "pgd", "checks", "corruptions", "certificates",
    ]  # fmt: skip
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_an_included_epsilon_replaces_a_grid_point_next_to_it(conv, images):
    network, x = conv(), images(60)
    y = network.eval()(x).argmax(1)
    alone = profile(network, x, y, {"fgsm": FGSM()}).record["attacks"]["fgsm"]["epsilons"]
    beside, apart = 1.01 * alone[3], math.sqrt(alone[3] * alone[4])
    for wanted, expected in ((beside, {*alone, beside} - {alone[3]}), (apart, {*alone, apart})):
        network_profile = profile(network, x, y, {"fgsm": FGSM()}, options=ProfileOptions(include={"linf": [wanted]}))
        assert network_profile.record["attacks"]["fgsm"]["epsilons"] == sorted(expected)
