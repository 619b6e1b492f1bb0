"""Laws and local exponents of attacks and worst cases, in the record of a profile and in rows of tables."""

import copy
import dataclasses
import math

import numpy as np
import pytest

from evaluators import (
    FGSM,
    L2,
    NoPowerLaw,
    PowerLaw,
    ProfileOptions,
    RobustnessProfile,
    StepLL,
    error_curve,
    fit_power_law,
    load_profile,
    profile,
    save_profile,
)
from evaluators.curves.local_exponent import LocalExponent, NoLocalExponent, local_exponent
from evaluators.profiles.attack_entry import disagreements
from evaluators.profiles.attack_rows import attack_rows
from evaluators.profiles.law_case import law_case
from evaluators.profiles.law_entries import attack_local, worst_case_law, worst_case_local

ATTACKS = {"fgsm": FGSM(), "step_ll": StepLL(), "fgsm_l2": FGSM(norm=L2())}


@pytest.fixture(scope="module", params=[None, 0.01], ids=["grid", "exact"])
def measured(request):
    import torch
    from torch import nn

    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), torch.rand(300, 1, 8, 8)
    with torch.no_grad():
        y = network(x).argmax(1)
    y[::20] = (y[::20] + 1) % 3
    return profile(network, x, y, ATTACKS, options=ProfileOptions(tolerance=request.param))


def older(measured):
    """Returns the profile without the entries that older versions lack."""
    record = copy.deepcopy(measured.record)
    del record["worst_case"]
    for entry in record["attacks"].values():
        del entry["local_exponent"]
        entry["power_law"].pop("prefactor_interval", None)
    return RobustnessProfile(record, measured.radii)


def test_the_worst_case_has_the_laws_of_its_radii(measured):
    exact = measured.record["tolerance"] is not None
    assert list(measured.record["worst_case"]) == ["linf", "l2"]
    for norm, names in (("linf", ("fgsm", "step_ll")), ("l2", ("fgsm_l2",))):
        radii = np.min([measured.radii[name] for name in names], axis=0)
        grid = None if exact else measured.epsilons(norm)
        assert worst_case_law(measured, norm) == fit_power_law(radii, grid)
        assert worst_case_local(measured, norm) == local_exponent(radii, grid)
        assert isinstance(worst_case_local(measured, norm), LocalExponent)
    assert attack_local(measured, "step_ll") == local_exponent(
        measured.radii["step_ll"], None if exact else measured.epsilons()
    )


def test_an_older_profile_is_read_and_agrees_with_its_radii(measured, tmp_path):
    old = older(measured)
    save_profile(old, tmp_path)
    loaded = load_profile(tmp_path)
    assert disagreements(loaded) == disagreements(measured) == []
    for new, row in zip(attack_rows(measured), attack_rows(loaded), strict=True):
        assert (row.name, row.norm, row.error, row.median_radius, row.local) == (
            (new.name, new.norm, new.error, new.median_radius, new.local)
        )
        without = dataclasses.replace(new.law, prefactor_interval=None) if isinstance(new.law, PowerLaw) else new.law
        assert row.law == (new.law if row.name == "worst case" else without)


def test_rows_are_those_of_the_attacks_and_of_a_worst_case_over_several(measured):
    rows = attack_rows(measured)
    assert [(row.name, row.norm) for row in rows] == [
        ("fgsm", "linf"),
        ("step_ll", "linf"),
        ("fgsm_l2", "l2"),
        ("worst case", "linf"),
    ]
    for row in rows:
        grid = measured.epsilons(row.norm)
        assert row.error == error_curve(row.radii, grid).error[-1]
        assert row.median_radius == np.quantile(row.radii, 0.5, method="higher")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (
            lambda r: r["worst_case"]["linf"]["local_exponent"].update(exponent=9.0),
            "worst_case.linf.local_exponent.exponent",
        ),
        (lambda r: r["worst_case"]["l2"]["power_law"].update(n=1), "worst_case.l2.power_law.n"),
        (lambda r: r["worst_case"]["l2"].update(power_law={"reason": "none"}), "worst_case.l2.power_law"),
        (lambda r: r["worst_case"].update(l1=r["worst_case"]["l2"]), "worst_case.l1"),
        (lambda r: r["attacks"]["fgsm"]["local_exponent"].update(n=1), "attacks.fgsm.local_exponent.n"),
        (
            lambda r: r["attacks"]["fgsm"]["power_law"].update(prefactor_interval=[1, 2]),
            "attacks.fgsm.power_law.prefactor_i",
        ),
    ],
)
def test_changed_laws_disagree_with_the_radii(change, place, measured):
    record = copy.deepcopy(measured.record)
    change(record)
    wrong = disagreements(RobustnessProfile(record, measured.radii))
    assert wrong
    assert all(one.startswith(place) for one in wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(worst_case=[]), "worst_case must be a mapping"),
        (lambda r: r["worst_case"].update(linf={}), r"worst_case\.linf\.power_law is missing"),
        (lambda r: r["worst_case"]["linf"].update(extra=1), r"worst_case\.linf has an unknown key, 'extra'"),
        (
            lambda r: r["worst_case"]["linf"]["local_exponent"].update(interval=[1]),
            r"exponent\.interval must be a list",
        ),
        (lambda r: r["attacks"]["fgsm"]["local_exponent"].update(n="x"), r"attacks\.fgsm\.local_exponent\.n must be int"),
        (lambda r: r["worst_case"]["linf"]["power_law"].update(prefactor_interval=3), "prefactor_interval must be a list"),
    ],
)
def test_entries_of_another_form_are_refused(change, message, measured, tmp_path):
    record = copy.deepcopy(measured.record)
    change(record)
    save_profile(RobustnessProfile(record, measured.radii), tmp_path)
    with pytest.raises(ValueError, match=message):
        load_profile(tmp_path)


def law(low, high):
    return PowerLaw((low + high) / 2, (low, high), 1.0, (0.01, 0.1), 50, 0.5, saturated=False)


@pytest.mark.parametrize(
    ("error", "fit", "sentences"),
    [
        (
            0.036,
            law(1.12, 1.69),
            ("3.6%, is below 10%.", "1.12 to 1.69, lies above 1.", "networks with few errors"),
        ),
        (
            0.1,
            law(0.9, 1.1),
            ("10.0%, is at least 10%.", "0.90 to 1.10, contains 1.", "networks with many errors"),
        ),
        (0.05, law(0.9, 1.1), ("contains 1.", "differs from most measured networks")),
        (0.3, law(2, 3), ("lies above 1.", "differs from most measured networks")),
        (0.3, law(0.5, 0.7), ("lies below 1.", "differs from most measured networks")),
        (0.3, NoPowerLaw("too few"), ("is at least 10%.", "no power law, so there is no exponent to compare with 1")),
    ],
)
def test_the_case_of_a_network(error, fit, sentences):
    text = law_case(error, fit)
    assert all(sentence in text for sentence in sentences)
    assert all(len(sentence.split()) <= 25 for sentence in text.split(". "))


def test_a_network_without_flips_has_reasons():
    radii = np.full(50, math.inf)
    assert isinstance(fit_power_law(radii, [0.1]), NoPowerLaw)
    assert isinstance(local_exponent(radii, [0.1]), NoLocalExponent)
