"""The command line: output streams, messages and exit codes of each command."""

import errno
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

import nas.runs.run
from nas.cli import commands
from nas.cli.display import show
from nas.config.files import load_config, parse_config
from nas.config.schema import Config, ObjectiveConfig
from nas.errors import HeadLostError
from nas.files import write_atomic
from nas.pipeline.events import BundleFailed, FinalistsStarted, RunFinished, StageStarted, TrialFinished
from nas.pipeline.search import resume_events, search_events
from nas.runs.run import read_run
from nas.study.trial import Trial
from nas.training.stopwatch import STAGES


def write(path, data):
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data), encoding="utf-8")
    return path


def test_help_imports_nothing_heavy():
    script = (
        "import sys; sys.argv = ['hardcell', '--help']\n"
        "import atexit; from nas.cli import main\n"
        "heavy = {'torch', 'optuna', 'numpy', 'matplotlib', 'sqlalchemy', 'ray', 'onnxruntime'}\n"
        "atexit.register(lambda: print('heavy:', *sorted(heavy & set(sys.modules))))\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "heavy:"
    for name in ("search", "resume", "status", "report", "export", "verify", "config"):
        assert name in done.stdout


@pytest.mark.parametrize("command", [[], *([name] for name in sorted(commands.commands))])
def test_every_command_has_help(command, cli):
    for option in ("--help", "-h"):
        code, out, err = cli(*command, option)
        assert (code, err) == (0, "")
        assert out.startswith("Usage: ")


def test_version(cli):
    code, out, _ = cli("--version")
    assert code == 0
    assert "0.1.0" in out


def test_config_prints_the_default_config_with_a_comment_on_every_key(cli):
    code, out, err = cli("config")
    assert (code, err) == (0, "")
    assert parse_config(yaml.safe_load(out)) == Config()
    for line in out.splitlines():
        assert not line.strip() or "#" in line, line


@pytest.mark.usefixtures("no_surfaces")
def test_search_resume_status_report_export_verify(tiny_file, all_forms, tmp_path, cli):
    """Applies search, status, report, export, verify and resume to one run."""
    run = tmp_path / "new" / "run"
    options = [
        "--seed",
        3,
        "--trials",
        3,
        "--set",
        "finalists.references=false",
        "--set",
        "training.epochs=1",
        "--set",
        "finalists.epochs=1",
        "--set",
        all_forms,
    ]
    code, out, err = cli("search", tiny_file, "--run", run, *options)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"run {run}"
    assert re.match(r"3 trials.*\b15,625 architectures.*\b300 training.*\b40 validation.*\bcpu", lines[1])
    counts = [int(count) for count in re.findall(r"\((\d+)\)", lines[2])]
    assert lines[2].startswith("10 classes: 0 (")
    assert (len(counts), sum(counts)) == (10, 340)
    assert [line[:9] for line in lines[3:6]] == ["trial   0", "trial   1", "trial   2"]
    assert "adversarial error" in lines[5]
    assert "; best " in lines[5]
    assert lines[6] == "retraining, profiling and exporting 1 networks"
    assert lines[-1] == f"report: {run / 'report.html'}"
    assert "\x1b" not in out  # Without a terminal, the lines have no escape sequences.
    config = load_config(run / "config.yaml")
    assert (config.seed, config.search.trials, config.training.epochs) == (3, 3, 1)

    code, out, _ = cli("status", run)
    assert code == 0
    assert f"{run}: finished" in out
    assert "3 of 3 trials: " in out

    code, out, _ = cli("report", run)
    assert (code, out.strip()) == (0, str(run / "report.html"))

    code, out, _ = cli("export", run, "--top", 2)
    assert code == 0
    assert re.search(r"2 networks, 1 .*already", out)
    bundles = sorted((run / "bundles").iterdir())
    assert [path.name[:2] for path in bundles] == ["1-", "2-"]

    code, out, _ = cli("verify", bundles[1])
    assert code == 0
    assert out.count("passed") == 8
    code, out, _ = cli("verify", bundles[0], "--json")
    verified = json.loads(out)
    assert (code, verified["passed"], len(verified["checks"])) == (0, True, 8)
    assert verified["checks"][0] == {"name": "checksums", "passed": True, "detail": "9 files"}

    code, out, _ = cli("resume", run)
    assert code == 0
    assert "3 finished already" in out


def test_run_has_a_folder_of_its_own_where_none_is_named(tmp_path, monkeypatch, cli, tiny_file):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nas.pipeline.search.search_events", lambda config, path: iter([RunFinished(Path(path), ())]))
    code, out, _ = cli("search", tiny_file)
    assert code == 0
    assert out.startswith("report: runs/tiny-2")


def test_search_without_a_config_takes_the_defaults(monkeypatch, cli, tmp_path):
    seen = []
    monkeypatch.setattr("nas.pipeline.search.search_events", lambda config, path: iter(seen.append((config, path)) or []))
    assert cli("search", "--run", tmp_path / "run", "--seed", 7, "--trials", 9, "--set", "seed=5")[0] == 0
    ((config, path),) = seen
    assert config == parse_config({"seed": 7, "search": {"trials": 9}})  # `--seed` overrides `--set seed`.
    assert path == tmp_path / "run"


def test_status_of_a_finished_run_as_json(finished_run, cli):
    code, out, err = cli("status", finished_run, "--json")
    record = json.loads(out)
    assert (code, err) == (0, "")
    assert record["state"] == "finished"
    assert record["trials"]["total"] == 6
    assert sum(record["trials"][state] for state in ("complete", "infeasible", "failed", "running")) == 6
    assert [row["rank"] for row in record["best"]] == list(range(1, len(record["best"]) + 1))
    errors = [row["metrics"]["adversarial_error"] for row in record["best"]]
    assert errors == sorted(errors)
    assert [bundle["role"] for bundle in record["bundles"]] == ["finalist", "random", "residual"]
    assert record["report"] == str(finished_run / "report.html")


def test_status_says_where_the_time_of_a_trial_goes(finished_run, cli):
    seconds = json.loads(cli("status", finished_run, "--json")[1])["stage_seconds"]
    assert list(seconds) == [*STAGES, "scoring"]
    assert all(value > 0 for value in seconds.values())
    assert f"a trial takes {sum(seconds.values()):.1f} s: " in cli("status", finished_run)[1]


@pytest.mark.parametrize("asked", [True, False])
def test_search_prints_where_the_time_goes_if_asked(asked, tiny_file, tmp_path, cli):
    few = ("--set", "search.trials=1", "--set", "search.random_trials=1", "--set", "finalists.references=false")
    code, out, _ = cli("search", tiny_file, "--run", tmp_path / "run", *few, *["--profile-time"] * asked)
    assert code == 0
    rows = [line.split()[1] for line in out.splitlines() if line.startswith("│") and "%" in line]
    assert rows == ([*STAGES, "scoring", "total"] if asked else [])


def test_status_of_a_running_and_of_an_interrupted_run(tiny, tmp_path, cli):
    run = tmp_path / "run"
    events = search_events(tiny(), run)
    for event in events:
        if type(event).__name__ == "TrialFinished":
            break
    next(events)
    record = json.loads(cli("status", run, "--json")[1])
    assert (record["state"], record["trials"]["complete"], record["trials"]["running"]) == ("running", 1, 1)
    assert "running" in cli("status", run)[1]
    events.close()
    record = json.loads(cli("status", run, "--json")[1])
    assert (record["state"], record["trials"]["complete"], record["report"]) == ("interrupted", 1, None)
    code, out, _ = cli("status", run)
    assert code == 0
    assert "interrupted" in out
    assert "1 of 6 trials: 1 complete" in out
    # An unfinished run can have a report.
    assert cli("report", run)[0] == 0
    assert (run / "report.html").exists()


def test_status_of_a_run_that_was_killed_before_its_first_trial(tiny, tmp_path, cli):
    nas.runs.folder.create_run(tmp_path / "run", tiny())
    code, out, _ = cli("status", tmp_path / "run")
    assert code == 0
    assert "0 of 6 trials" in out
    code, _, err = cli("export", tmp_path / "run")
    assert code in (1, 2)
    assert "trials is complete" in err


def test_status_does_not_change_the_run(run_copy, cli):
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    cli("status", run_copy)
    assert {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()} == before


def test_names_with_brackets_are_printed_as_they_are(run_copy, cli, tmp_path):
    # Rich would parse [...] as markup.
    folder = run_copy.rename(tmp_path / "a[bold]b[x]")
    code, out, _ = cli("status", folder)
    assert code == 0
    assert "a[bold]b[x]: finished" in out


def test_tables_are_not_cut_where_there_is_no_terminal(finished_run, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = cli("status", finished_run)
    lines = out.splitlines()
    assert "6 of 6 trials: 6 complete (0 duplicates), 0 infeasible, 0 pruned, 0 failed, 0 running" in lines
    assert "…" not in out
    for bundle in read_run(finished_run).bundles:
        (line,) = (line for line in lines if bundle.name in line)
        assert bundle.role in line
        assert all(name in line for name in bundle.profile.failed_checks() or ["all passed"])


METRICS = {"parameters": 13458.0, "macs": 100764.0, "clean_error": 0.018, "adversarial_error": 0.19}


@pytest.mark.parametrize(
    ("minimise", "constraints", "line", "best"),
    [
        # The README shows lines with these metrics.
        (
            ["adversarial_error"],
            {"clean_error": 0.1},
            "adversarial error 0.190, clean 0.018, 13,458 parameters, 3.0 s",
            "best 0.190",
        ),
        (["clean_error"], {}, "clean error 0.018, 13,458 parameters, 3.0 s", "best 0.018"),
        (["parameters"], {"clean_error": 0.1}, "13,458 parameters, clean error 0.018, 3.0 s", "best 13,458"),
        (
            ["clean_error", "adversarial_error", "macs"],
            {"clean_error": 0.1},
            "clean error 0.018, adversarial 0.190, 100,764 macs, 13,458 parameters, 3.0 s",
            "best 0.018",
        ),
    ],
    ids=["the default", "one", "cheap", "several"],
)
def test_lines_show_the_metrics_of_the_objective(minimise, constraints, line, best):
    objective = ObjectiveConfig(minimise=tuple(minimise), constraints=constraints)
    trial = Trial(0, "complete", "key", {}, METRICS, violation=0, seconds=3.0, reason=None, duplicate_of=None)
    console = Console(file=io.StringIO(), soft_wrap=True, highlight=False)
    show(iter([TrialFinished(trial, trial, objective)]), console)
    assert console.file.getvalue() == f"trial   0  {line}; {best} in trial 0\n"
    live = Console(force_terminal=True, file=io.StringIO(), width=200, highlight=False, soft_wrap=True)
    show(iter([TrialFinished(trial, trial, objective)]), live)
    label = minimise[0].replace("_", " ")
    assert f"best so far: {label} {best.removeprefix('best ')} in trial 0, architecture key" in live.file.getvalue()


def test_export_of_more_architectures_than_there_are_says_so(custom_space, tmp_path, trials_only, cli):
    trials_only(tmp_path / "run", custom_space("works", "search.trials=1", "finalists.epochs=1"))
    code, out, _ = cli("export", tmp_path / "run", "--top", 3, "--trust")
    assert code == 0
    lines = out.splitlines()
    assert re.match(r"the best 3 architectures.* has 1\b", lines[0])
    assert lines[1] == "retraining, profiling and exporting 1 networks"
    assert len(list((tmp_path / "run" / "bundles").glob("1-*"))) == 1
    _, out, _ = cli("export", tmp_path / "run", "--top", 1, "--trust")
    assert "requested" not in out


def test_live_display_on_a_terminal(custom_space, tmp_path):
    console = Console(force_terminal=True, file=io.StringIO(), width=120, highlight=False, soft_wrap=True)
    config = custom_space("raises,constant,works", "search.trials=6", "search.random_trials=6")

    def events():
        for event in search_events(config, tmp_path / "run"):
            if isinstance(event, FinalistsStarted):
                break
            yield event
        yield RunFinished(tmp_path / "run" / "report.html", ("The search beat nobody.",))

    show(events(), console)
    shown = console.file.getvalue()
    assert "The search beat nobody." in shown
    assert "\x1b[" in shown
    for message in (
        "trials",
        "best so far: adversarial error",
        "infeasible",
        "failed",
        "last: RuntimeError: a broken layer",
    ):
        assert message in shown
    assert f"report: {tmp_path / 'run' / 'report.html'}" in shown.replace("\n", "")


def test_plain_display_says_the_same_lines_without_escapes(run_copy):
    console = Console(file=io.StringIO(), width=60, soft_wrap=True)
    show(resume_events(run_copy), console)
    shown = console.file.getvalue()
    assert "\x1b" not in shown
    assert "6 trials, 6 finished already" in shown
    assert "The search " in shown


# Bad input.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search: {trails: 3}", "unknown key search.trails; did you mean 'trials'?"),
        ("serach: {trials: 3}", "unknown key serach; did you mean 'search'?"),
        ("search: {trials: ten}", "search.trials must be int, got 'ten'"),
        ("search: {trials: 2.5}", "search.trials must be int, got 2.5"),
        ("search: 3", "search must be a mapping, got 3"),
        (
            "evaluation: {epsilon: 8}",
            "evaluation.epsilon must be at most 1, got 8; epsilons are in pixel units",
        ),
        ("training: {recipe: {name: adversarial, epsilon: 8}}", "epsilon must be above 0 and at most 1, in pixel units"),
        ("finalists: {epsilons: {linf: [8]}}", "must hold epsilons above 0 in pixel units (8/255, not 8), got [8.0]"),
        ("data: {name: imagenet}", "data.name must be one of digits"),
        ("space: cel201", "did you mean 'cell201'?"),
        ("space: nowhere.py:SPACE", "nowhere.py does not exist"),
        ("device: tpu9", "device must be one that this machine has"),
        ("[1, 2]", "must be a mapping of sections"),
        ("a: [", "is not YAML"),
        ("\t- x: {", "is not YAML"),
    ],
)
def test_bad_config_file(text, message, tmp_path, refused):
    err = refused("search", write(tmp_path / "bad.yaml", text), "--run", tmp_path / "run")
    assert message in err
    assert not (tmp_path / "run").exists()


