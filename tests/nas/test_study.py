"""Ranking, and the study as the record of everything."""

import pytest

from nas.config import ObjectiveConfig
from nas.errors import RunError
from nas.run import read_run
from nas.ranking import ranked
from nas.space_options import open_space
from nas.storage import Place, open_storage
from nas.study import Trial, create_study, load_study, read_trials, set_constraints


def trial(number, *, adversarial=0.5, clean=0.1, parameters=100.0, violation=0.0, state="complete", key=None):
    return Trial(
        number=number,
        state=state,
        key=key or f"key{number}",
        architecture={},
        metrics={"adversarial_error": adversarial, "clean_error": clean, "parameters": parameters},
        violation=violation,
        seconds=0.0,
        reason=None,
        duplicate_of=None,
    )


def made(path, config):
    place = Place(path)
    return create_study(open_storage(place), place, config, open_space(config.space))


def loaded(path):
    place = Place(path)
    return load_study(open_storage(place), place)


def numbers(trials, *minimise):
    return [t.number for t in ranked(trials, ObjectiveConfig(minimise=minimise or ("adversarial_error",)))]


def test_feasible_come_first_and_then_the_others_by_violation():
    trials = [
        trial(0, adversarial=0.1, violation=0.5),
        trial(1, adversarial=0.9),
        trial(2, adversarial=0.2, violation=0.1),
        trial(3, adversarial=0.8),
    ]
    assert numbers(trials) == [3, 1, 2, 0]


def test_only_complete_trials_are_ranked():
    trials = [trial(0, adversarial=0.1, state="failed"), trial(1, state="rejected"), trial(2, state="running"), trial(3)]
    assert numbers(trials) == [3]
    assert numbers([]) == []


def test_of_equals_the_earlier_comes_first():
    assert numbers([trial(2), trial(0), trial(1)]) == [0, 1, 2]


def test_an_architecture_is_ranked_once_as_its_first_trial():
    assert numbers([trial(0, adversarial=0.4), trial(1, adversarial=0.3, key="a"), trial(2, adversarial=0.3, key="a")]) == [
        1,
        0,
    ]


def test_pareto_front_comes_before_what_it_dominates():
    trials = [
        trial(0, adversarial=0.10, parameters=900),
        trial(1, adversarial=0.20, parameters=950),  # dominated by 0
        trial(2, adversarial=0.30, parameters=100),
        trial(3, adversarial=0.40, parameters=100),  # dominated by 2
        trial(4, adversarial=0.25, parameters=500),
    ]
    # The best by the first objective, then the other end of the front, which adds more hypervolume than what lies between.
    assert numbers(trials, "adversarial_error", "parameters") == [0, 2, 4, 1, 3]
    assert numbers(trials, "parameters", "adversarial_error") == [2, 4, 0, 3, 1]


def test_equal_points_do_not_dominate_each_other():
    assert numbers([trial(0), trial(1)], "adversarial_error", "parameters") == [0, 1]


def test_infeasible_point_dominates_no_feasible_one():
    trials = [trial(0, adversarial=0.1, parameters=10, violation=1.0), trial(1, adversarial=0.2, parameters=20)]
    assert numbers(trials, "adversarial_error", "parameters") == [1, 0]


@pytest.fixture
def study(tmp_path, tiny):
    path = tmp_path / "study.db"
    return made(path, tiny())


def test_violation_is_the_sum_of_relative_excesses(study):
    objective = ObjectiveConfig(constraints={"parameters": 200, "clean_error": 0.1, "adversarial_error": 0})
    asked = study.ask()
    set_constraints(asked, objective, {"parameters": 300.0, "clean_error": 0.05, "adversarial_error": 0.25})
    study.tell(asked, [0.25])
    (found,) = read_trials(study)
    # Half of the bound too many parameters; a bound of zero is not divided by; a met constraint makes up for nothing.
    assert found.violation == pytest.approx(0.5 + 0.25)


def test_metric_at_its_bound_is_feasible(study):
    asked = study.ask()
    set_constraints(asked, ObjectiveConfig(constraints={"parameters": 200}), {"parameters": 200.0})
    study.tell(asked, [0.1])
    assert read_trials(study)[0].violation == 0


def test_study_of_another_config_is_refused_with_the_difference(tmp_path, tiny):
    path = tmp_path / "study.db"
    made(path, tiny())
    made(path, tiny())
    with pytest.raises(RunError, match=r"study\.db: belongs to another config: search\.trials is 6 in the study and 7 here"):
        made(path, tiny("search.trials=7"))
    with pytest.raises(RunError, match=r"objective\.constraints\.parameters is None in the study and 100\.0 here"):
        made(path, tiny("objective.constraints={parameters: 100}"))


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_damaged_database_is_told_with_its_place(content, tmp_path, tiny):
    path = tmp_path / "study.db"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"study\.db: "):
        made(path, tiny())


def test_truncated_database_of_a_run_is_told_with_its_place(run_copy):
    study = run_copy / "study.db"
    study.write_bytes(study.read_bytes()[:5000])
    with pytest.raises(RunError, match=r"study\.db: "):
        read_run(run_copy)


def test_database_without_our_study_is_told(tmp_path):
    path = tmp_path / "study.db"
    with pytest.raises(RunError, match=r"study\.db: holds no study of ours"):
        loaded(path)


def test_data_frame_of_the_study_holds_everything(finished_run):
    pytest.importorskip("pandas")
    path = finished_run / "study.db"
    frame = loaded(path).trials_dataframe()
    assert len(frame) == 6
    complete = frame[frame.state == "COMPLETE"]
    for name in ("architecture", "metrics", "epochs", "seconds", "worker", "radii", "key", "attempts", "random"):
        assert complete[f"user_attrs_{name}"].notna().all(), name
    row = complete.iloc[0]
    assert set(row.user_attrs_metrics) == {"parameters", "macs", "clean_error", "adversarial_error"}
    assert (
        row.user_attrs_metrics["adversarial_error"] == row.values_adversarial_error
        if "values_adversarial_error" in row
        else True
    )
    assert [epoch["epoch"] for epoch in row.user_attrs_epochs] == [1, 2]
    assert {"loss", "clean_error", "adversarial_error", "seconds"} <= set(row.user_attrs_epochs[0])
    assert {name.removeprefix("params_") for name in frame if name.startswith("params_")} == set(row.user_attrs_architecture)
    assert (complete.user_attrs_seconds > 0).all()


def test_study_names_its_metrics_and_holds_the_config(finished_run, tiny):
    from nas.config_file import parse_config

    path = finished_run / "study.db"
    study = loaded(path)
    assert study.metric_names == ["adversarial_error"]
    assert parse_config(study.user_attrs["config"]) == tiny()
