"""An interrupted run resumes, and its results equal those of an uninterrupted run."""

import hashlib
import random
import re
import shutil
import signal
import subprocess
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from optuna import load_study
from optuna.storages import RDBStorage
from optuna.trial import TrialState

import nas
from nas.bundle import export
from nas.bundle.load import is_bundle
from nas.config.changes import check_changes
from nas.errors import BundleError, ConfigError, RunError
from nas.executors import Precheck
from nas.pipeline.events import (
    BundleFinished,
    EpochFinished,
    FinalistsStarted,
    RunStarted,
    StageStarted,
    TrialFinished,
    TrialStarted,
)
from nas.pipeline.prechecks import changed_networks
from nas.pipeline.prepare import prepare
from nas.pipeline.search import export_events, resume_events, search_events
from nas.study.storage import StudyLocation, close_storage, open_storage
from nas.study.study import open_study

pytestmark = pytest.mark.usefixtures("no_surfaces")


WRITES = ("create_new_trial", "set_trial_param", "set_trial_user_attr", "set_trial_system_attr", "set_trial_state_values")


class KilledError(BaseException):
    """Simulates the end of the process; no `except Exception` catches it."""


def bundle_hashes(run):
    return {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in run.glob("bundles/*/weights.safetensors")
    }


def assert_same_run(run, whole, study_content, bundles=3):
    assert study_content(run) == study_content(whole)
    assert len(bundle_hashes(run)) == bundles
    assert bundle_hashes(run).items() <= bundle_hashes(whole).items()
    for name in bundle_hashes(run):
        mine, other = (nas.read_run(path).folder.bundles / name for path in (run, whole))
        assert (mine / "profile.json").read_text() == (other / "profile.json").read_text()
        with np.load(mine / "radii.npz") as a, np.load(other / "radii.npz") as b:
            assert all(np.array_equal(a[key], b[key]) for key in b)


@pytest.fixture(scope="module")
def uninterrupted(tiny, study_content, trials_only, tmp_path_factory):
    """A function that returns the study content of an uninterrupted search with a sampler. It runs each search once."""
    known = {}

    def of(sampler):
        if sampler not in known:
            path = tmp_path_factory.mktemp(sampler) / "run"
            trials_only(path, tiny(f"search.sampler={sampler}", "finalists.references=false"))
            known[sampler] = study_content(path)
        return known[sampler]

    return of


@pytest.mark.parametrize(
    ("sampler", "broken"),
    [
        ("tpe", [(0, 1)]),
        ("tpe", [(1, 2), (3, 1), (3, 2), (5, 2)]),
        ("random", [(1, 2), (3, 1), (5, 2)]),
    ],
    ids=str,
)
def test_resumed_search_has_the_trials_of_an_uninterrupted_one(
    sampler, broken, tiny, study_content, tmp_path, trials_only, break_off, uninterrupted
):
    run = tmp_path / "run"
    events = search_events(tiny(f"search.sampler={sampler}", "finalists.references=false"), run)
    for trial, epoch in broken:
        break_off(events, trial, epoch)
        assert study_content(run)[trial]["state"] == "RUNNING"
        events = resume_events(run)
    events.close()
    trials_only(run)
    assert study_content(run) == uninterrupted(sampler)


def test_trials_store_how_often_they_were_started(tiny, tmp_path, break_off, stored, trials_only):
    run = tmp_path / "run"
    break_off(search_events(tiny("search.trials=2"), run), 1, error=KilledError)
    trials_only(run)
    assert [trial.user_attrs["attempts"] for trial in stored(run)] == [1, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, None], ids=["in the training", "elsewhere"])
def test_interrupts_use_up_no_attempts(error, tiny, tmp_path, break_off, stored, trials_only):
    run = tmp_path / "run"
    break_off(search_events(tiny("search.trials=1", "search.attempts=1"), run), 0, error=error)
    break_off(resume_events(run), 0, error=KilledError)
    for _ in range(3):
        break_off(resume_events(run), 0, error=error)
    assert [trial.user_attrs["attempts"] for trial in stored(run)] == [1]  # Only the kill counts as an attempt.
    trials_only(run)
    assert [(trial.state, trial.user_attrs["attempts"]) for trial in stored(run)] == [(TrialState.COMPLETE, 2)]


