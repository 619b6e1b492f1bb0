"""Custom trial metrics from evaluation.record."""

import re

import numpy as np
import pytest

from nas.config.files import parse_config
from nas.config.writer import dump_config
from nas.errors import ConfigError, SearchFailedError
from nas.evaluation.metrics import parse_record
from nas.runs.run import read_run

RECORD = """
import torch

from nas.data import open_test


def errors(network, data, config):
    test = open_test(config.data)
    with torch.no_grad():
        wrong = network(test.x).argmax(1) != test.y
    return {"test_error": float(wrong.float().mean()), "images": len(data.train.x), "training": network.training}


def broken(network, data, config):
    return {"a": 1 / 0}


number = 3
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "custom_record.py").write_text(RECORD, encoding="utf-8")
    return tmp_path / "custom_record.py"


def test_numbers_are_kept_with_the_trial_and_in_the_leaderboard(file, tiny, trials_only, tmp_path):
    config = tiny(f"evaluation.record={file}:errors", "search.trials=3")
    trials_only(tmp_path / "run", config)
    run = read_run(tmp_path / "run", trust=True)
    for trial in run.trials:
        assert 0 < trial.metrics["test_error"] < 1
        assert trial.metrics["images"] == 300  # A quarter of the 400 images is for validation.
        assert trial.metrics["training"] == 0
    assert run.config == config
    rows = (tmp_path / "run" / "leaderboard.csv").read_text(encoding="utf-8").splitlines()
    assert "test_error,images,training" in rows[0]
    assert str(run.trials[0].metrics["test_error"]) in "".join(rows)


def test_an_error_of_the_function_is_the_trials_reason(file, tiny, trials_only, tmp_path):
    reason = rf"3 x evaluation\.record, {re.escape(str(file))}:broken: ZeroDivisionError: division by zero"
    with pytest.raises(SearchFailedError, match=reason):
        trials_only(tmp_path / "run", tiny(f"evaluation.record={file}:broken", "search.trials=3"))


def test_written_as_it_is_read(file):
    config = parse_config({"evaluation": {"record": "custom_record.py:errors"}}, folder=file.parent)
    assert f"record: {file}:errors" in dump_config(config)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("errors", "must be FILE.py:NAME, got 'errors'"),
        ("custom_record.py:none", "custom_record.py has no 'none'"),
        ("custom_record.py:number", "must name a function of a network, the images and the config, got 3"),
        (3, "must be a name, got 3"),
    ],
)
def test_what_is_no_function_is_refused(file, value, message):
    with pytest.raises(ConfigError) as caught:
        parse_config({"evaluation": {"record": value}}, folder=file.parent)
    assert caught.value.faults == (f"config: evaluation.record {message}",)


def test_numbers_of_other_libraries_are_numbers():
    assert parse_record({"a": np.float32(0.5), "b": 1, "c": True}) == {"a": 0.5, "b": 1.0, "c": 1.0}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "evaluation.record must return numbers by name, got NoneType"),
        ({"a": float("nan")}, "evaluation.record must return finite numbers by name, got 'a': nan"),
        ({"a": "b"}, "evaluation.record must return finite numbers by name, got 'a': 'b'"),
        ({1: 1.0}, "evaluation.record must return finite numbers by name, got 1: 1.0"),
        ({"clean_error": 1.0}, "evaluation.record must not return the name of a metric, got 'clean_error'"),
        ({"adversarial_error@0.1": 1}, "must not return the name of a metric, got 'adversarial_error@0.1'"),
    ],
)
def test_other_returns_are_refused(returned, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_record(returned)
