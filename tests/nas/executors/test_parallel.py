"""Several local workers: parallel trials in child processes."""

import os
import signal
import threading
import time

import pytest

import nas
from nas.errors import ConfigError
from nas.executors import ExecutionContext, Job, JobStarted, Local, TrialResult
from nas.executors.parallel import run_in_parallel
from nas.pipeline.events import TrialFinished, TrialStarted
from nas.pipeline.search import search_events
from nas.training.checkpoints import CheckpointError
from nas.training.epoch import EpochResult


def never(job, epoch):
    return False


def epoch_of(number, *, rung=False):
    return EpochResult(number, 3, 0.5, 0.1, 0.2, 0.0, rung=rung)


class Together:
    """Each job waits until `count` jobs run at the same time, which takes as many processes."""

    def __init__(self, folder, count):
        self.folder, self.count = folder, count

    def __call__(self, job, checkpoint):
        yield epoch_of(1)
        (self.folder / str(job.number)).write_text(str(os.getpid()))
        deadline = time.monotonic() + 60
        while len(list(self.folder.iterdir())) < self.count and time.monotonic() < deadline:
            time.sleep(0.01)
        return TrialResult({"processes": float(len({file.read_text() for file in self.folder.iterdir()}))})


class Rungs:
    """Jobs of three epochs, all of which are rungs."""

    def __call__(self, job, checkpoint):
        for number in (1, 2, 3):
            yield epoch_of(number, rung=True)
        return TrialResult({"job": float(job.number)})


class Sleeps:
    def __call__(self, job, checkpoint):
        yield epoch_of(1)
        time.sleep(600)
        return TrialResult()


class Full:
    def __call__(self, job, checkpoint):
        raise CheckpointError("checkpoint.pt: No space left on device")
        yield


class Dies:
    def __call__(self, job, checkpoint):
        yield epoch_of(1)
        if job.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return TrialResult({"job": float(job.number)})


def jobs(count):
    return [Job(number, {}, {}, 0) for number in range(count)]


def results(events):
    return {job.number: event for job, event in events if isinstance(event, TrialResult)}


def ended_soon(function, seconds=30):
    """Returns whether a condition becomes true within some seconds."""
    deadline = time.monotonic() + seconds
    while not function() and time.monotonic() < deadline:
        time.sleep(0.05)
    return function()


def local_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("local-")]


def test_jobs_run_at_the_same_time(tmp_path):
    (tmp_path / "seen").mkdir()
    context = ExecutionContext(Together(tmp_path / "seen", 3), never, tmp_path)
    events = list(run_in_parallel(jobs(3), context, 3))
    assert {number: result.metrics for number, result in results(events).items()} == {
        n: {"processes": 3.0} for n in range(3)
    }
    assert {event.worker for _, event in events if isinstance(event, JobStarted)} == {"local-1", "local-2", "local-3"}
    assert not local_threads()


def test_job_is_pulled_only_when_a_worker_is_idle(tmp_path):
    pulled, ended = [], 0

    def lazily():
        for job in jobs(6):
            pulled.append(job.number)
            yield job

    for _, event in run_in_parallel(lazily(), ExecutionContext(Rungs(), never, tmp_path), 2):
        ended += isinstance(event, TrialResult)
        assert len(pulled) <= ended + 2
    assert (ended, pulled) == (6, list(range(6)))


def test_driver_decides_about_early_stopping(tmp_path):
    threads, asked = set(), []

    def stop(job, epoch):
        threads.add(threading.current_thread())
        asked.append((job.number, epoch.epoch))
        return job.number % 2 == 0 and epoch.epoch == 2

    found = results(run_in_parallel(jobs(4), ExecutionContext(Rungs(), stop, tmp_path), 2))
    assert {number: result.stopped for number, result in found.items()} == {0: 2, 1: None, 2: 2, 3: None}
    assert threads == {threading.main_thread()}
    assert sorted(asked) == [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)]


@pytest.mark.parametrize("waiting", ["for the job", "for the driver"])
def test_closing_ends_jobs_and_threads(tmp_path, waiting):
    """Also a worker that waits for the driver's decision ends."""
    evaluate = Sleeps() if waiting == "for the job" else Rungs()
    events = run_in_parallel(jobs(9), ExecutionContext(evaluate, never, tmp_path), 2)
    next(event for event in events if isinstance(event[1], EpochResult))
    started = time.monotonic()
    events.close()
    assert time.monotonic() - started < 60
    assert ended_soon(lambda: not local_threads())


def test_crash_costs_one_job(tmp_path):
    found = results(run_in_parallel(jobs(4), ExecutionContext(Dies(), never, tmp_path), 2))
    assert found[1].reason == "the process ended with signal SIGKILL; it may have run out of memory"
    assert [found[number].metrics for number in (0, 2, 3)] == [{"job": 0.0}, {"job": 2.0}, {"job": 3.0}]


def test_full_disk_ends_the_search(tmp_path):
    with pytest.raises(CheckpointError, match=r"^checkpoint\.pt: No space left on device$"):
        list(run_in_parallel(jobs(4), ExecutionContext(Full(), never, tmp_path), 2))
    assert ended_soon(lambda: not local_threads())


def test_interrupted_and_resumed_search_equals_a_sequential_one(tiny, tmp_path, trials_only, study_content):
    """Proposals of the sampler random do not depend on results, so the order of the results has no effect."""
    settings = ("search.sampler=random", "finalists.references=false")
    trials_only(tmp_path / "one", tiny(*settings))
    events = search_events(tiny(*settings, "search.executor.workers=2"), tmp_path / "two")
    next(event for event in events if isinstance(event, TrialFinished))
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt())
    resumed = trials_only(tmp_path / "two")
    assert study_content(tmp_path / "two") == study_content(tmp_path / "one")
    assert {event.worker for event in resumed if isinstance(event, TrialStarted)} == {"local-1", "local-2"}


def test_no_worker_is_refused():
    with pytest.raises(ConfigError, match=r"search\.executor is refused: workers must be at least 1, got 0"):
        nas.parse_config({"search": {"executor": {"name": "local", "workers": 0}}})
    with pytest.raises(ValueError, match=r"^workers must be at least 1, got 0$"):
        Local(workers=0)