@pytest.mark.parametrize(
    "place", ["nas.evaluation.train_and_attack.TrainAndAttack.precheck", "search_spaces.SearchSpace.suggest"]
)
def test_interrupts_before_the_training_use_up_no_attempts(place, tiny, tmp_path, monkeypatch, stored, trials_only):
    def interrupted(*args):
        raise KeyboardInterrupt

    run, events = tmp_path / "run", search_events(tiny("search.trials=1", "search.attempts=1"), tmp_path / "run")
    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupted)
            with pytest.raises(KeyboardInterrupt):
                list(events)
        events = resume_events(run)
    events.close()
    trials_only(run)
    assert [(trial.state, trial.user_attrs["attempts"]) for trial in stored(run)] == [(TrialState.COMPLETE, 1)]


def mixed(custom_space):
    """Config of a search that has complete, duplicate, failed and infeasible (too large or constant) trials."""
    return custom_space(
        "raises in training,constant,works",
        # There are more trials than architectures, so the last trials are duplicates.
        "search.trials=16",
        "search.random_trials=4",
        "training.epochs=1",
        "objective.constraints={parameters: 700}",
    )


def kill_at(monkeypatch, write, before):
    """Simulates the end of the process before or after the given write to the study."""
    number = count()
    for name in WRITES:
        original = getattr(RDBStorage, name)

        def counted(self, *args, original=original, **kwargs):
            if next(number) != write:
                return original(self, *args, **kwargs)
            if not before:
                original(self, *args, **kwargs)
            raise KilledError

        monkeypatch.setattr(RDBStorage, name, counted)
    return number


def check_killed_at(writes, custom_space, study_content, tmp_path, monkeypatch, trials_only):
    whole = tmp_path / "whole"
    with monkeypatch.context() as patch:
        number = kill_at(patch, -1, before=True)
        trials_only(whole, mixed(custom_space))
        total = next(number)
    states = {trial["state"] for trial in study_content(whole)}
    assert states == {"COMPLETE", "PRUNED", "FAIL"}
    assert any("duplicate_of" in trial["attributes"] for trial in study_content(whole))
    assert {
        trial["attributes"].get("reason", "").split()[0] for trial in study_content(whole) if trial["state"] == "PRUNED"
    } == {
        "parameters",
        "no",
    }
    for write in writes(total):
        run = tmp_path / f"killed-{write}"
        with monkeypatch.context() as patch:
            kill_at(patch, write, before=write % 2 == 0)
            with pytest.raises(KilledError):
                trials_only(run, mixed(custom_space))
        trials_only(run)
        assert study_content(run) == study_content(whole), f"killed at write {write} of {total}"
        shutil.rmtree(run)


def test_killed_at_some_writes_into_the_study(custom_space, study_content, tmp_path, monkeypatch, trials_only):
    check_killed_at(
        lambda total: random.Random(0).sample(range(total), 3),
        custom_space,
        study_content,
        tmp_path,
        monkeypatch,
        trials_only,
    )


@pytest.mark.slow
def test_killed_at_every_fifth_write_into_the_study(custom_space, study_content, tmp_path, monkeypatch, trials_only):
    # The step of the range is odd, so that kills before and after a write alternate.
    check_killed_at(lambda total: range(1, total, 5), custom_space, study_content, tmp_path, monkeypatch, trials_only)


def test_duplicates_of_a_trial_before_the_interruption_are_still_answered_from_the_cache(
    custom_space, tmp_path, break_off, trials_only
):
    run = tmp_path / "run"
    config = custom_space("works", "search.trials=10", "search.random_trials=10")
    break_off(search_events(config, run), 0)
    events = trials_only(run)
    trained = {event.name for event in events if isinstance(event, EpochFinished)}
    trials = nas.read_run(run).trials
    again = [trial for trial in trials if trial.duplicate_of is not None]
    assert len(again) >= 6  # There are only four architectures.
    assert not {f"trial {trial.number}" for trial in again} & trained
    assert all(trial.metrics == trials[trial.duplicate_of].metrics for trial in again)


