"""Requirements on measured numbers, and their reports."""

import dataclasses
import json
import math
import re
from xml.etree import ElementTree

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from evaluators import FGSM, L2, PGD, ProfileOptions, profile
from evaluators.attacks import UniformNoise
from evaluators.engine.scores_only import ScoresOnly
from nas.analysis.requirement_reports import junit, sarif
from nas.analysis.requirements import (
    COMPARISONS,
    Requirement,
    RequirementResult,
    check_countable,
    check_profile,
    parse_requirements,
    required_epsilons,
)
from nas.errors import ConfigError, RunError

N = 40
EPSILONS = (0.1, 8 / 255, 0.3)


class Threshold(nn.Module):
    """Class 1 where the mean of the pixels is above one half."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


@pytest.fixture(scope="module")
def measured():
    """Profile of a network whose radius is the distance of the mean of the pixels from one half."""
    x = torch.linspace(0.2, 0.8, N).view(N, 1, 1, 1).expand(N, 1, 8, 8).contiguous()
    y = (x[:, 0, 0, 0] > 0.45).long()
    attacks = {"fgsm": FGSM(), "pgd": PGD(steps=3), "l2": FGSM(norm=L2())}
    epsilons = {"linf": EPSILONS, "l2": (0.5, 1.0)}
    return profile(Threshold(), x, y, attacks, epsilons=epsilons)


def share_within(epsilon):
    """Returns the adversarial error of the network at epsilon, by the closed form."""
    pixels = torch.linspace(0.2, 0.8, N).double()
    distance = torch.where((pixels > 0.5) == (pixels > 0.45), (pixels - 0.5).abs(), 0.0)
    return float((distance <= epsilon).double().mean())


def checked(measured, text, *, point=False):
    """Returns the result of one requirement."""
    (result,) = check_profile("net", measured, parse_requirements([text], point=point), point=point)
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("adversarial_error@8/255 <= 0.5", ("adversarial_error", 8 / 255, None, "<=", 0.5)),
        ("adversarial_error@0.5:L2<0.25", ("adversarial_error", 0.5, "l2", "<", 0.25)),
        ("adversarial_error@8:l2 <= 0.25", ("adversarial_error", 8.0, "l2", "<=", 0.25)),
        ("  adversarial_error @ 0.1 : linf  >=  1/4 ", ("adversarial_error", 0.1, "linf", ">=", 0.25)),
        ("failed_checks == 0", ("failed_checks", None, None, "==", 0.0)),
        ("parameters <= 1e6", ("parameters", None, None, "<=", 1e6)),
        ("macs > 5", ("macs", None, None, ">", 5.0)),
        ("clean_error <= 0", ("clean_error", None, None, "<=", 0.0)),
    ],
)
def test_requirements_are_parsed(text, expected):
    (requirement,) = parse_requirements([text])
    assert dataclasses.astuple(requirement)[1:] == expected
    assert requirement.text == " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a requirement with <=, >=, ==, <, >; write one such as 'adversarial_error@8/255 <= 0.5'"),
        ("adversarial_error@8/255", "is not a requirement"),
        ("clean_error = 0.1", "is not a requirement"),
        ("clean_error <= ", "is not a requirement"),
        ("clean_error <= 0.1 0.2", "is not a requirement"),
        ("adverserial_error@0.1 <= 0.5", "no metric 'adverserial_error'; did you mean 'adversarial_error'?"),
        ("speed <= 1", "no metric 'speed'; adversarial_error, clean_error, failed_checks, parameters, macs"),
        ("adversarial_error <= 0.5", "needs an epsilon, such as adversarial_error@8/255"),
        ("clean_error@0.1 <= 0.5", "clean_error has no epsilon and no norm"),
        ("failed_checks:l2 <= 0", "failed_checks has no epsilon and no norm"),
        ("adversarial_error@0.1:l0 <= 0.5", "the norm must be linf or l2 or l1, got 'l0'"),
        ("adversarial_error@0 <= 0.5", "the epsilon must be above 0, got 0; use clean_error"),
        ("adversarial_error@x <= 0.5", "the epsilon must be a number or a fraction such as 8/255, got x"),
        ("adversarial_error@8/ <= 0.5", "the epsilon must be a number or a fraction such as 8/255, got 8/"),
        ("adversarial_error@8 <= 0.5", "the epsilon must be at most 1, got 8; pixels are in [0, 1], so write 8/255 rather"),
        ("adversarial_error@8:linf <= 0.5", "the epsilon must be at most 1, got 8"),
        ("clean_error != 0.1", "is not a requirement with <=, >=, ==, <, >; write one such as"),
        ("failed_checks <= 0.5", "failed_checks is a count, so the bound must be a whole number, at least 0; got 0.5"),
        ("parameters <= -3", "parameters is a count, so the bound must be a whole number, at least 0; got -3"),
        ("clean_error < 0", "an error is between 0 and 1, so it is never < 0"),
        ("clean_error > 1", "an error is between 0 and 1, so it is never > 1"),
        ("adversarial_error@1/0 <= 0.5", "the epsilon must be a number or a fraction such as 8/255, got 1/0"),
        ("adversarial_error@0.1 <= nan", "the bound must be a number or a fraction such as 8/255, got nan"),
        ("adversarial_error@0.1 <= 50", "so the bound must be, too; got 50"),
        ("clean_error <= -0.1", "so the bound must be, too; got -0.1"),
        ("clean_error == 0.1", "has an interval, which never equals a number; write <= or >=, or give --point"),
    ],
)
def test_texts_that_are_no_requirements_are_refused(text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_requirements([text])


def test_counts_are_refused_where_they_are_not_measured():
    with pytest.raises(ConfigError, match="macs is not measured here; `hardcell profile` measures it"):
        parse_requirements(["clean_error <= 0.1", "macs <= 5"], counts=False)


def test_a_number_has_enough_digits_to_differ_from_the_bound():
    (requirement,) = parse_requirements(["clean_error <= 0.5"])
    assert RequirementResult("net", requirement, 0.4, (0.3, 0.50026), False).measured == "0.4000 [0.3000, 0.5003]"
    assert RequirementResult("net", requirement, 0.5, (0.3, 0.7), False).measured == "0.500 [0.300, 0.700]"


def test_every_fault_is_listed():
    with pytest.raises(ConfigError) as error:
        parse_requirements(["speed <= 1", "clean_error <= 0.5", "macs"])
    assert [fault.partition(":")[0] for fault in error.value.faults] == ["--require 'speed <= 1'", "--require 'macs'"]


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("comparison", ["<=", ">=", "<", ">"])
def test_the_whole_interval_must_meet_the_bound(measured, epsilon, comparison):
    share = share_within(epsilon)
    assert 0 < share < 1
    interval = binomtest(round(share * N), N).proportion_ci(method="exact")
    limits = [share, interval.low - 1e-6, interval.low + 1e-6, interval.high - 1e-6, interval.high + 1e-6]
    for limit in limits:
        result = checked(measured, f"adversarial_error@{epsilon!r} {comparison} {limit!r}")
        assert result.value == pytest.approx(share)
        assert result.interval == pytest.approx((interval.low, interval.high))
        bound = interval.high if "<" in comparison else interval.low
        assert result.met == COMPARISONS[comparison](bound, limit)
        at_point = checked(measured, f"adversarial_error@{epsilon!r} {comparison} {limit!r}", point=True)
        assert at_point.met == COMPARISONS[comparison](result.value, limit)


def test_point_allows_equality(measured):
    clean = measured.record["clean_error"]
    assert checked(measured, f"clean_error == {clean!r}", point=True).met
    assert not checked(measured, f"clean_error == {clean + 1 / N!r}", point=True).met


def test_counts_have_no_interval(measured):
    cost = measured.record["cost"]
    failed = len(measured.failed_checks())
    for metric, count in (("parameters", cost["parameters"]), ("macs", cost["macs"]), ("failed_checks", failed)):
        result = checked(measured, f"{metric} == {count}")
        assert (result.value, result.interval, result.met) == (count, None, True)
        assert not checked(measured, f"{metric} > {count}").met


def test_norm_of_a_requirement_is_linf_unless_it_names_another(measured):
    at_l2 = checked(measured, "adversarial_error@0.5:l2 <= 1")
    assert at_l2.value == measured.error_at(0.5, "l2")
    assert checked(measured, "adversarial_error@0.1 <= 1").value == measured.error_at(0.1, "linf") != at_l2.value


def test_the_only_norm_is_used():
    assert required_epsilons(parse_requirements(["adversarial_error@0.5 <= 1"]), ["l2"]) == {"l2": (0.5,)}


def test_epsilons_are_collected_by_norm():
    texts = ["adversarial_error@0.1 <= 1", "adversarial_error@1/10 >= 0", "clean_error <= 1", "adversarial_error@2:l2 <= 1"]
    assert required_epsilons(parse_requirements(texts), ["linf", "l2"]) == {"linf": (0.1,), "l2": (2.0,)}
    with pytest.raises(RunError, match="no attack has the norm l2; the attacks use linf"):
        required_epsilons(parse_requirements(["adversarial_error@2:l2 <= 1"]), ["linf"])


def test_an_epsilon_that_was_not_measured_is_refused(measured):
    with pytest.raises(RunError, match=re.escape("epsilon 0.2 was not measured; these were: 8/255, 0.1, 0.3")):
        checked(measured, "adversarial_error@0.2 <= 1")


def test_exact_radii_give_the_error_at_any_epsilon_of_their_range():
    x = torch.linspace(0.2, 0.8, N).view(N, 1, 1, 1).expand(N, 1, 8, 8).contiguous()
    y = (x[:, 0, 0, 0] > 0.45).long()
    options = ProfileOptions(tolerance=0.001)
    exact = profile(Threshold(), x, y, {"fgsm": FGSM()}, epsilons={"linf": [0.4]}, options=options)
    assert checked(exact, "adversarial_error@0.07 <= 1").value == pytest.approx(share_within(0.07))
    with pytest.raises(RunError, match=r"epsilon 0.5 was not measured"):
        checked(exact, "adversarial_error@0.5 <= 1")


RESULTS = [
    RequirementResult(
        "a<b", Requirement("clean_error <= 0.1", "clean_error", None, None, "<=", 0.1), 0.25, (0.2, 0.3), False
    ),
    RequirementResult("a<b", Requirement("macs <= 9", "macs", None, None, "<=", 9.0), 5.0, None, True),
    RequirementResult("c\x1b", Requirement("macs <= 9", "macs", None, None, "<=", 9.0), 1234567.0, None, False),
]


def test_junit_has_a_suite_for_each_network_and_a_case_for_each_requirement():
    root = ElementTree.fromstring(junit(RESULTS))
    assert (root.get("tests"), root.get("failures")) == ("3", "2")
    suites = root.findall("testsuite")
    assert [(s.get("name"), s.get("tests"), s.get("failures")) for s in suites] == [("a<b", "2", "1"), ("c�", "1", "1")]
    failed, passed = suites[0].findall("testcase")
    assert failed.find("failure").get("message") == "required clean_error <= 0.1, measured 0.250 [0.200, 0.300]"
    assert passed.find("failure") is None
    assert passed.find("system-out").text == "measured 5"
    assert suites[1].find("testcase").find("failure").get("message") == "required macs <= 9, measured 1,234,567"


def test_sarif_has_a_result_for_each_failure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    bundle = tmp_path / "one two"
    bundle.mkdir()
    for name in ("one two/manifest.json", "my net.py", "wired_networks.py"):
        (tmp_path / name).touch()

    def places(place):
        content = json.loads(sarif(RESULTS, {"a<b": str(bundle), "c\x1b": place}))
        (run,) = content["runs"]
        rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
        assert (content["version"], rules) == ("2.1.0", ["clean_error <= 0.1", "macs <= 9"])
        assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in run["results"])
        assert [result["message"]["text"] for result in run["results"]] == [
            "a<b: required clean_error <= 0.1, measured 0.250 [0.200, 0.300]",
            "c�: required macs <= 9, measured 1,234,567",
        ]
        locations = [[one["physicalLocation"] for one in result["locations"]] for result in run["results"]]
        return [[one["artifactLocation"]["uri"] for one in of_result] for of_result in locations]

    first = ["one%20two/manifest.json"]
    assert places("./my net.py:network") == [first, ["my%20net.py"]]
    assert places("wired_networks:network") == [first, ["wired_networks.py"]]
    assert places("no.such.module:network") == places("gone.pt2") == [first, []]
    monkeypatch.chdir(bundle)
    assert places("../my net.py:network") == [["manifest.json"], ["../my%20net.py"]]


def test_a_number_that_is_not_finite_meets_nothing():
    assert not any(compare(math.nan, 0.5) for compare in COMPARISONS.values())


def test_costs_outside_torch_cannot_be_required():
    class Outside(ScoresOnly):
        def scores(self, x):
            return x.flatten(1)[:, :2].clone()

    network = torch.nn.Sequential(Outside())
    check_countable(torch.nn.Identity(), parse_requirements(["macs <= 1"]))
    check_countable(network, parse_requirements(["clean_error <= 1", "failed_checks <= 3"]))
    for requirement in ("parameters <= 10", "macs <= 10"):
        wanted = parse_requirements([requirement])
        message = f"--require '{requirement}': .* cannot be counted, because the network runs outside torch"
        with pytest.raises(RunError, match=message):
            check_countable(network, wanted)
        x = torch.rand(4, 1, 2, 2)
        measured = profile(network, x, torch.zeros(4, dtype=torch.int64), {"noise": UniformNoise()}, {"linf": [0.1]})
        with pytest.raises(RunError, match=message):
            check_profile("a", measured, wanted)
