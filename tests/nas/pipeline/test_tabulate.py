"""Making a table: what it holds, continuing after a stop or with a longer plan, refusals, and a search on the table."""

import csv
import gzip
import random
import re
import shutil
import subprocess
from contextlib import suppress

import pytest

import nas
from nas.errors import RunError, SearchFailedError
from nas.pipeline.events import MeasurementFinished, TableFinished, TableStarted
from nas.pipeline.tabulate import resume_table_events, tabulate_events
from nas.tables.folder import TableFolder


def rows_of(folder):
    """Returns the rows of a table without times, as dictionaries."""
    text = gzip.decompress((folder / "table.csv.gz").read_bytes()).decode()
    timeless = [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(text.splitlines())]
    return timeless


def numbers(events):
    """Returns the numbers of architectures that the events measured, and of those measured before."""
    events = list(events)
    assert isinstance(events[-1], TableFinished)
    return sum(isinstance(event, MeasurementFinished) for event in events), events[0].finished


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """The folder of a table of three architectures with two seeds. Tests must not change it."""
    folder = tmp_path_factory.mktemp("tables") / "made"
    assert nas.tabulate(tiny(), folder, architectures=3, seeds=2) == folder / "table.csv.gz"
    return folder


def test_events_state_the_progress(tiny, tmp_path):
    started, *measured, finished = tabulate_events(tiny(), tmp_path / "t", architectures=2, seeds=2)
    assert isinstance(started, TableStarted)
    assert (started.folder, started.rows, started.finished, started.architectures) == (tmp_path / "t", 4, 0, 2)
    assert [(event.finished, event.rows, event.measurement.seed) for event in measured] == [
        (1, 4, 0), (2, 4, 0), (3, 4, 1), (4, 4, 1),
    ]  # fmt: skip
    assert finished == TableFinished(tmp_path / "t" / "table.csv.gz", tmp_path / "t" / "card.md", 4)


def test_table_holds_each_architecture_with_each_seed(made, tiny):
    rows = rows_of(made)
    assert len({row["key"] for row in rows}) == 3
    assert [row["seed"] for row in rows] == ["0", "1"] * 3
    assert {row["state"] for row in rows} == {"complete"}
    for row in rows:
        assert 0 <= float(row["clean_error"]) <= float(row["adversarial_error"]) <= 1
        assert {"test_adversarial_error", "adversarial_error[1]", "test_clean_error[2]"} <= row.keys()
        assert "adversarial_error[3]" not in row
    assert len({row["adversarial_error[1]"] + row["test_clean_error"] for row in rows}) > 3  # Seeds differ.
    assert "6 trainings of 3 architectures" in (made / "card.md").read_text()
    assert not (made / "checkpoints").exists() or not any((made / "checkpoints").iterdir())


def test_longer_plan_measures_only_what_is_missing(made, tiny, tmp_path):
    assert numbers(tabulate_events(tiny(), tmp_path / "t", architectures=2)) == (2, 0)
    assert numbers(tabulate_events(tiny(), tmp_path / "t", architectures=3)) == (1, 2)
    assert numbers(tabulate_events(tiny(), tmp_path / "t", architectures=3, seeds=2)) == (3, 3)
    assert numbers(resume_table_events(tmp_path / "t")) == (0, 6)
    assert rows_of(tmp_path / "t") == rows_of(made)
    # A shorter plan removes nothing.
    assert numbers(tabulate_events(tiny(), tmp_path / "t", architectures=1)) == (0, 1)
    assert rows_of(tmp_path / "t") == rows_of(made)


def test_closed_events_leave_the_table_so_far(made, tiny, tmp_path):
    events = tabulate_events(tiny(), tmp_path / "t", architectures=3, seeds=2)
    next(event for event in events if isinstance(event, MeasurementFinished) and event.finished == 2)
    events.close()
    assert len(rows_of(tmp_path / "t")) == 2
    assert numbers(resume_table_events(tmp_path / "t")) == (4, 2)
    assert rows_of(tmp_path / "t") == rows_of(made)


def test_killed_trainings_are_kept_and_resumed(made, tiny_file, hardcell, tmp_path):
    moment = random.Random(3)
    arguments = ("tabulate", tiny_file, "--architectures", 3, "--seeds", 2, "--out", tmp_path / "t")
    for row in (1, 3):
        process = hardcell(*arguments, "--set", "search.checkpoint_seconds=0")
        for line in process.stdout:
            if int((re.match(r"(\d)/6 ", line) or [0, 0])[1]) >= row:
                break
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=moment.uniform(0, 1))
        process.kill()
        process.communicate()
    process = hardcell("resume", tmp_path / "t")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert int(re.search(r"6 trainings of 3 architectures, (\d) of them measured already", out)[1]) >= 3
    assert f"table: {tmp_path / 't' / 'table.csv.gz'}, 6 rows" in out
    assert rows_of(tmp_path / "t") == rows_of(made)


