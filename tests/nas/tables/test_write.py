"""The CSV file and the data card of a table."""

import csv
import gzip
from dataclasses import replace

import pytest

import nas
from nas.tables.card import card_text
from nas.tables.measurements import Measurement
from nas.tables.write import is_reserved, write_table


def measurement(width, seed, error, epochs=()):
    metrics = {
        "parameters": 10.0 * width,
        "clean_error": 0.1,
        "adversarial_error": error,
        "test_adversarial_error": error / 2,
    }
    return Measurement(
        key=f"k{width}", seed=seed, architecture={"width": width, "kind": "a,b"}, state="complete", reason="",
        seconds=3600.0, training_seconds=1.0, metrics=metrics, epochs=tuple({"adversarial_error": e} for e in epochs),
    )  # fmt: skip


def rows(path):
    return list(csv.reader(gzip.decompress(path.read_bytes()).decode().splitlines()))


def test_rows_of_an_architecture_follow_each_other_and_missing_numbers_are_empty(tmp_path):
    failed = replace(measurement(3, 0, 0.0), state="failed", reason="ValueError: a, b", metrics={}, epochs=())
    ended = [measurement(2, 1, 0.25, (0.75, 0.5)), failed, measurement(2, 0, 0.125, (0.625,))]
    write_table(tmp_path / "t.csv.gz", ended)
    assert rows(tmp_path / "t.csv.gz") == [
        ["key", "seed", "width", "kind", "state", "reason", "seconds", "training_seconds", "parameters", "clean_error",
         "adversarial_error", "test_adversarial_error", "adversarial_error[1]", "adversarial_error[2]"],
        ["k2", "0", "2", "a,b", "complete", "", "3600.0", "1.0", "20", "0.1", "0.125", "0.0625", "0.625", ""],
        ["k2", "1", "2", "a,b", "complete", "", "3600.0", "1.0", "20", "0.1", "0.25", "0.125", "0.75", "0.5"],
        ["k3", "0", "3", "a,b", "failed", "ValueError: a, b", "3600.0", "1.0", "", "", "", "", "", ""],
    ]  # fmt: skip


def test_rows_have_the_given_order(tmp_path):
    write_table(tmp_path / "t.csv.gz", [measurement(width, 0, 0.1) for width in (1, 2, 3, 4)], ["k3", "gone", "k2"])
    assert [row[0] for row in rows(tmp_path / "t.csv.gz")[1:]] == ["k3", "k2", "k1", "k4"]


@pytest.mark.parametrize(
    "name", ["key", "state", "arch", "parameters", "clean_error", "adversarial_error@0.1", "test_x", "power_law_exponent"]
)
def test_names_of_columns_are_reserved(name):
    assert is_reserved(name)
    assert not is_reserved(f"my_{name}")


def test_equal_measurements_give_equal_bytes(tmp_path):
    for name in ("a.csv.gz", "b.csv.gz"):
        write_table(tmp_path / name, [measurement(2, 0, 0.25)])
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


ENVIRONMENT = {
    "processor": "a processor", "device": "cpu", "threads": 1, "python": "3.11.7", "versions": {"torch": "2.14.1"},
    "data": {"train": "0a", "test": "1b"},
}  # fmt: skip


def test_card_states_counts_correlations_and_deviations():
    # The second seed adds 0.02 and keeps the order. The first epoch reverses it.
    first = [measurement(width, 0, 0.1 * width, (0.5 - 0.1 * width, 0.1 * width)) for width in (1, 2, 3, 4)]
    second = [measurement(width, 1, 0.1 * width + 0.02, (0.5 - 0.1 * width, 0.1 * width)) for width in (1, 2, 3, 4)]
    extra = [replace(first[0], key="x", state="infeasible", reason="no path"), replace(first[0], key="y", state="failed")]
    text = card_text(nas.Config(), ENVIRONMENT, [*first, *second, *extra])
    for part in (
        "# cell201 on digits\n",
        "10 trainings of 6 architectures that differ. 4 of these",
        "8 trainings are complete, 1 networks have no\npath",
        "and 1 trainings failed",
        "| validation and test, same training | 8 | 1.000 | 1.000 |",
        "| two seeds, validation | 4 | 1.000 | 1.000 |",
        "| after epoch 1 and at the end, validation | 8 | -0.976 | ",
        "Standard deviation on validation: 0.0141 over seeds, ",  # 0.02 divided by the square root of 2.
        "10.0 hours of measurement in all, and 3600.0 s a row (median). Last on: a processor; device:\ncpu;",
        "train `0a`, test `1b`",
        "  recipe:\n    entropy_penalty: 0.0\n",
    ):
        assert part in text, part


def test_card_has_dashes_where_nothing_can_be_compared():
    text = card_text(nas.Config(), ENVIRONMENT, [measurement(1, 0, 0.1, (0.2,))])
    assert "| two seeds, test | 0 | - | - |" in text
    assert "over seeds" not in text
