"""Status of a run: counts, speed, workers, and `hardcell status --watch`."""

import csv
import io
import itertools
import json
import math
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from rich.console import Console

import nas
from nas.cli.watch import watch_status
from nas.errors import RunError
from nas.pipeline.events import EpochFinished, TrialFinished
from nas.pipeline.search import search_events
from nas.runs.status import RECENT, WorkerStatus, run_status, speed_of
from nas.study.trial import Trial
from search_spaces import cell201


def trial(started, ended):
    return Trial(0, "complete", "", {}, {}, 0.0, 0.0, None, None, started=started, ended=ended)


class TestSpeed:
    @pytest.mark.parametrize(
        ("times", "speed"),
        [
            ([], None),
            ([(0, 30)], None),
            ([(0, 30), (30, None)], None),
            ([(0, 30), (None, 40)], None),
            ([(5, 5), (5, 5)], None),
            ([(0, 30), (30, 60)], 2.0),
            ([(0, 60), (0, 60)], 2.0),  # Two workers in parallel.
            ([(10, 20), (20, 30), (30, 40), (40, None)], 6.0),
            ([(40, 70), (10, 40)], 2.0),  # The order of the trials does not matter.
        ],
    )
    def test_closed_forms(self, times, speed):
        assert speed_of([trial(*pair) for pair in times]) == speed

    def test_speed_is_that_of_the_last_trials(self):
        slow = [trial(1000 * i, 1000 * (i + 1)) for i in range(10)]
        fast = [trial(10_000 + i, 10_001 + i) for i in range(RECENT)]
        assert speed_of([*slow, *fast]) == 60.0
        assert speed_of([*slow, *fast[1:]]) == pytest.approx(60 * RECENT / (1000 + RECENT))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A config whose trials come from a table."""
    path = tmp_path_factory.mktemp("table") / "table.csv"
    choices = cell201().choices
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*choices, "error"])
        for i, row in enumerate(itertools.product(*(choice.values for choice in choices.values()))):
            rows.writerow([*row, (i * 7919 % 15625) / 15625])
    return nas.parse_config(
        {
            "space": "cell201",
            "evaluator": {"name": "table", "path": str(path), "columns": {"adversarial_error": "error"}},
            "objective": {"constraints": {}},
            "search": {"trials": 6, "sampler": "random"},
        }
    )


def test_run_from_a_table_is_finished_without_bundles(table, tmp_path, cli):
    nas.search(table, tmp_path / "run")
    status = run_status(tmp_path / "run")
    assert (status.state, status.bundles, status.workers, status.seconds_left) == ("finished", (), (), None)
    assert status.trials == {
        "total": 6, "complete": 6, "infeasible": 0, "pruned": 0, "failed": 0, "running": 0
    }  # fmt: skip
    errors = [row.metrics["adversarial_error"] for row in status.best]
    assert errors == sorted(errors)
    (tmp_path / "run" / "report.html").unlink()
    assert run_status(tmp_path / "run").state == "interrupted"


def test_running_run_has_workers_a_speed_and_the_time_left(custom_space, tmp_path):
    run = tmp_path / "run"
    stopping = ("search.stopping={first: 0.3, reduction: 2}", "training.epochs=4")
    events = search_events(custom_space("works,other", *stopping, "search.trials=5", "search.random_trials=5"), run)
    for event in events:
        if isinstance(event, EpochFinished) and event.name == "trial 2" and event.result.epoch == 2:
            break
    else:
        raise AssertionError("trial 2 has no second epoch")
    status = run_status(run)
    assert status.state == "running"
    counts = status.trials
    assert (counts["total"], counts["complete"] + counts["pruned"], counts["running"]) == (5, 2, 1)
    (worker,) = status.workers
    assert (worker.worker, worker.trial, worker.rungs) == ("local", 2, (2,))
    assert 0 <= worker.seconds < 60
    trials = nas.read_run(run).trials
    speed = 60 * 2 / (trials[1].ended - trials[0].started)
    assert status.trials_per_minute == pytest.approx(speed, abs=0.01)
    assert status.seconds_left == round(60 * 3 / speed)
    events.close()
    status = run_status(run)
    assert (status.state, status.workers, status.seconds_left) == ("interrupted", (), None)
    assert status.trials["running"] == 1
    assert status.trials_per_minute == pytest.approx(speed, abs=0.01)


def test_pruned_trials_are_counted_and_shown(custom_space, tmp_path, trials_only, cli):
    run = tmp_path / "run"
    stopping = ("search.stopping={first: 0.5, reduction: 100}", "search.trials=6", "search.random_trials=6")
    trials_only(run, custom_space("works,other,third", *stopping))
    trials = nas.read_run(run).trials
    pruned = sum(trial.state == "pruned" for trial in trials)
    status = run_status(run)
    assert status.trials["pruned"] == pruned > 0
    assert status.trials["complete"] + pruned == 6
    assert not {row.trial for row in status.best} & {t.number for t in trials if t.state == "pruned"}
    code, out, _ = cli("status", run)
    assert code == 0
    assert f"6 of 6 trials: {6 - pruned} complete (0 duplicates), 0 infeasible, {pruned} pruned, 0 failed, 0 running" in out
    assert " trials a minute\n" in out


def test_speed_and_the_time_left_are_shown(table, tmp_path, cli, monkeypatch):
    nas.search(table, tmp_path / "run")
    status = run_status(tmp_path / "run")
    worker = WorkerStatus("node-1", 17, 200, (1, 3))
    status = replace(status, state="running", trials_per_minute=2.5, seconds_left=12_000, workers=(worker,))
    monkeypatch.setattr("nas.runs.status.run_status", lambda run, trust: status)
    _, out, _ = cli("status", tmp_path / "run")
    assert "2.5 trials a minute, about 3 h 20 min left\n" in out
    assert all(message in out for message in ("running trials", "node-1", "17", "3 min", "epoch 1, epoch 3"))


class TestWatch:
    @pytest.fixture
    def going_on(self, table, tmp_path, monkeypatch):
        """Runs the first trial of a run, then one in each pause between two refreshes. Yields the pauses, in seconds."""
        events, pauses = search_events(table, tmp_path / "run"), []

        def step():
            return next((event for event in events if isinstance(event, TrialFinished)), None)

        def pause(seconds):
            pauses.append(seconds)
            step()

        step()
        monkeypatch.setattr("nas.cli.watch.time.sleep", pause)
        yield pauses
        events.close()

    def test_json_has_a_line_for_each_refresh_until_the_run_has_ended(self, going_on, tmp_path, cli):
        code, out, err = cli("status", tmp_path / "run", "--watch", "--json", "--every", "0.5")
        assert (code, err) == (0, "")
        looks = [json.loads(line) for line in out.splitlines()]
        assert [look["state"] for look in looks] == ["running"] * (len(looks) - 1) + ["finished"]
        assert [look["trials"]["complete"] for look in looks] == [1, 2, 3, 4, 5, 6, 6]
        assert going_on == [0.5] * (len(looks) - 1)

    def test_without_a_terminal_the_views_follow_each_other(self, going_on, tmp_path, cli):
        code, out, err = cli("status", tmp_path / "run", "--watch")
        assert (code, err) == (0, "")
        assert out.count(f"{tmp_path / 'run'}: running") == 6
        assert out.count(f"{tmp_path / 'run'}: finished") == 1
        assert going_on == [2.0] * 6

    def test_on_a_terminal_each_view_replaces_the_last_one(self, going_on, tmp_path, monkeypatch):
        shown = io.StringIO()
        monkeypatch.setattr("nas.cli.watch.open_console", lambda: Console(file=shown, force_terminal=True, width=200))
        watch_status(tmp_path / "run", 0.1)
        assert len(going_on) == 6
        text = re.sub(r"\x1b\[[\d;]*m", "", shown.getvalue())
        assert text.index("1 of 6 trials") < text.index("6 of 6 trials")
        assert "\x1b[1A" in text  # Moves the cursor up, to replace the last view.
        assert ": finished" in text

    @pytest.mark.parametrize("arguments", [["--watch"], ["--watch", "--json"]])
    def test_run_that_has_ended_is_shown_once(self, table, tmp_path, cli, arguments, monkeypatch):
        monkeypatch.setattr("nas.cli.watch.time.sleep", lambda seconds: 1 / 0)
        search = replace(table.search, trials=2)
        nas.search(replace(table, search=search), tmp_path / "run")
        code, out, _ = cli("status", tmp_path / "run", *arguments)
        assert code == 0
        assert out.count("finished") == 1

    def test_folder_without_a_run_is_refused(self, tmp_path, cli):
        with pytest.raises(RunError, match="holds no run"):
            watch_status(tmp_path, 1)
        code, _, err = cli("status", tmp_path, "--watch", "--json")
        assert code == 2
        assert "holds no run (no config.yaml)" in err

    def test_seconds_between_two_refreshes_must_not_be_0(self, tmp_path, cli):
        code, _, err = cli("status", tmp_path, "--watch", "--every", "0")
        assert code == 2
        assert "0 is not in the range x>=0.1" in err


def test_status_as_plain_data(table, tmp_path, cli):
    events = search_events(table, tmp_path / "run")
    next(event for event in events if isinstance(event, TrialFinished))
    status = run_status(tmp_path / "run")
    record = status.as_record()
    assert json.loads(json.dumps(record)) == record
    assert (record["run"], record["state"], record["report"]) == (str(tmp_path / "run"), "running", None)
    assert record["best"][0]["metrics"] == dict(status.best[0].metrics)
    assert not math.isnan(status.trials_per_minute or 0)
    events.close()
    _, out, _ = cli("status", tmp_path / "run", "--json")
    assert json.loads(out).keys() == record.keys()


@pytest.fixture
def read_only():
    """Yields a function that makes a folder read-only, and gives it to another user if the tests run as root."""
    folders = []

    def make(folder):
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o500 if path.is_dir() else 0o400)
            folders.append(path)
            if os.geteuid() == 0:
                os.chown(path, 65534, 65534)

    yield make
    for path in folders:
        if path.exists():
            path.chmod(0o700)


@pytest.mark.parametrize("killed", [False, True], ids=["ended", "killed"])
def test_status_reads_a_folder_that_cannot_be_written(killed, table, tmp_path, read_only):
    run = tmp_path / "run"
    events = search_events(table, tmp_path / "original")
    for event in events:
        if isinstance(event, TrialFinished) and event.trial.number == 2:
            break
    if not killed:
        events.close()
    shutil.copytree(tmp_path / "original", run)
    events.close()
    # A killed process leaves a write-ahead log that is not merged. The index of the log (-shm) is not always copied.
    assert (run / "study.db-wal").exists() is killed
    (run / "study.db-shm").unlink(missing_ok=True)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    read_only(run)
    if os.geteuid() == 0:  # Permissions do not apply to root.
        if any(not folder.stat().st_mode & 0o001 for folder in Path(optuna.__file__).parents):
            pytest.skip("only root may read the installed packages")
        for parent in (tmp_path, *tmp_path.parents):
            if not parent.stat().st_mode & 0o001:
                parent.chmod(0o755)
        os.seteuid(65534)
    try:
        status = run_status(run)
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
    assert (status.state, status.trials["complete"]) == ("interrupted", 3)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_status_of_a_killed_run_changes_no_file(table, tmp_path):
    events = search_events(table, tmp_path / "original")
    next(event for event in events if isinstance(event, TrialFinished))
    run = Path(shutil.copytree(tmp_path / "original", tmp_path / "run"))
    events.close()
    (run / ".lock").unlink()
    # SQLite marks its readers in the index of the log (-shm), so only that file may change.
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.suffix != ".db-shm"}
    assert run_status(run).trials["complete"] == 1
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.suffix != ".db-shm"} == before
