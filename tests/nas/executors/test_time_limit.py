"""search.time_limit: a trial that exceeds it fails, and the search continues."""

import signal
import threading
import time
from dataclasses import replace

import optuna
import pytest

import nas
from nas.errors import ConfigError, LimitError
from nas.executors import ExecutionContext, Job, TrialResult
from nas.executors.jobs import limit_message, run_job, time_limit
from nas.pipeline.events import TrialFinished
from nas.pipeline.search import search_events
from nas.runs.run import read_run
from nas.samplers import StudySampler
from nas.spaces.options import open_space
from nas.training.checkpoints import Checkpoint
from nas.training.epoch import EpochResult

JOB = Job(0, {}, {}, seed=0)
MESSAGE = "took longer than search.time_limit, 0.3 s"


def epoch(number):
    return EpochResult(number, 9, 1.0, None, None, 0.0)


def never(job, result):
    raise AssertionError("no epoch is a rung")


def run(evaluate, tmp_path, limit):
    return list(run_job(JOB, ExecutionContext(evaluate, never, tmp_path, time_limit=limit), Checkpoint()))


def loops():
    while True:
        pass


def works(job, checkpoint):
    yield epoch(1)
    return TrialResult(metrics={"clean_error": 0.5})


@pytest.fixture
def handler():
    """A signal handler and a timer of the caller. A time limit must restore both."""

    def mine(number, frame):
        raise AssertionError("an alarm of a limit that has ended")

    before, timer = signal.signal(signal.SIGALRM, mine), signal.setitimer(signal.ITIMER_REAL, 500, 7)
    started = time.monotonic()
    yield mine
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    assert interval == 7
    assert left == pytest.approx(500 - (time.monotonic() - started), abs=0.5)
    assert signal.getsignal(signal.SIGALRM) is mine
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, *timer)


@pytest.mark.parametrize("hang", [loops, lambda: time.sleep(60)], ids=["loops", "sleeps"])
@pytest.mark.parametrize("epochs", [0, 2])
def test_trial_that_hangs_fails_and_keeps_its_epochs(hang, epochs, tmp_path, handler):
    def evaluate(job, checkpoint):
        for number in range(1, epochs + 1):
            yield epoch(number)
        hang()

    started = time.monotonic()
    *news, outcome = run(evaluate, tmp_path, 0.3)
    assert 0.3 <= time.monotonic() - started < 20
    assert news == [epoch(number) for number in range(1, epochs + 1)]
    assert outcome.epochs == tuple(news)
    assert (outcome.reason, outcome.metrics) == (MESSAGE, {})
    assert 0.3 <= outcome.seconds < 20


def test_a_job_that_catches_the_limit_returns_its_own_result(tmp_path):
    def evaluate(job, checkpoint):
        yield epoch(1)
        try:
            loops()
        except LimitError as error:
            return TrialResult(reason=f"caught: {error}")

    assert run(evaluate, tmp_path, 0.3)[-1] == TrialResult(reason=f"caught: {MESSAGE}")


def test_limit_is_on_all_epochs_together(tmp_path):
    def evaluate(job, checkpoint):
        for number in range(1, 10):
            time.sleep(0.1)
            yield epoch(number)

    *news, outcome = run(evaluate, tmp_path, 0.35)
    assert 1 <= len(news) <= 3
    assert outcome.reason == limit_message(0.35)


def test_limit_is_on_each_trial_separately(tmp_path, handler):
    def evaluate(job, checkpoint):
        time.sleep(0.1)
        yield epoch(1)
        return TrialResult()

    assert [run(evaluate, tmp_path, 1)[-1] for _ in range(12)] == [TrialResult()] * 12


def test_timer_of_the_caller_still_ends_in_time(tmp_path, handler):
    rung, before = [], signal.getsignal(signal.SIGALRM)
    signal.signal(signal.SIGALRM, lambda number, frame: rung.append(time.monotonic()))
    timer, started = signal.setitimer(signal.ITIMER_REAL, 0.3), time.monotonic()
    with time_limit(30, 30):
        time.sleep(0.1)
    time.sleep(0.3)
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, timer[0] - (time.monotonic() - started), timer[1])
    assert len(rung) == 1
    assert rung[0] - started >= 0.3


@pytest.mark.parametrize("limit", [None, 30])
def test_limit_does_not_change_a_trial_that_ends_in_time(limit, tmp_path, handler):
    assert run(works, tmp_path, limit) == [epoch(1), TrialResult(metrics={"clean_error": 0.5})]