def kill_soon(process, seconds):
    """Kills a process some seconds after its work has begun; returns whether it was still running."""
    process.stdout.readline()  # The line "run FOLDER" is printed when the study exists.
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return process.returncode == -signal.SIGKILL


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def test_killed_twice_at_random_and_resumed(hardcell, tiny_file, finished_run, study_content, tmp_path):
    run, moment = tmp_path / "run", random.Random(1)
    # A run without references has the same trials and finalist as `finished_run`.
    process = hardcell("search", tiny_file, "--run", run, "--set", "finalists.references=false")
    assert kill_soon(process, moment.uniform(0, 1.5))
    kill_soon(hardcell("resume", run), moment.uniform(0, 3))
    nas.resume(run)
    assert_same_run(run, finished_run, study_content, bundles=1)


@pytest.mark.slow
def test_killed_at_twenty_random_moments_and_resumed(hardcell, tiny_file, finished_run, study_content, tmp_path):
    run, moment, kills = tmp_path / "run", random.Random(2), 0
    # Enough attempts for every trial; another test covers the limit.
    process = hardcell("search", tiny_file, "--run", run, "--set", "search.attempts=100")
    for _ in range(20):
        kills += kill_soon(process, moment.uniform(0, 3))
        for bundle in run.glob("bundles/[!.]*"):
            assert is_bundle(bundle)
            nas.load(bundle)
        if kills and process.returncode == 0:
            shutil.rmtree(run)
            process = hardcell("search", tiny_file, "--run", run, "--set", "search.attempts=100")
        else:
            process = hardcell("resume", run)
    finish(process)
    finish(hardcell("resume", run))
    assert kills >= 10
    assert_same_run(run, finished_run, study_content)


def started(stored, run):
    """Returns the number of trials in a run's study, and the content of the ended trials by number."""
    trials = stored(run)
    ended = {trial.number: (trial.params, trial.values, trial.user_attrs) for trial in trials if trial.state.is_finished()}
    return len(trials), ended


def killed_under_ray(hardcell, stored, tiny_file, run, kills, seed):
    """Kills a search under Ray so many times, then lets it end. Ended trials must not change.

    A search that ends before the kill is begun anew, so that machines of any speed see all kills.
    """
    moment, ended, killed = random.Random(seed), {}, 0
    options = ("--executor", "ray", "--set", "search.executor.workers=2", "--set", "search.sampler=random")
    options += ("--set", "search.trials=30", "--set", "search.attempts=100", "--set", "finalists.references=false")
    search = ("search", tiny_file, "--run", run, *options, "--set", "search.checkpoint_seconds=0")
    process = hardcell(*search)
    while killed < kills:
        # Ray takes some seconds to start, before the first trial of the process begins.
        if not kill_soon(process, moment.uniform(2, 7)):
            assert process.returncode == 0
            shutil.rmtree(run)
            process, ended = hardcell(*search), {}
            continue
        killed += 1
        _, now = started(stored, run)
        assert {number: now[number] for number in ended} == ended  # No ended trial is lost or run again.
        ended = now
        process = hardcell("resume", run)
    finish(process)
    count, now = started(stored, run)
    assert {number: now[number] for number in ended} == ended
    assert sorted(now) == list(range(30))
    assert count == 30


def same_under_ray(study_content, run, tmp_path, tiny, trials_only):
    """Asserts that the trials equal those of a local, uninterrupted search."""
    whole = tmp_path / "whole"
    trials_only(whole, tiny("search.sampler=random", "search.trials=30", "finalists.references=false"))
    assert [trial["attributes"]["architecture"] for trial in study_content(run)] == [
        trial["attributes"]["architecture"] for trial in study_content(whole)
    ]
    assert study_content(run) == study_content(whole)


