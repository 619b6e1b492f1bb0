import dataclasses

import numpy as np
import pytest

from evaluators import RobustnessProfile, summary_line


def make(dataset="cifar10", failed=(), norms=("linf",), grid=(0.01, 8 / 255, 0.3, 0.5)):
    radii = {f"pgd_{norm}": np.array([0, 0.01, 8 / 255, 0.3, 0.5, np.inf, np.inf, np.inf]) for norm in norms}
    record = {
        "dataset": dataset,
        "n": 8,
        "clean_error": 0.125,
        "attacks": {f"pgd_{norm}": {"config": {"norm": norm}, "epsilons": list(grid)} for norm in norms},
        "checks": [
            {"name": name, "passed": name not in failed, "evidence": {}} for name in ("deterministic", "enough_images")
        ],
    }
    return RobustnessProfile(record, radii)


def test_clean_profile():
    assert summary_line(make()) == "clean error 12.5%, adversarial error 37.5% at linf 0.0314, on 8 images"


def test_failed_checks_come_first():
    line = summary_line(make(failed=["deterministic", "enough_images"]))
    assert line.startswith("FAILED CHECKS: deterministic, enough_images. ")
    assert line.endswith(summary_line(make()))
    assert "\n" not in line


@pytest.mark.parametrize(
    ("dataset", "claimed", "expected"),
    [
        ("mnist", None, "50.0% at linf 0.3"),
        ("own", None, "37.5% at linf 0.0314"),
        ("own", {"linf": 0.4}, "50.0% at linf 0.3"),  # 0.3 is the largest measured epsilon up to 0.4.
        ("own", {"linf": 0.3}, "50.0% at linf 0.3"),
        ("own", {"linf": 0.001}, "25.0% at linf 0.01"),
        ("own", {"l2": 0.001}, "37.5% at linf 0.0314"),
    ],
)
def test_the_epsilon_is_the_largest_measured_one_up_to_the_claim(dataset, claimed, expected):
    assert f"adversarial error {expected}, on" in summary_line(make(dataset), claimed)


def test_each_norm_has_its_error():
    line = summary_line(make(norms=("linf", "l2")))
    assert "adversarial error 37.5% at linf 0.0314, 62.5% at l2 0.5, on" in line


def test_the_worst_case_over_the_attacks_counts():
    robustness = make()
    record = robustness.record | {
        "attacks": robustness.record["attacks"] | {"fgsm": robustness.record["attacks"]["pgd_linf"]}
    }
    both = dataclasses.replace(robustness, record=record, radii=robustness.radii | {"fgsm": np.full(8, 0.01)})
    assert "adversarial error 100.0% at linf" in summary_line(both)