def test_handler_is_restored_whatever_is_raised(tmp_path, handler):
    with pytest.raises(KeyboardInterrupt), time_limit(30, 30):
        raise KeyboardInterrupt
    with pytest.raises(LimitError, match=r"^took longer than search\.time_limit, 0\.3 s$"), time_limit(0.01, 0.3):
        loops()
    with pytest.raises(LimitError, match=r"search\.time_limit, 0\.3 s$"), time_limit(-1, 0.3):
        raise AssertionError("not begun")


def test_outside_the_main_thread_a_trial_ends_at_its_next_epoch(tmp_path, handler):
    def evaluate(job, checkpoint):
        for number in range(1, 10):
            time.sleep(0.2)
            yield epoch(number)

    events = []
    thread = threading.Thread(target=lambda: events.extend(run(evaluate, tmp_path, 0.3)))
    thread.start()
    thread.join()
    *news, outcome = events
    assert 1 <= len(news) <= 2
    assert outcome.reason == MESSAGE
    assert outcome.epochs == tuple(news)


def test_a_limit_of_0_is_refused():
    with pytest.raises(ConfigError, match=r"config: search\.time_limit must be at least 0\.001, got 0$"):
        nas.parse_config({"search": {"time_limit": 0}})


@pytest.mark.parametrize("isolate", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["in this process", "isolated"])
def test_build_that_hangs_is_ended(isolate, custom_space, tmp_path, trials_only):
    config = custom_space(
        "hangs in build,works",
        "search.trials=3",
        "search.random_trials=3",
        "search.time_limit=5",
        f"search.isolate={isolate}",
    )
    config = replace(config, seed=seed_with(config, "hangs in build"))
    trials_only(tmp_path / "run", config)
    trials = read_run(tmp_path / "run").trials
    hung = [trial for trial in trials if trial.architecture["kind"] == "hangs in build"]
    assert {(trial.state, trial.reason) for trial in hung} == {("failed", "took longer than search.time_limit, 5 s")}
    assert {trial.state for trial in trials if trial not in hung} == {"complete"}


def seed_with(config, kind):
    """Returns a seed with which exactly one of three random trials has the given kind."""
    space = open_space(config.space, trust=True)
    for seed in range(20):
        study = optuna.create_study(sampler=StudySampler(config.search.sampler, space, seed=seed, random_trials=3, first=()))
        if [space.suggest(study.ask())["kind"] for _ in range(3)].count(kind) == 1:
            return seed
    raise AssertionError


def test_last_architecture_that_hangs_does_not_hang_the_start(custom_space, tmp_path):
    config = custom_space("works,hangs in build", "search.trials=1", "search.time_limit=2")
    events = search_events(config, tmp_path / "run")
    assert next(events).trials == 1
    events.close()


def test_alarm_comes_again_for_code_that_catches_every_error(monkeypatch):
    monkeypatch.setattr("nas.executors.jobs.REPEAT", 0.05)
    caught = 0

    def stubborn():
        nonlocal caught
        while True:
            try:
                loops()
            except BaseException:
                caught += 1
                if caught == 3:
                    raise

    with pytest.raises(LimitError), time_limit(0.05, 0.05):
        stubborn()
    assert caught == 3


def test_search_goes_on_after_a_trial_that_hangs(custom_space, tmp_path, trials_only, stored):
    space = tmp_path / "own.py"
    # An epoch has 18 batches, so a network that hangs after 20 batches hangs in the second epoch.
    space.write_text(
        space.read_text().replace(
            "        return 0 * x if",
            '        self.count = getattr(self, "count", 0) + self.training\n'
            '        if self.kind == "hangs" and self.count > 20:\n'
            "            while True:\n"
            "                pass\n"
            "        return 0 * x if",
        )
    )
    config = custom_space("hangs,works", "search.trials=4", "search.random_trials=4", "search.time_limit=3", "seed=1")
    events = trials_only(tmp_path / "run", config)
    trials = read_run(tmp_path / "run").trials
    hung = [trial for trial in trials if trial.architecture["kind"] == "hangs"]
    assert hung
    assert hung[0].number < 3
    for trial in hung:
        assert (trial.state, trial.reason) == ("failed", "took longer than search.time_limit, 3 s")
        assert [e["epoch"] for e in trial.epochs] == [1]
        assert 3 <= trial.seconds < 30
    assert {trial.state for trial in trials if trial not in hung} == {"complete"}
    assert [event.trial.number for event in events if isinstance(event, TrialFinished)] == [0, 1, 2, 3]