@pytest.mark.ray
def test_killed_twice_under_ray_and_resumed(hardcell, tiny_file, tiny, study_content, stored, tmp_path, trials_only):
    run = tmp_path / "run"
    killed_under_ray(hardcell, stored, tiny_file, run, 2, seed=0)
    same_under_ray(study_content, run, tmp_path, tiny, trials_only)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_at_ten_random_moments_under_ray(hardcell, tiny_file, tiny, study_content, stored, tmp_path, trials_only):
    run = tmp_path / "run"
    killed_under_ray(hardcell, stored, tiny_file, run, 10, seed=1)
    same_under_ray(study_content, run, tmp_path, tiny, trials_only)


def test_trial_is_started_again_as_often_as_attempts_says_and_then_fails(tiny, tmp_path, break_off, stored, trials_only):
    run = tmp_path / "run"
    config = tiny("search.trials=2", "search.attempts=2", "finalists.references=false")
    break_off(search_events(config, run), 0, error=KilledError)
    for _ in range(2):
        break_off(resume_events(run), 0, error=KilledError)
    events = trials_only(run)
    first, second = stored(run)
    assert first.state == TrialState.FAIL
    assert first.user_attrs["reason"].endswith(" 3 times")
    assert second.state == TrialState.COMPLETE
    assert [event.trial.number for event in events if isinstance(event, TrialFinished)] == [0, 1]


def test_trial_killed_less_often_than_attempts_is_started_again(tiny, tmp_path, break_off, stored, trials_only):
    run = tmp_path / "run"
    break_off(search_events(tiny("search.trials=1", "search.attempts=2"), run), 0, error=KilledError)
    trials_only(run)
    assert [trial.state for trial in stored(run)] == [TrialState.COMPLETE]