def test_all_faults_are_named_at_once(tmp_path, refused):
    err = refused("search", write(tmp_path / "bad.yaml", "search: {trails: 3, attempts: many}\nevaluation: {epsilon: 8}"))
    assert all(message in err for message in ("search.trails", "search.attempts", "evaluation.epsilon"))


def test_config_file_that_cannot_be_read(tmp_path, refused):
    assert "none.yaml: cannot be read: No such file or directory" in refused("search", tmp_path / "none.yaml")
    assert "cannot be read: Is a directory" in refused("search", tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(bytes(range(256)))
    assert "binary.yaml: must be text in UTF-8" in refused("search", binary)
    binary.write_bytes(b"\x00\x01\x02")
    assert "binary.yaml: is not YAML" in refused("search", binary)


def picture(path, size, value):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size), value, dtype=np.uint8)).save(path)


def test_images_that_cannot_be_used(tmp_path, refused):
    def message(name, path):
        return refused("search", "--run", tmp_path / "run", "--set", f"data={{name: {name}, path: '{path}'}}")

    assert "none.npz: no such file" in message("npz", tmp_path / "none.npz")
    assert "none: no such folder" in message("folder", tmp_path / "none")
    (tmp_path / "text.npz").write_text("text")
    assert "text.npz: cannot be read as .npz" in message("npz", tmp_path / "text.npz")
    for number in range(4):
        picture(tmp_path / "one" / "cats" / f"{number}.png", 8, number)
        picture(tmp_path / "sizes" / "cats" / f"{number}.png", 8, number)
        picture(tmp_path / "sizes" / "dogs" / f"{number}.png", 12 if number == 2 else 8, number)
    assert "must hold at least 2 classes, found 1: cats" in message("folder", tmp_path / "one")
    err = message("folder", tmp_path / "sizes")
    assert "2.png: must be 8 x 8 like most training images" in err
    assert "got 12 x 12; resize the images to one size" in err
    assert not (tmp_path / "run").exists()


