"""The lease of a study in a shared database: only the process that holds it runs trials."""

import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import optuna
import pytest

from nas.errors import RunError
from nas.pipeline.events import RunStarted, TrialFinished
from nas.pipeline.search import resume_events, search_events
from nas.runs.status import run_status
from nas.study import lease as module
from nas.study.lease import DRIVER, EXPIRE_SECONDS, Lease
from nas.study.storage import StudyLocation, open_storage, release


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.02)


@pytest.fixture
def location(tmp_path):
    return StudyLocation(tmp_path / "study.db", f"sqlite:///{tmp_path / 'all.db'}", "mine")


@pytest.fixture
def study(location):
    storage = open_storage(location)
    yield optuna.create_study(storage=storage, study_name=location.name)
    release(storage)


def holder(age=0.0, host="elsewhere", pid=1):
    return {"owner": "another", "host": host, "pid": pid, "time": time.time() - age}


def gone():
    """Returns the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_holder_is_in_the_study_and_removed_at_the_end(study, location):
    with Lease(study, location):
        stored = study.user_attrs[DRIVER]
        assert (stored["host"], stored["pid"]) == (platform.node(), os.getpid())
    assert study.user_attrs[DRIVER] == {}


def test_second_process_is_refused_with_the_host(study, location):
    study.set_user_attr(DRIVER, holder(age=20, host="gpu-7", pid=321))
    with pytest.raises(RunError) as error, Lease(study, location):
        pass
    message = str(error.value)
    assert message.startswith("study mine in sqlite:///")
    assert "on host gpu-7 (process 321)" in message
    assert "20 s ago" in message
    assert "`hardcell resume` in 40 s" in message
    assert study.user_attrs[DRIVER]["host"] == "gpu-7"


@pytest.mark.parametrize("case", ["expired", "dead on this machine", "released"])
def test_lease_of_a_dead_process_is_taken(case, study, location):
    of = {"expired": holder(age=EXPIRE_SECONDS + 1), "released": {}}
    study.set_user_attr(DRIVER, of.get(case, holder(host=platform.node(), pid=gone())) if case != "released" else {})
    with Lease(study, location) as taken:
        taken.check()
        assert study.user_attrs[DRIVER]["pid"] == os.getpid()


def test_live_process_of_this_machine_keeps_the_lease(study, location):
    study.set_user_attr(DRIVER, holder(host=platform.node(), pid=os.getppid()))
    with pytest.raises(RunError, match="is working on this study"), Lease(study, location):
        pass


def test_lease_that_this_process_gave_up_is_taken(study, location):
    # The database was lost before the lease was removed.
    study.set_user_attr(DRIVER, holder(host=platform.node(), pid=os.getpid()))
    with Lease(study, location) as taken:
        taken.check()


def test_lease_is_renewed_by_a_thread(study, location):
    with Lease(study, location):
        first = study.user_attrs[DRIVER]["time"]
        while study.user_attrs[DRIVER]["time"] == first:
            time.sleep(0.01)


def test_process_that_lost_the_lease_stops_and_leaves_it(study, location, monkeypatch):
    monkeypatch.setattr(module, "RENEW_SECONDS", 100)
    with Lease(study, location) as lost:
        study.set_user_attr(DRIVER, holder(host="thief"))
        with pytest.raises(RunError, match="on host thief"):
            lost.check()
    assert study.user_attrs[DRIVER]["host"] == "thief"


def test_two_that_start_at_the_same_time_are_noticed(study, location, monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: study.set_user_attr(DRIVER, holder(host="twin")))
    with pytest.raises(RunError, match="on host twin"), Lease(study, location):
        pass


def test_copied_folder_is_refused_while_the_search_runs(custom_space, tmp_path, trials_only):
    config = custom_space("works", "search.trials=4", "training.epochs=1")
    config = replace(config, search=replace(config.search, storage=f"sqlite:///{tmp_path / 'all.db'}"))
    events = search_events(config, tmp_path / "run")
    next(event for event in events if isinstance(event, TrialFinished))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    with pytest.raises(RunError, match=rf"on host {platform.node()} \(process {os.getpid()}\) is working on this study"):
        next(resume_events(tmp_path / "copy", ["search.trials=9"]))
    assert run_status(tmp_path / "copy", trust=True).state == "running"
    events.close()
    assert run_status(tmp_path / "copy", trust=True).state == "interrupted"
    resumed = resume_events(tmp_path / "copy")
    assert isinstance(next(resumed), RunStarted)
    resumed.close()


def test_thread_does_not_take_back_a_lost_lease(study, location):
    with Lease(study, location) as lost:
        while study.user_attrs[DRIVER].get("host") != "thief" or lost._thread.is_alive():
            study.set_user_attr(DRIVER, holder(host="thief"))
    assert study.user_attrs[DRIVER]["host"] == "thief"


def test_search_that_lost_its_study_ends_before_it_writes(custom_space, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RENEW_SECONDS", 100)
    config = custom_space("works", "search.trials=4", "training.epochs=1")
    url = f"sqlite:///{tmp_path / 'all.db'}"
    config = replace(config, search=replace(config.search, storage=url))
    events = search_events(config, tmp_path / "run")
    next(event for event in events if isinstance(event, TrialFinished))
    location = StudyLocation(tmp_path, url, (tmp_path / "run" / ".study").read_text().strip())
    storage = open_storage(location)
    taken = optuna.load_study(study_name=location.name, storage=storage)
    taken.set_user_attr(DRIVER, holder(host="thief"))
    with pytest.raises(RunError, match="on host thief"):
        list(events)
    assert [trial.state.is_finished() for trial in taken.trials] == [True, False]
    assert taken.trials[1].user_attrs["attempts"] == 1  # Unlike after Ctrl-C, the number is not reset to 0.
    release(storage)
