"""Where the seconds of the trials go."""

import pytest

from nas.cli.tables import format_stages, print_stages
from nas.runs.time_profile import stage_seconds
from nas.study.trial import Trial

STAGES = {"data": 0.5, "attack": 2.0, "gradient": 1.0, "update": 0.25, "judging": 0.25}


def trial(number, seconds=10.0, state="complete", **change):
    epoch = {"epoch": 1, "seconds": 4.0, "stages": STAGES, **change}
    return Trial(number, state, "", {}, {}, 0.0, seconds, None, None, epochs=[epoch, epoch])


def test_the_rest_of_a_trial_is_scoring():
    doubled = {name: 2 * seconds for name, seconds in STAGES.items()}
    assert stage_seconds([trial(0)]) == {**doubled, "scoring": 2.0}


def test_it_is_the_mean_over_the_complete_trials():
    trials = [trial(0), trial(1, seconds=12.0), trial(2, state="pruned"), trial(3, state="failed", seconds=99.0)]
    assert stage_seconds(trials)["scoring"] == 3.0


def test_a_resumed_trial_does_not_skew_the_scoring():
    assert stage_seconds([trial(0), trial(1, seconds=3.0)])["scoring"] == 2.0
    assert stage_seconds([trial(0, seconds=3.0)])["scoring"] == 0.0


@pytest.mark.parametrize("stages", [{}, None, "text"])
def test_trials_without_times_do_not_count(stages):
    assert stage_seconds([trial(0, stages=stages)]) == {}
    assert stage_seconds([]) == {}


def test_a_line_names_the_longest_stage_first():
    assert format_stages({"data": 1.0, "attack": 3.0}) == "a trial takes 4.0 s: attack 75%, data 25%"
    assert format_stages({"data": 300.0, "attack": 300.0}).startswith("a trial takes 10 min: ")
    assert format_stages({"data": 0.0}) == "a trial takes 0.0 s: data 0%"


def test_a_table_has_a_row_for_each_stage(capsys):
    print_stages({"data": 1.0, "attack": 3.0})
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["│", "attack", "│", "3.00", "│", "75%", "│"] in rows
    assert ["│", "total", "│", "4.00", "│", "100%", "│"] in rows
    print_stages({})
    assert capsys.readouterr().out == "no trial was timed\n"