def test_folder_that_cannot_be_a_new_run(tmp_path, run_copy, tiny_file, refused):
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    err = refused("search", tiny_file, "--run", run_copy)
    assert "holds a run already; `hardcell resume" in err
    assert {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()} == before
    (tmp_path / "full").mkdir()
    write(tmp_path / "full" / "notes.txt", "mine")
    assert "full: must be a new or empty folder" in refused("search", tiny_file, "--run", tmp_path / "full")
    assert "notes.txt: must be a new or empty folder" in refused(
        "search", tiny_file, "--run", tmp_path / "full" / "notes.txt"
    )
    assert "notes.txt" in refused("search", tiny_file, "--run", tmp_path / "full" / "notes.txt" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path, tiny_file, refused):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "Permission denied" in refused("search", tiny_file, "--run", tmp_path / "locked" / "run")


def test_folder_on_a_read_only_disk(tmp_path, tiny_file, refused, monkeypatch):
    def denied(path, *args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "mkdir", denied)
    assert "run: Read-only file system" in refused("search", tiny_file, "--run", tmp_path / "run")


@pytest.mark.parametrize("command", ["resume", "status", "report", "export"])
def test_folder_that_is_no_run(command, tmp_path, refused):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "file", "text")
    for name in ("none", "empty", "file"):
        assert f"{name}: holds no run (no config.yaml)" in refused(command, tmp_path / name)


