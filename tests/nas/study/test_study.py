"""The study holds all results of a search."""

from contextlib import ExitStack

import pytest

from nas.config.schema import ObjectiveConfig
from nas.config.writer import as_data
from nas.errors import RunError
from nas.runs.run import read_run
from nas.samplers import TPE
from nas.spaces.options import open_space
from nas.study.storage import StudyLocation, close_storage, open_storage
from nas.study.study import config_changes, create_study, open_study, set_constraints
from nas.study.trial import read_trials


def made(path, config):
    place = StudyLocation(path)
    return create_study(open_storage(place, write=True), place, config, open_space(config.space, trust=True))


@pytest.fixture
def loaded():
    """Opens the study in a file until the end of the test."""
    with ExitStack() as stack:
        yield lambda path: stack.enter_context(open_study(StudyLocation(path)))


@pytest.fixture
def study(tmp_path, tiny):
    path = tmp_path / "study.db"
    return made(path, tiny())


def test_violation_is_the_sum_of_relative_excesses(study):
    objective = ObjectiveConfig(constraints={"parameters": 200, "clean_error": 0.1, "adversarial_error": 0})
    asked = study.ask()
    set_constraints(asked, objective, {"parameters": 300.0, "clean_error": 0.05, "adversarial_error": 0.25})
    study.tell(asked, [0.25])
    (trial,) = read_trials(study)
    # The excess is relative to the bound, or absolute if the bound is 0. A met constraint does not offset another one.
    assert trial.violation == pytest.approx(0.5 + 0.25)


def test_metric_at_its_bound_is_feasible(study):
    asked = study.ask()
    set_constraints(asked, ObjectiveConfig(constraints={"parameters": 200}), {"parameters": 200.0})
    study.tell(asked, [0.1])
    assert read_trials(study)[0].violation == 0


def test_differences_from_another_config(tmp_path, tiny):
    study = made(tmp_path / "study.db", tiny())
    assert config_changes(study, tiny()) == {}
    other = tiny("search.trials=7", "objective.constraints={parameters: 100}", "search.sampler=random")
    assert config_changes(study, other) == {
        "objective.constraints.parameters": (None, 100.0),
        "search.trials": (6, 7),
        "search.sampler": ({**as_data(TPE()), "name": "tpe"}, {"name": "random"}),
    }


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_damaged_database_is_reported_with_its_path(content, tmp_path, tiny):
    path = tmp_path / "study.db"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"study\.db: "):
        made(path, tiny())


def test_truncated_database_of_a_run_is_reported_with_its_path(run_copy):
    study = run_copy / "study.db"
    study.write_bytes(study.read_bytes()[:5000])
    with pytest.raises(RunError, match=r"study\.db: "):
        read_run(run_copy)


def test_database_without_our_study_is_reported(run_copy, loaded):
    (run_copy / "study.db").unlink()
    assert loaded(run_copy / "study.db") is None
    close_storage(open_storage(StudyLocation(run_copy / "study.db"), write=True))
    assert loaded(run_copy / "study.db") is None
    with pytest.raises(RunError, match=r"study\.db: holds no study of Hardcell"):
        read_run(run_copy)


def test_data_frame_of_the_study_holds_everything(finished_run, loaded):
    pytest.importorskip("pandas")
    path = finished_run / "study.db"
    frame = loaded(path).trials_dataframe()
    assert len(frame) == 6
    complete = frame[frame.state == "COMPLETE"]
    for name in ("architecture", "metrics", "epochs", "seconds", "worker", "radii", "key", "attempts", "random"):
        assert complete[f"user_attrs_{name}"].notna().all(), name
    row = complete.iloc[0]
    assert set(row.user_attrs_metrics) == {"parameters", "macs", "clean_error", "adversarial_error"}
    assert row.user_attrs_metrics["adversarial_error"] == row.value_adversarial_error
    assert [epoch["epoch"] for epoch in row.user_attrs_epochs] == [1, 2]
    assert {"loss", "clean_error", "adversarial_error", "seconds"} <= set(row.user_attrs_epochs[0])
    assert {name.removeprefix("params_") for name in frame if name.startswith("params_")} == set(row.user_attrs_architecture)
    assert (complete.user_attrs_seconds > 0).all()


def test_study_names_its_metrics_and_holds_the_config(finished_run, tiny, all_forms, loaded):
    from nas.config.files import parse_config

    path = finished_run / "study.db"
    study = loaded(path)
    assert study.metric_names == ["adversarial_error"]
    assert parse_config(study.user_attrs["config"]) == tiny(all_forms)
