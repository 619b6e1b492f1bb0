"""Measurements of a table, and the file that they are appended to."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import RunError
from nas.executors import EpochResult, Precheck, TrialResult
from nas.tables.measurements import Measurement, append_measurement, read_measurements

ARCHITECTURE = {"width": 4, "rate": None, "kind": "a,b", "on": True}
KNOWN = Precheck({"parameters": 12.0, "macs": 30.0}, constant=False)
ERRORS = {"clean_error": 2 / 3, "adversarial_error": 0.75, "test_clean_error": 0.5, "test_adversarial_error": 0.875}
EPOCHS = tuple(
    EpochResult(n, 2, 0.5, 0.1, 0.2, seconds=1.25, measured={"clean_error": n / 3, "adversarial_error": 1 / n})
    for n in (1, 2)
)
COMPLETE = Measurement.of("abc", 1, ARCHITECTURE, KNOWN, TrialResult(ERRORS, seconds=4.5, epochs=EPOCHS))


def test_result_becomes_a_measurement():
    assert (
        Measurement(
            key="abc",
            seed=1,
            architecture=ARCHITECTURE,
            state="complete",
            reason="",
            seconds=4.5,
            training_seconds=2.5,
            metrics={"parameters": 12.0, "macs": 30.0, **ERRORS, "clean_error": 0.666667},
            epochs=(
                {"clean_error": 0.333333, "adversarial_error": 1.0},
                {"clean_error": 0.666667, "adversarial_error": 0.5},
            ),
        )
        == COMPLETE
    )
    infeasible = Measurement.of("abc", 0, ARCHITECTURE, KNOWN, TrialResult(infeasible="no path"))
    assert (infeasible.state, infeasible.reason) == ("infeasible", "no path")
    failed = Measurement.of("abc", 0, ARCHITECTURE, None, TrialResult(reason="ValueError: no"))
    assert (failed.state, failed.reason, failed.metrics) == ("failed", "ValueError: no", {})


def test_whole_numbers_keep_their_digits_and_others_have_six():
    known = Precheck({"parameters": 12_345_678.0, "macs": 0.0}, constant=False)
    metrics = Measurement.of("abc", 0, ARCHITECTURE, known, TrialResult({"power_law_prefactor": 1234.56789})).metrics
    assert metrics == {"parameters": 12_345_678.0, "macs": 0.0, "power_law_prefactor": 1234.57}


def test_what_is_appended_is_read(tmp_path):
    path = tmp_path / "m.jsonl"
    assert read_measurements(path) == []
    measurements = [replace(COMPLETE, seed=seed, reason="line\nbreak \u2028") for seed in range(5)]
    for measurement in measurements:
        append_measurement(path, measurement)
    assert read_measurements(path) == measurements


def test_last_measurement_of_a_training_counts(tmp_path):
    failed = replace(COMPLETE, state="failed", reason="out of memory", metrics={}, epochs=())
    for measurement in (failed, replace(COMPLETE, seed=2), COMPLETE):
        append_measurement(tmp_path / "m.jsonl", measurement)
    assert read_measurements(tmp_path / "m.jsonl") == [COMPLETE, replace(COMPLETE, seed=2)]


@given(cut=st.integers(1, 400))
def test_torn_last_line_costs_only_itself(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("torn") / "m.jsonl"
    for seed in range(3):
        append_measurement(path, replace(COMPLETE, seed=seed, reason="x" * 100_000 * (seed == 2)))
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    path.write_bytes(whole[: max(last, len(whole) - cut)])
    assert [m.seed for m in read_measurements(path)] == [0, 1]
    append_measurement(path, replace(COMPLETE, seed=7))
    assert [m.seed for m in read_measurements(path)] == [0, 1, 7]


def line_of(**changes):
    return json.dumps({**asdict(COMPLETE), **changes})


@pytest.mark.parametrize(
    "line",
    [
        "{", "[]", "{}", "3", json.dumps({"epochs": 3}), '{"epochs": [], "more": 1}', line_of(metrics=None),
        line_of(metrics={**COMPLETE.metrics, "clean_error": "x"}), line_of(metrics={"clean_error": 0.1}),
        line_of(architecture=[]), line_of(epochs=[3]), line_of(epochs=[{"clean_error": None}]), line_of(seed="0"),
        line_of(seconds="1"),
    ],
)  # fmt: skip
def test_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "m.jsonl"
    append_measurement(path, COMPLETE)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RunError, match=r"m\.jsonl, line 2: damaged \(.*\); without this line, the row is measured again$"):
        read_measurements(path)


def test_link_is_refused(tmp_path):
    append_measurement(tmp_path / "other", COMPLETE)
    (tmp_path / "m.jsonl").symlink_to(tmp_path / "other")
    with pytest.raises(RunError, match=r"m\.jsonl: is a link"):
        read_measurements(tmp_path / "m.jsonl")