@pytest.mark.slow
def test_interrupt_exits_130_with_what_to_do_and_the_run_resumes(
    hardcell, tiny_file, finished_run, tmp_path, study_content, trials_only, stored
):
    run = tmp_path / "run"
    process = hardcell("search", tiny_file, "--run", run)
    while not process.stdout.readline().startswith("trial"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "hardcell resume" in err
    assert "Traceback" not in err
    trials_only(run)
    assert study_content(run) == study_content(finished_run)
    assert {trial.user_attrs["attempts"] for trial in stored(run)} == {1}


def test_interrupt_does_not_end_a_trial(tiny, tmp_path, monkeypatch, stored):
    # The interrupt comes during the attack of the evaluation, where any other error is the candidate's result.
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("nas.evaluation.train_and_attack.validation_radii", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(search_events(tiny(), tmp_path / "run"))
    assert [trial.state for trial in stored(tmp_path / "run")] == [TrialState.RUNNING]


def test_second_process_for_a_run_is_refused(tiny, tmp_path):
    run = tmp_path / "run"
    first = search_events(tiny(), run)
    assert isinstance(next(first), RunStarted)
    with pytest.raises(RunError, match="run: another process"):
        next(resume_events(run))
    assert isinstance(next(first), TrialStarted)  # The first search continues.
    first.close()
    second = resume_events(run)
    assert isinstance(next(second), RunStarted)
    second.close()


def save_images(path, seed):
    rng = np.random.default_rng(seed)
    np.savez(path, x=rng.integers(0, 256, (120, 8, 8), dtype=np.uint8), y=np.arange(120) % 3)


def test_images_that_changed_are_refused(tiny, tmp_path, break_off):
    save_images(tmp_path / "images.npz", 0)
    run = tmp_path / "run"
    break_off(search_events(tiny(f"data={{name: npz, path: '{tmp_path / 'images.npz'}'}}"), run), 1)
    save_images(tmp_path / "images.npz", 1)
    with pytest.raises(RunError, match=r"train images .*; start a new run"):
        next(resume_events(run))
    save_images(tmp_path / "images.npz", 0)
    assert isinstance(next(resume_events(run)), RunStarted)


class TestChangedSettings:
    @pytest.fixture
    def begun(self, tiny, tmp_path, break_off):
        run = tmp_path / "run"
        break_off(search_events(tiny("search.trials=3", "search.sampler=random", "finalists.references=false"), run), 1)
        return run

    def test_more_trials_and_other_limits_are_accepted(self, begun, trials_only, tiny, tmp_path, study_content):
        overrides = ["search.trials=4", "search.time_limit=600", "search.attempts=5", "finalists.epochs=1"]
        for event in resume_events(begun, overrides):
            if isinstance(event, FinalistsStarted):
                break
        trials_only(tmp_path / "whole", tiny("search.trials=4", "search.sampler=random", "finalists.references=false"))
        assert study_content(begun) == study_content(tmp_path / "whole")
        config = nas.load_config(begun / "config.yaml")
        assert (config.search.trials, config.search.attempts, config.finalists.epochs) == (4, 5, 1)
        trials_only(begun)  # The study has the new settings, so the run resumes without overrides.

    def test_edited_config_is_accepted_and_keeps_its_comments(self, begun):
        config = begun / "config.yaml"
        config.write_text(config.read_text().replace("  trials: 3", "  trials: 5  # more"))
        assert next(resume_events(begun)).trials == 5
        assert "# more" in config.read_text()

    def test_options_of_the_command(self, begun, cli, monkeypatch):
        seen = []
        monkeypatch.setattr("nas.pipeline.search.resume_events", lambda run, overrides: iter(seen.append(overrides) or []))
        options = ["--trials", 9, "--executor", "ray", "--workers", 2, "--address", "auto", "--set", "search.attempts=1"]
        assert cli("resume", begun, *options)[0] == 0
        assert seen == [
            [
                "search.attempts=1",
                "search.trials=9",
                "search.executor.name=ray",
                "search.executor.workers=2",
                "search.executor.address=auto",
            ]
        ]

    def test_executor_is_changed_by_options(self, begun, cli, monkeypatch):
        before = (begun / "config.yaml").read_text()
        code, _, err = cli("resume", begun, "--executor", "ray", "--address", "127.0.0.1:1", "--workers", 1)
        assert code == 2
        assert "no Ray cluster at 127.0.0.1:1" in err
        assert (begun / "config.yaml").read_text() == before
        monkeypatch.setattr("nas.executors.Ray.started", lambda self: nullcontext())
        assert next(resume_events(begun, ["search.executor={name: ray, workers: 1}"])).trials == 3
        assert nas.load_config(begun / "config.yaml").search.executor.workers == 1
        assert next(resume_events(begun, ["search.executor=local"])).trials == 3

    def test_what_cannot_change_is_listed_with_reasons(self, begun, cli):
        before = (begun / "config.yaml").read_text()
        changes = {
            "seed": ("7", "it decides the architectures"),
            "data.limit": ("300", "the same images"),
            "space.channels": ("8", "one search space"),
            "training.epochs": ("3", "trained in the same way"),
            "training.recipe": ("adversarial", "trained in the same way"),
            "evaluation.epsilon": ("0.1", "attacked in the same way"),
            "objective.minimise": ("[clean_error]", "constraints of the trials depend"),
            "search.sampler": ("evolution", "each proposal depends"),
            "search.random_trials": ("1", "each proposal depends"),
            "search.stopping": ("{first: 0.5}", "the same rungs"),
        }
        options = [part for key, (value, _) in changes.items() for part in ("--set", f"{key}={value}")]
        code, _, err = cli("resume", begun, "--trials", 9, *options)
        assert code == 2
        for key, (_, reason) in changes.items():
            (line,) = (line for line in err.splitlines() if line.startswith(f"  {key}: "))
            assert " cannot become " in line
            assert reason in line
        assert "search.trials: 3" not in err
        assert "these settings can change: device, threads, data.path" in err
        assert (begun / "config.yaml").read_text() == before

    def test_moved_images_are_compared_by_their_hashes(self, tiny, tmp_path, break_off):
        save_images(tmp_path / "images.npz", 0)
        run = tmp_path / "run"
        break_off(search_events(tiny(f"data={{name: npz, path: '{tmp_path / 'images.npz'}'}}"), run), 1)
        (tmp_path / "images.npz").rename(tmp_path / "moved.npz")
        assert next(resume_events(run, [f"data.path={tmp_path / 'moved.npz'}"])).finished == 1
        save_images(tmp_path / "moved.npz", 1)
        with pytest.raises(RunError, match="train images have changed"):
            resume_events(run)

    def test_budget_of_finalists_cannot_change_once_there_are_bundles(self, run_copy):
        with pytest.raises(ConfigError, match=r"finalists\.epochs: 6 cannot become 7: the run has bundles .* move them"):
            resume_events(run_copy, ["finalists.epochs=7"])
        assert next(resume_events(run_copy, ["finalists.count=2"])).finished == 6

    def test_run_of_an_older_version_without_a_setting_goes_on(self, begun):
        place = StudyLocation(begun / "study.db")
        storage = open_storage(place, write=True)
        study = load_study(study_name=place.name, storage=storage)
        stored = study.user_attrs["config"]
        del stored["search"]["attempts"]
        study.set_user_attr("config", stored)
        close_storage(storage)
        assert next(resume_events(begun)).trials == 3
        with pytest.raises(ConfigError, match="seed: 2 cannot become 3"):
            resume_events(begun, ["seed=3"])

    def test_address_of_the_study_may_change_but_not_its_kind(self, tiny):
        moved = {"search.storage": ("postgresql://a/x", "postgresql://b/x")}
        check_changes(moved, "config.yaml", exported=False)
        with pytest.raises(ConfigError, match=r"search\.storage: None cannot become .*: the study is stored there"):
            check_changes({"search.storage": (None, "postgresql://b/x")}, "config.yaml", exported=False)


def test_resume_warns_of_a_damaged_bundle(run_copy, cli):
    (bundle,) = (run_copy / "bundles").glob("residual-*")
    (bundle / "profile.json").write_text("{")
    code, out, _ = cli("resume", run_copy)
    assert code == 0
    (line,) = (line for line in out.splitlines() if line.startswith("warning"))
    assert re.fullmatch(
        rf"warning: bundle {bundle} is damaged: .*profile.json.*; delete the folder, and `resume` makes the bundle again",
        line,
    )


def test_leftover_checkpoints_are_removed(run_copy):
    checkpoints, (bundle, *_) = run_copy / "checkpoints", sorted((run_copy / "bundles").iterdir())
    checkpoints.mkdir(exist_ok=True)
    for name in ("trial-0.pt", "trial-77.pt", f"{bundle.name}.pt", ".trial-1.pt.12.partial"):
        (checkpoints / name).write_bytes(b"old")
    (checkpoints / "1-unfinished.pt").write_bytes(b"of a finalist whose export failed")
    next(events := resume_events(run_copy))
    next(events)
    assert [path.name for path in checkpoints.iterdir()] == ["1-unfinished.pt"]
    (checkpoints / "1-unfinished.pt").unlink()
    list(events)
    assert not checkpoints.exists()


def test_checkpoint_of_a_running_trial_stays(tiny, tmp_path, break_off):
    run = tmp_path / "run"
    break_off(search_events(tiny("search.trials=2", "search.checkpoint_seconds=0"), run), 1)
    for _ in range(2):
        events = resume_events(run)
        while not isinstance(next(events), TrialStarted):
            pass
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["trial-1.pt"]
        events.close()


SPACE = """
import random

from torch import nn

from search_spaces import Choice, SearchSpace


def build(a, s, k):
    body = [nn.Conv2d(s[0], a["width"], a["kernel"]), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(a["width"], k))


SPACE = SearchSpace(name="own", choices={"width": Choice(4, 6), "kernel": Choice(1, 3)}, build=build)
"""


class TestChangedSpace:
    @pytest.fixture
    def begun(self, tiny, tmp_path, break_off):
        """Returns the file of a space, and the folder of a run with two finished trials of it."""
        (tmp_path / "space.py").write_text(SPACE)
        config = tiny(f"space='{tmp_path / 'space.py'}:SPACE'", "finalists.references=false", "training.epochs=1")
        break_off(search_events(config, tmp_path / "run"), 2)
        return tmp_path / "space.py", tmp_path / "run"

    @pytest.mark.parametrize(
        ("old", "new", "change"),
        [
            ("Choice(4, 6)", "Choice(4, 6, 8)", "choice width: added 8"),
            ("Choice(4, 6)", "Choice(4, 7)", "choice width: added 7; removed 6"),
            ("Choice(4, 6)", "Choice(6, 4)", "choice width: its values have another order"),
            ("Choice(4, 6)", "Choice(4.0, 6)", "choice width: added 4.0; removed 4"),
            ('"kernel": Choice(1, 3)', '"kernel": Choice(1, 3), "depth": Choice(1)', "choice depth: is new"),
            (', "kernel": Choice(1, 3)', "", "choice kernel: is missing"),
            (
                "nn.Flatten()",
                "nn.Flatten(), nn.Linear(a['width'], a['width'])",
                "trial 0: its network has .* parameters, and had",
            ),
            ("nn.ReLU()", "nn.Tanh()", "trial 0: its untrained network has other logits"),
            (
                "body = [",
                "assert a['width'] == 6 and a['kernel'] == 3; body = [",
                "trial 0: its network cannot be built: AssertionError",
            ),
        ],
    )
    def test_is_refused_with_what_changed(self, begun, old, new, change, forget_imports):
        file, run = begun
        assert old in SPACE
        file.write_text(SPACE.replace(old, new))
        forget_imports()
        with pytest.raises(RunError) as error:
            resume_events(run)
        first, *changes, last = str(error.value).splitlines()
        assert first.startswith("space own: has changed since the run began")
        assert re.fullmatch(f"  {change}.*", changes[0])
        assert "undo the changes, or start a new run" in last

    @pytest.mark.parametrize(
        ("old", "new"),
        [("import random", "# a comment\nimport random"), ("body =", "unused = 1\n    body =")],
        ids=["comment", "refactored"],
    )
    def test_same_networks_from_other_code_are_accepted(self, begun, old, new, forget_imports):
        file, run = begun
        file.write_text(SPACE.replace(old, new))
        forget_imports()
        assert next(resume_events(run)).finished == 2

    def test_random_networks_are_not_compared_by_their_logits(self, tiny, tmp_path, break_off):
        text = SPACE.replace("nn.ReLU()", "nn.LeakyReLU(random.random())")
        (tmp_path / "space.py").write_text(text)
        config = tiny(f"space='{tmp_path / 'space.py'}:SPACE'", "training.epochs=1", "finalists.references=false")
        break_off(search_events(config, tmp_path / "run"), 2)
        assert next(resume_events(tmp_path / "run")).finished == 2

    @pytest.mark.parametrize(("again", "changed"), [(1.001, 0), (1 + 1e-7, 2)], ids=["random", "other logits"])
    def test_network_is_random_if_its_second_response_differs(self, begun, again, changed):
        _, run = begun
        config = nas.load_config(run / "config.yaml")
        evaluate = prepare(config)
        responses = iter([7.0, 7.0, 7.0 * again, 7.0 * again])  # Both networks twice.
        checks = SimpleNamespace(precheck=lambda job: Precheck({}, constant=False, response=next(responses)))
        with open_study(StudyLocation(run / "study.db")) as study:
            assert len(changed_networks(study.get_trials(), evaluate, checks)) == changed

    @pytest.mark.slow
    def test_numpys_random_numbers_differ_in_child_processes(self, tiny, tmp_path, break_off):
        text = SPACE.replace("nn.ReLU()", "nn.LeakyReLU(np.random.random())").replace("import random", "import numpy as np")
        (tmp_path / "space.py").write_text(text)
        own = ("training.epochs=1", "finalists.references=false", "search.isolate=true")
        break_off(search_events(tiny(f"space='{tmp_path / 'space.py'}:SPACE'", *own), tmp_path / "run"), 2)
        assert next(resume_events(tmp_path / "run")).finished == 2


class TestStartedExecutor:
    """An executor starts before the checks, and ends with them if they fail."""

    @pytest.fixture
    def seen(self, monkeypatch):
        seen = []

        @contextmanager
        def noticed(self):
            seen.append("started")
            try:
                yield
            finally:
                seen.append("ended")

        monkeypatch.setattr("nas.executors.Local.started", noticed)
        return seen

    def test_ends_if_a_check_fails(self, custom_space, tmp_path, seen):
        with pytest.raises(RunError, match="no network can be built"):
            search_events(custom_space("raises in build"), tmp_path / "run")
        assert seen == ["started", "ended"]

    def test_is_not_started_for_a_folder_in_use(self, tiny, run_copy, seen):
        with pytest.raises(RunError, match="holds a run already"):
            search_events(tiny(), run_copy)
        assert seen == []

    def test_ends_after_the_trials(self, custom_space, tmp_path, seen):
        for event in search_events(custom_space("works", "search.trials=1", "training.epochs=1"), tmp_path / "run"):
            seen.append(type(event).__name__)
        assert seen[0] == "started"
        assert seen.index("TrialFinished") < seen.index("ended") < seen.index("FinalistsStarted")
        assert seen.count("started") == seen.count("ended") == 1

    @pytest.mark.usefixtures("no_surfaces")
    def test_is_not_started_for_a_finished_run(self, run_copy, seen):
        list(resume_events(run_copy))
        assert seen == []


def test_finished_run_gets_a_fresh_report_and_keeps_all_else(run_copy, finished_run, study_content):
    (run_copy / "report.html").unlink()
    before = {path: path.stat().st_mtime_ns for path in run_copy.glob("bundles/*/*")}
    run = nas.resume(run_copy)
    assert run.folder.report.exists()
    assert {path: path.stat().st_mtime_ns for path in run_copy.glob("bundles/*/*")} == before
    assert study_content(run_copy) == study_content(finished_run)


@pytest.mark.parametrize(
    ("stage", "after"),
    [
        pytest.param("write_formats", False, marks=pytest.mark.slow),
        ("save_profile", True),
        pytest.param("write_manifest", False, marks=pytest.mark.slow),
    ],
)
def test_half_a_bundle_is_never_taken_for_a_whole_one(stage, after, run_copy, finished_run, monkeypatch, study_content):
    (best,) = (run_copy / "bundles").glob("1-*")
    shutil.rmtree(best)
    original = getattr(export, stage)

    def killed(*args):
        if after:
            original(*args)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(export, stage, killed)
        with pytest.raises(KilledError):
            list(resume_events(run_copy))
    assert not best.exists()
    assert [bundle.role for bundle in nas.read_run(run_copy).bundles] == ["random", "residual"]
    with pytest.raises(BundleError, match="is not a bundle"):
        nas.load(best)
    if stage == "write_manifest":  # The partial folder is almost complete. It does not disturb later exports.
        nas.resume(run_copy)
        assert_same_run(run_copy, finished_run, study_content)
        assert not list((run_copy / "bundles").glob(".*"))


@pytest.mark.slow
def test_export_during_the_export_of_the_run_harms_neither(run_copy, monkeypatch):
    """`hardcell export` fails while the run is active, or it does not disturb the run."""
    (best,) = (run_copy / "bundles").glob("1-*")
    shutil.rmtree(best)
    original, inner = export.save_profile, []

    def beside(*args):
        if not inner:
            inner.append("begun")
            with suppress(RunError):
                inner.extend(export_events(run_copy, 1))
        original(*args)

    monkeypatch.setattr(export, "save_profile", beside)
    events = list(resume_events(run_copy))
    assert any(isinstance(event, BundleFinished) for event in events)
    nas.load(best)


@pytest.mark.slow
def test_interrupted_between_the_bundles_of_the_finalists(run_copy, finished_run, study_content):
    for role in ("random", "residual"):
        (bundle,) = (run_copy / "bundles").glob(f"{role}-*")
        shutil.rmtree(bundle)
    events = resume_events(run_copy)
    for event in events:
        if isinstance(event, StageStarted) and event.name.startswith("residual"):
            events.close()
    assert len(list((run_copy / "bundles").iterdir())) == 2
    rest = list(resume_events(run_copy))
    (started,) = (event for event in rest if isinstance(event, FinalistsStarted))
    assert (len(started.names), started.finished) == (3, 2)
    assert_same_run(run_copy, finished_run, study_content)