@pytest.mark.parametrize("executor", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_parallel_workers_give_the_same_table(executor, made, tiny, tmp_path):
    nas.tabulate(tiny(f"search.executor={{name: {executor}, workers: 2}}"), tmp_path / "t", architectures=3, seeds=2)

    assert rows_of(tmp_path / "t") == rows_of(made)  # Also in the same order.


def test_search_on_the_table_returns_its_numbers(made, tiny, tmp_path):
    """Early stopping and seeds are replayed: each trial has the errors of one training in the table, epoch by epoch."""
    rows = rows_of(made)
    columns = "{adversarial_error: adversarial_error, clean_error: clean_error, true_error: test_adversarial_error}"
    table = f"evaluator={{name: table, path: '{made / 'table.csv.gz'}', columns: {columns}}}"
    names = ("edge01", "edge02", "edge12", "edge03", "edge13", "edge23")
    first = [{name: row[name] for name in names} for row in rows[::2]]
    run = nas.search(
        tiny(table, f"search.first={first}", "search.trials=3", "search.stopping={first: 0.5, reduction: 2}"),
        tmp_path / "run",
    )
    assert len(run.trials) == 3
    for trial in run.trials:
        assert trial.state in ("complete", "pruned")
        drawn = [row for row in rows if row["key"] == trial.key]
        assert len(drawn) == 2
        errors = [epoch["adversarial_error"] for epoch in trial.epochs]
        assert errors in [[float(row[f"adversarial_error[{e + 1}]"]) for e in range(len(errors))] for row in drawn]
        if trial.state == "complete":
            assert trial.metrics["true_error"] in [float(row["test_adversarial_error"]) for row in drawn]


class TestFailures:
    def test_networks_that_fail_are_rows_with_a_reason(self, custom_space, tmp_path):
        config = custom_space("raises in training,constant,works")
        folder = tmp_path / "t"
        events = [e for e in tabulate_events(config, folder) if isinstance(e, MeasurementFinished)]
        assert len(events) == 12
        for row in rows_of(folder):
            reason = {
                "works": "",
                "constant": "no path leads from the image to the logits",
                "raises in training": "RuntimeError: broken in training",
            }
            assert row["reason"] == reason[row["kind"]]
            assert bool(row["adversarial_error"]) == (row["kind"] == "works")
        # Only those that failed are tried again.
        assert numbers(resume_table_events(folder)) == (4, 8)
        assert len(rows_of(folder)) == 12

    def test_failed_training_is_repeated_by_a_resume(self, custom_space, forget_imports, tmp_path):
        with pytest.raises(
            SearchFailedError, match=r"^none of 4 trainings could be measured: out of memory: 4 GiB wanted; a"
        ):
            nas.tabulate(custom_space("memory"), tmp_path / "t")
        # A narrow network may be infeasible, because all of its units are dead before the training.
        failed = [row["state"] for row in rows_of(tmp_path / "t")].count("failed")
        assert failed >= 2
        file = tmp_path / "own.py"
        file.write_text(file.read_text().replace('self.kind == "memory"', 'self.kind == "mended"'))
        forget_imports()
        assert numbers(resume_table_events(tmp_path / "t")) == (failed, 4 - failed)
        assert [row["state"] for row in rows_of(tmp_path / "t")].count("complete") == failed

    def test_table_without_a_complete_row_is_a_failure(self, custom_space, tmp_path):
        message = "^none of 4 trainings could be measured: RuntimeError: broken in training; a resume tries them again$"
        with pytest.raises(SearchFailedError, match=message):
            nas.tabulate(custom_space("raises in training"), tmp_path / "t")
        assert len(rows_of(tmp_path / "t")) == 4


class TestRefusals:
    def test_other_settings(self, made, tiny):
        message = r"made: the table began with other settings \(training\.epochs, evaluation\.epsilon\), and all of its rows"
        with pytest.raises(RunError, match=message):
            nas.tabulate(tiny("training.epochs=3", "evaluation.epsilon=0.1"), made, architectures=3)
        assert nas.load_config(made / "config.yaml").training.epochs == 2

    def test_free_settings_may_differ(self, made, tiny, tmp_path):
        shutil.copytree(made, tmp_path / "t")
        config = tiny("objective.minimise=[clean_error]", "search.trials=99", "search.time_limit=1000", "threads=2")
        assert numbers(tabulate_events(config, tmp_path / "t", architectures=3, seeds=2)) == (0, 6)

    def test_other_images(self, tiny, tmp_path):
        nas.tabulate(tiny(), tmp_path / "t", architectures=1)
        environment = TableFolder(tmp_path / "t").run.environment
        environment.write_text(environment.read_text().replace('"test": "', '"test": "0'))
        with pytest.raises(RunError, match=r"t: the test images have changed since the run began; start a new run$"):
            nas.tabulate(tiny("threads=2"), tmp_path / "t", architectures=9)
        # Nothing is written before.
        assert "9" not in TableFolder(tmp_path / "t").plan.read_text()
        assert nas.load_config(tmp_path / "t" / "config.yaml").threads == 1

    def test_missing_files(self, made, tiny, tmp_path):
        folder = tmp_path / "t"
        shutil.copytree(made, folder)
        (folder / "plan.json").unlink()
        assert numbers(tabulate_events(tiny(), folder, architectures=3, seeds=2)) == (0, 6)
        (folder / "config.yaml").unlink()
        with pytest.raises(RunError, match=r"config\.yaml: missing, so the settings of the rows are unknown; restore it$"):
            nas.tabulate(tiny(), folder, architectures=3)

    def test_folder_with_a_lock_only(self, tiny, tmp_path):
        (tmp_path / ".lock").touch()
        assert numbers(tabulate_events(tiny(), tmp_path, architectures=1)) == (1, 0)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("2, 4, 8, 16", "2, 4, 8, 32", "ValueError: not an architecture of own: choice 'width' must be one"),
            ("        width = arch", "        assert architecture['width'] == 16\n        width = arch", "AssertionError"),
            ("nn.ReLU(),", "nn.BatchNorm1d(width),", r"its network has \{'parameters': .*\}, and had \{'parameters': .*\}"),
        ],
    )
    def test_changed_space(self, old, new, message, custom_space, forget_imports, tmp_path):
        nas.tabulate(custom_space("works"), tmp_path / "t")
        file = tmp_path / "own.py"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
        forget_imports()
        with pytest.raises(RunError, match=f"^space own: has changed since the table began, .*: {message}"):
            nas.tabulate(custom_space("works"), tmp_path / "t")
        assert len(rows_of(tmp_path / "t")) == 4

    def test_folder_with_other_files(self, tiny, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(RunError, match=r": must be a new or empty folder, or that of a table$"):
            nas.tabulate(tiny(), tmp_path, architectures=1)

    def test_table_is_no_run(self, made, tiny):
        for call in (nas.read_run, nas.report, nas.status, nas.resume):
            with pytest.raises(RunError, match=r"made: holds a table and no run; `hardcell resume .*made` continues it$"):
                call(made)
        with pytest.raises(RunError, match=r"made: holds a table; choose another folder$"):
            nas.search(tiny(), made)

    def test_damaged_plan(self, tmp_path):
        (tmp_path / "plan.json").write_text('{"architectures": -1}')
        with pytest.raises(RunError, match=r"plan\.json: damaged \(architectures must be at least 1, got -1\); give"):
            resume_table_events(tmp_path)

    def test_choice_with_the_name_of_a_column(self, tiny, tmp_path):
        (tmp_path / "own.py").write_text(
            "from torch import nn\nfrom search_spaces import Choice, SearchSpace\n"
            "def build(a, shape, n):\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(n))\n"
            'space = SearchSpace("own", {"seed": Choice(1, 2)}, build)\n'
        )
        message = "space own: its choice 'seed' has the name of another column of a table; rename it"
        with pytest.raises(RunError, match=message):
            nas.tabulate(tiny(f"space={tmp_path / 'own.py'}:space"), tmp_path / "t", architectures=1)

    def test_table_of_a_table(self, made, tiny, tmp_path):
        table = f"evaluator={{name: table, path: '{made / 'table.csv.gz'}', columns: {{adversarial_error: clean_error}}}}"
        with pytest.raises(RunError, match=r"^a table is made by training, so evaluator must be train$"):
            nas.tabulate(tiny(table), tmp_path / "t", architectures=1)


class TestCommand:
    def test_table_from_the_command_line(self, tiny_file, tmp_path, cli):
        code, out, err = cli("tabulate", tiny_file, "--architectures", "2", "--out", tmp_path / "t")
        assert (code, err) == (0, "")
        assert f"table {tmp_path / 't'}\n2 trainings of 2 architectures, 300 training and 40 validation images" in out
        assert "\n1/2  " in out
        assert " seed 0  adversarial error 0." in out
        assert f"table: {tmp_path / 't' / 'table.csv.gz'}, 2 rows\ndata card: {tmp_path / 't' / 'card.md'}\n" in out
        code, out, err = cli("resume", tmp_path / "t")
        assert (code, err) == (0, "")
        assert "2 trainings of 2 architectures, 2 of them measured already" in out

    @pytest.mark.parametrize("options", [(), ("--all", "--architectures", "3")])
    def test_number_or_all_must_be_given(self, options, tiny_file, tmp_path, cli):
        code, _, err = cli("tabulate", tiny_file, "--out", tmp_path / "t", *options)
        assert (code, err) == (2, "hardcell: give either --architectures N or --all\n")
        assert not (tmp_path / "t").exists()

    @pytest.mark.parametrize("option", ["--architectures=0", "--seeds=0", "--seeds=1001", "--architectures=ten"])
    def test_invalid_numbers(self, option, tiny_file, cli):
        code, _, err = cli("tabulate", tiny_file, option)
        assert code == 2
        assert "Invalid value for" in err