@pytest.mark.parametrize("command", ["resume", "status", "report", "export"])
def test_damaged_study(command, run_copy, refused):
    (run_copy / "study.db").write_bytes(b"damage" * 1000)
    assert "study.db: " in refused(command, run_copy)


def test_damaged_environment(run_copy, refused):
    (run_copy / "environment.json").write_text('{"data": ')
    assert "environment.json" in refused("resume", run_copy)


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("architecture.yaml", "radii.npz")),
        "profile.json",
    ],
)
def test_damaged_bundle_of_a_run_is_named_with_its_reason_beside_the_others(name, run_copy, cli):
    (bundle,) = (run_copy / "bundles").glob("1-*")
    others = [path.name for path in (run_copy / "bundles").iterdir() if path != bundle]
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[: len(content) // 2])
    code, out, err = cli("status", run_copy)
    assert (code, err) == (0, "")
    (line,) = (line for line in out.splitlines() if line.startswith(f"damaged bundle: {bundle}"))
    assert name in line
    assert re.search(r"remove .*`hardcell resume`", line)
    assert all(other in out for other in others)
    record = json.loads(cli("status", run_copy, "--json")[1])
    assert sorted(row["name"] for row in record["bundles"]) == sorted(others)
    assert [row["folder"] for row in record["damaged"]] == [str(bundle)]
    assert record["state"] == "finished"
    assert cli("report", run_copy)[0] == 0
    assert name in cli("export", run_copy)[1]
    assert cli("verify", bundle)[0] == 2


@pytest.mark.slow
def test_damaged_bundle_is_named_by_resume_and_made_again_once_it_is_removed(run_copy, cli):
    (bundle,) = (run_copy / "bundles").glob("random-*")
    (bundle / "profile.json").write_text("{}")
    code, out, _ = cli("resume", run_copy)
    assert code == 0
    assert re.search(r"3 networks, 2 .*already", out)
    assert re.search(rf"{bundle.name}: no bundle: {bundle}: .*profile\.json", out)
    shutil.rmtree(bundle)
    code, out, _ = cli("resume", run_copy)
    assert code == 0
    assert f"{bundle.name}: clean error" in out
    assert json.loads(cli("status", run_copy, "--json")[1])["damaged"] == []


def test_folder_that_is_no_bundle(tmp_path, refused, finished_run):
    assert "none: is not a bundle (no manifest.json)" in refused("verify", tmp_path / "none")
    assert "is not a bundle" in refused("verify", finished_run)


def test_lost_head_of_a_cluster_ends_the_process_without_ray(run_copy, cli, monkeypatch):
    def lost(run, overrides):
        raise HeadLostError("the head is lost; `hardcell resume` continues")

    monkeypatch.setattr("nas.pipeline.search.resume_events", lost)
    monkeypatch.setattr(os, "_exit", lambda code: sys.exit(100 + code))
    code, _, err = cli("resume", run_copy)
    assert code == 102
    assert err == "hardcell: the head is lost; `hardcell resume` continues\n"


def test_study_of_another_config(run_copy, cli):
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    config["training"]["epochs"] = 9
    write(run_copy / "config.yaml", config)
    code, _, err = cli("resume", run_copy)
    assert code == 2
    assert "training.epochs: 2 cannot become 9: all trials must be trained in the same way" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serach"], "No such command 'serach'"),
        (["search", "--trails", "3"], "--trails"),
        (["search", "--trials", "ten"], "'ten' is not a valid integer"),
        (["search", "--trials", "0"], "search.trials must be at least 1, got 0"),
        (["search", "--seed", "-1"], "seed must be at least 0, got -1"),
        (["search", "--set", "trials"], "--set must be section.key=value, got 'trials'"),
        (["search", "--set", "=3"], "--set must be section.key=value, got '=3'"),
        (["search", "--set", "search..trials=3"], "--set must be section.key=value"),
        (["search", "--set", "search.trails=3"], "--set: unknown key search.trails; did you mean 'trials'?"),
        (["search", "--set", "search.trials=[1"], "--set search.trials: not YAML"),
        (["search", "--set", "search.trials.more=3"], "search.trials must be int"),
        (["search", "a.yaml", "b.yaml"], "unexpected extra argument"),
        (["resume"], "Missing argument 'RUN'"),
        (["export", "run", "--top", "0"], "0 is not in the range"),
    ],
)
def test_bad_arguments(arguments, message, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(*arguments)
    assert list(tmp_path.iterdir()) == []


# A full disk.


@contextmanager
def largest_file(size):
    """Limits the size of files, which simulates a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_disk_full_while_the_report_is_written(run_copy, cli, monkeypatch):
    before = (run_copy / "report.html").read_bytes()

    def full(path, *args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    code, out, err = cli("report", run_copy)
    assert (code, out) == (2, "")
    assert re.search(r"no space left.*are kept", err)
    assert (run_copy / "report.html").read_bytes() == before
    code, out, err = cli("resume", run_copy)
    assert code == 2
    assert re.search(rf"no space left.*`hardcell resume {run_copy}`", err)
    assert (run_copy / "report.html").read_bytes() == before


def test_disk_full_in_the_midst_of_a_file_leaves_the_old_one(run_copy):
    read = read_run(run_copy)
    before = read.folder.report.read_bytes()
    with largest_file(10_000), pytest.raises(OSError, match="File too large"):
        write_atomic(read.folder.report, "x" * 20_000)
    assert read.folder.report.read_bytes() == before
    assert not list(run_copy.glob(".*partial"))


def test_disk_full_while_the_study_is_written(cli, tiny_file, tmp_path, trials_only, study_content, finished_run):
    run = tmp_path / "run"
    with largest_file(112 * 1024):  # Enough for an empty study, which has 100 KiB, but not for its trials.
        code, _, err = cli("search", tiny_file, "--run", run)
    assert code == 2
    assert "study.db: " in err
    assert "`hardcell resume" in err
    # With free space, the run resumes from the kept files.
    trials_only(run)
    assert study_content(run) == study_content(finished_run)


@pytest.mark.parametrize("written", ["weights.safetensors", "model.pt2"])
def test_disk_full_while_a_bundle_is_written_is_no_fault_of_the_network(run_copy, written):
    (best,) = (run_copy / "bundles").glob("1-*")
    size = (best / written).stat().st_size
    shutil.rmtree(best)
    seen = []
    events = resume_events(run_copy)

    def consume():
        for event in events:
            seen.append(event)
            if isinstance(event, StageStarted) and event.stage == "export":
                with largest_file(size // 2):
                    seen.append(next(events))

    with pytest.raises(OSError, match="File too large"):
        consume()
    assert not any(isinstance(event, BundleFailed | RunFinished) for event in seen)
    assert not best.exists()
