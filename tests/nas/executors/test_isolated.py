"""Trials in child processes: a crash costs one trial."""

import os
import signal
import subprocess
import time

import pytest

from nas.executors import ExecutionContext, Job, JobStarted, Local, TrialResult
from nas.executors.isolated import ChildProcesses, end_of_process
from nas.pipeline.events import EpochFinished, TrialFinished
from nas.pipeline.prechecks import Prechecks
from nas.pipeline.prepare import prepare
from nas.pipeline.search import search_events
from nas.runs.run import read_run
from nas.training.checkpoints import CheckpointError
from nas.training.epoch import EpochResult

pytestmark = pytest.mark.usefixtures("no_surfaces")

CRASHES = {
    "segfaults in training": "the process ended with signal SIGSEGV",
    "ends in training": "the process ended with exit code 3",
    "segfaults in build": "the process ended with signal SIGSEGV",
    "ends in build": "the process ended with exit code 3",
    "exits in training": "SystemExit: the candidate called sys.exit(3)",
    "prints in build": "printed more than 1,000 lines or 200,000 characters",
}


def test_all_checks_before_the_search_share_one_server(custom_space, monkeypatch):
    servers, start = [], ChildProcesses._start

    def noted(self):
        start(self)
        servers.append(self._server)

    monkeypatch.setattr(ChildProcesses, "_start", noted)
    evaluate = prepare(custom_space("works,raises in build,segfaults in build", "search.isolate=true"))
    job = Job(0, {"kind": "works", "width": 4}, {}, 0)
    with Prechecks(evaluate) as checks:
        # The last kind crashes, but the next architecture can be built.
        assert checks.first_buildable()["kind"] == "works"
        assert checks.precheck(job) == checks.precheck(job)
    assert len(servers) == 1
    assert servers[0].returncode is not None


def test_crash_costs_one_failed_trial_with_its_reason(custom_space, tmp_path, trials_only):
    kinds = ["works", *CRASHES]
    first = [{"kind": kind, "width": 4} for kind in [*CRASHES, "works"]]
    config = custom_space(
        ",".join(kinds), "search.trials=7", "search.random_trials=1", f"search.first={first}", "search.isolate=true"
    )
    events = trials_only(tmp_path / "run", config)
    trials = read_run(tmp_path / "run").trials
    assert {trial.architecture["kind"]: trial.reason for trial in trials} == {**CRASHES, "works": None}
    assert [trial.state for trial in trials] == ["failed"] * 6 + ["complete"]
    assert all(trial.attempts == 1 for trial in trials)
    assert [event.trial.number for event in events if isinstance(event, TrialFinished)] == list(range(7))


@pytest.mark.slow
def test_trials_equal_those_of_this_process(tiny, tmp_path, trials_only, study_content):
    settings = ["search.trials=3", "search.stopping={first: 0.5, reduction: 2}", "search.random_trials=3"]
    for isolate in ("true", "false"):
        trials_only(tmp_path / isolate, tiny(f"search.isolate={isolate}", *settings))
    assert study_content(tmp_path / "true") == study_content(tmp_path / "false")
    assert any(trial["attributes"].get("rungs") for trial in study_content(tmp_path / "true"))


def never(job, epoch):
    raise AssertionError("no epoch is a rung")


def evaluate(job, checkpoint):
    for epoch in (1, 2):
        yield EpochResult(epoch, 2, 1.0, None, None, 0.0, rung=job.seed == 1)
        if job.seed == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if job.seed == 3:
            raise CheckpointError("disk full")
        if job.seed == 4:
            raise KeyboardInterrupt
        if job.seed == 5:
            time.sleep(600)
    return TrialResult(metrics={"clean_error": float(os.getpid())})


@pytest.fixture
def run(tmp_path):
    def start(*seeds, stop=never, **settings):
        jobs = [Job(number, {}, {}, seed) for number, seed in enumerate(seeds)]
        context = ExecutionContext(evaluate, stop, tmp_path, isolate=True, **settings)
        return Local().run(jobs, context)

    return start


def test_each_job_has_a_process_of_its_own(run):
    results = [event for _, event in run(0, 0) if isinstance(event, TrialResult)]
    pids = {int(result.metrics["clean_error"]) for result in results}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_stops_at_a_rung(run):
    asked = []
    events = [event for _, event in run(1, stop=lambda job, epoch: bool(asked.append(epoch.epoch)) or epoch.epoch == 2)]
    assert asked == [1, 2]
    assert [type(event) for event in events] == [JobStarted, EpochResult, EpochResult, TrialResult]
    assert events[-1].stopped == 2


def test_killed_job_keeps_its_epochs_and_the_next_one_runs(run):
    first, second = [event for _, event in run(2, 0) if isinstance(event, TrialResult)]
    assert first.reason == "the process ended with signal SIGKILL; it may have run out of memory"
    assert [epoch.epoch for epoch in first.epochs] == [1]
    assert second.metrics


@pytest.mark.slow
def test_disk_that_is_full_ends_the_search_and_an_interrupt_of_the_candidate_does_not(run):
    (result,) = [event for _, event in run(4) if isinstance(event, TrialResult)]
    assert result.reason == "KeyboardInterrupt"
    with pytest.raises(CheckpointError, match="disk full"):
        list(run(3))


def test_server_that_was_killed_before_or_between_jobs_is_started_again(tmp_path):
    context = ExecutionContext(evaluate, never, tmp_path, isolate=True)
    with ChildProcesses(evaluate) as children:
        for number in range(2):
            children._server.kill()
            children._server.wait()
            result = list(children.run(Job(number, {}, {}, 0), context))[-1]
            assert result.metrics


def test_a_job_that_was_left_early_does_not_stop_the_next_one(tmp_path):
    context = ExecutionContext(evaluate, never, tmp_path, isolate=True)
    with ChildProcesses(evaluate) as children:
        events = children.run(Job(0, {}, {}, 5), context)
        next(events)
        processes = children_of(os.getpid())
        events.close()
        assert not processes & children_of(os.getpid())
        assert list(children.run(Job(1, {}, {}, 0), context))[-1].metrics


def test_closing_it_ends_the_processes(run):
    events = run(5)
    assert isinstance(next(events)[1], JobStarted)
    next(events)
    children = children_of(os.getpid())
    assert children
    events.close()
    assert not children & children_of(os.getpid())


def children_of(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return set(map(int, listed.stdout.split()))


@pytest.mark.slow
def test_time_limit(run):
    (result,) = [event for _, event in run(5, time_limit=1) if isinstance(event, TrialResult)]
    assert result.reason == "took longer than search.time_limit, 1 s"
    assert [epoch.epoch for epoch in result.epochs] == [1]


@pytest.mark.slow
def test_interrupt_of_the_user_stops_the_search(custom_space, tmp_path):
    config = custom_space("works", "search.trials=2", "search.isolate=true")
    events = search_events(config, tmp_path / "run")
    next(event for event in events if isinstance(event, EpochFinished))
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt)
    (trial,) = read_run(tmp_path / "run").trials
    assert (trial.state, trial.attempts) == ("running", 0)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (None, "the process ended for an unknown reason"),
        (0, "the process ended with exit code 0"),
        (-6, "the process ended with signal SIGABRT"),
        (-64, "the process ended with signal SIGRTMAX"),
        (-99, "the process ended with signal 99"),
    ],
)
def test_reasons(code, reason):
    assert end_of_process(code) == reason
