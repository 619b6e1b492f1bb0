"""Ray executor. Tests marked `ray` start Ray. Workers may be unable to import this file, so it is pickled by value."""

import copy
import importlib
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from nas.data import Dataset, Split
from nas.errors import HeadLostError, RunError
from nas.executors import EXECUTORS, ExecutionContext, Job, JobStarted, Local, Ray, TrialResult
from nas.executors.ray_tune import cluster, executor
from nas.executors.ray_tune.channel import (
    Channel,
    EpochReported,
    FatalError,
    JobFinished,
    JobRequest,
    TuneFinished,
    WorkerDied,
    WorkerStarted,
)
from nas.executors.ray_tune.cluster import (
    Cluster,
    HeadMonitor,
    connected,
    connection_message,
    is_user_module,
)
from nas.executors.ray_tune.executor import Dispatcher
from nas.resolve import resolve
from nas.training.checkpoints import CheckpointError
from nas.training.epoch import EpochResult


def job_of(number):
    return Job(number, {"kind": "a"}, {"kind": "b"}, seed=number)


def epoch_of(number, of=2, rung=False):
    return EpochResult(number, of, loss=0.5, clean_error=0.1, adversarial_error=0.2, seconds=0.01, rung=rung)


def never(job, epoch):
    return False


@dataclass(frozen=True)
class Script:
    """Fake evaluation of a job. For some jobs, it first calls a function, which may kill the worker, for example.

    Attributes:
        acts: Functions of the job and its checkpoint, by the number of the job.
        epochs: Number of epochs of each job.
    """

    acts: dict = field(default_factory=dict)
    epochs: int = 2

    def __call__(self, job, checkpoint):
        done = []
        act = self.acts.get(job.number)
        if act is not None:
            act(job, checkpoint)
        for number in range(1, self.epochs + 1):
            done.append(epoch_of(number, self.epochs, rung=number == 1))
            yield done[-1]
        return TrialResult({"clean_error": job.number / 100}, epochs=tuple(done))


def run(settings, numbers, work):
    """Returns the events of each job, in order."""
    news = {number: [] for number in numbers}
    for job, item in settings.run(map(job_of, numbers), work):
        news[job.number].append(item)
    for items in news.values():
        assert [isinstance(item, TrialResult) for item in items] == [False] * (len(items) - 1) + [True]
        assert isinstance(items[0], JobStarted)
    return news


# Tests without Ray.


def test_ray_is_an_executor_by_name():
    assert EXECUTORS["ray"] is Ray


def test_settings_import_without_ray():
    code = "import sys, nas.executors; nas.executors.Ray(workers=2); print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"cpus": 0}, "cpus must be a finite number above 0, got 0"),
        ({"cpus": float("nan")}, "cpus must be a finite number above 0, got nan"),
        ({"gpus": -1}, "gpus must be a finite number of at least 0, got -1"),
        ({"gpus": 1.5}, r"gpus must be .*whole number.*, got 1\.5$"),
        ({"address": "ray://host:10001"}, "address must be HOST:PORT or auto, got 'ray://host:10001'; .*address: auto"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        Ray(**settings)


@pytest.mark.parametrize(
    ("workers", "slots", "free", "given", "running", "idle", "room"),
    [
        (None, 2, 2, 0, 0, 0, True),
        (None, 2, 1, 1, 0, 0, True),  # The first worker is still starting.
        (None, 2, 0, 2, 2, 0, False),
        (None, 2, 0, 1, 1, 0, True),  # The resources are taken, but by an idle worker.
        (None, 4, 0, 2, 1, 0, False),  # One job waits already, because others use the cluster.
        (None, 4, 0, 2, 1, 1, True),  # One job waits, but a worker is idle.
        (None, 0, 0, 0, 0, 0, True),  # All nodes are lost: one job waits for the next node.
        (None, 0, 0, 1, 0, 0, False),
        (1, 4, 3, 1, 1, 0, False),
        (3, 2, 0, 2, 2, 0, True),  # One job may wait, so that an autoscaling cluster grows.
        (3, 2, 0, 3, 2, 0, False),
        (9, 2, 0, 3, 2, 0, False),
    ],
)
def test_a_job_is_requested_when_there_is_room(monkeypatch, workers, slots, free, given, running, idle, room):
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": free * 0.5})
    monkeypatch.setattr(Cluster, "slots", lambda self: slots)
    assert Cluster(workers=workers, cpus=0.5).has_room(given=given, running=running, idle=idle) is room


@pytest.mark.parametrize(
    ("nodes", "slots"),
    [
        ([{"CPU": 8.0, "GPU": 2.0}], 10),
        ([{"CPU": 2.0, "GPU": 2.0}], 4),
        ([{"CPU": 2.0}], 0),
        # A job runs on one node: free resources of two nodes are not added.
        ([{"CPU": 0.9, "GPU": 1.0}, {"CPU": 0.9, "GPU": 1.0}], 2),
    ],
)
def test_a_fraction_of_a_gpu_counts_its_slots(monkeypatch, nodes, slots):
    lost = {"Alive": False, "Resources": {"CPU": 8.0, "GPU": 8.0}}
    monkeypatch.setattr("ray.nodes", lambda: [lost, *({"Alive": True, "Resources": node} for node in nodes)])
    assert Cluster(cpus=0.5, gpus=0.2).slots() == slots


def test_without_ray_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r"Ray is not installed: pip install 'ray\[tune\]'"), connected():
        pass


@pytest.mark.parametrize(
    ("error", "address", "message"),
    [
        (
            ConnectionError("Failed to connect to Ray cluster"),
            "host:6379",
            "cluster at host:6379 .*RAY_AUTH_MODE=token.* RAY_AUTH_TOKEN",
        ),
        (ConnectionError("Could not find any running"), "auto", "no Ray cluster at auto; .*`ray start --head"),
        (
            RuntimeError("Version mismatch: The cluster\nwas started with"),
            "host:6379",
            "another version .* cluster was",
        ),
        (OSError("no space\nleft"), None, "Ray does not start: OSError: no space$"),
    ],
)
def test_connection_errors_say_what_to_do(error, address, message):
    assert re.search(message, connection_message(address, error))


def test_modules_of_users_are_recognised(tmp_path):
    (tmp_path / "own.py").write_text("VALUE = 1\n", encoding="utf-8")
    resolve(f"{tmp_path / 'own.py'}:VALUE", {})
    user_modules = [name for name, module in sys.modules.items() if is_user_module(module)]
    assert any(name.startswith("hardcell_user_own_") for name in user_modules)
    assert __name__ in user_modules
    for module in (os, np, torch, nn, pytest, sys.modules["nas.resolve"], sys.modules["__main__"], types.ModuleType("new")):
        assert not is_user_module(module)


def test_folders_of_packages_are_found_once(monkeypatch):
    find = mock.Mock(return_value={})
    monkeypatch.setattr("sysconfig.get_paths", find)
    cluster._installed_folders.cache_clear()
    try:
        for module in (os, torch, np):
            is_user_module(module)
        assert find.call_count == 1
    finally:
        cluster._installed_folders.cache_clear()


def split_of(x, y=None):
    return Split(x, torch.arange(len(x)) if y is None else y, "0" * 16)


def test_a_split_pickles_without_copies():
    split = split_of(torch.rand(5, 1, 2, 2))
    buffers = []
    content = pickle.dumps(split, protocol=5, buffer_callback=buffers.append)
    assert len(buffers) == 2
    assert len(content) < 1000
    frozen = [memoryview(bytes(buffer.raw())) for buffer in buffers]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restored = pickle.loads(content, buffers=frozen)
    assert torch.equal(restored.x, split.x)
    assert torch.equal(restored.y, split.y)
    assert restored.hash == split.hash
    assert restored.x.data_ptr() == np.frombuffer(frozen[0], np.float32).ctypes.data
    assert torch.equal(copy.deepcopy(split).x, split.x)


class Tune(threading.Thread):
    """Fake Tune thread: sends the given messages and records the replies."""

    def __init__(self, channel, *messages):
        super().__init__(daemon=True)
        self.channel, self.messages, self.answers = channel, messages, []

    def run(self):
        for message in self.messages:
            if isinstance(message, JobRequest | EpochReported):
                self.answers.append(self.channel.request(message))
            else:
                self.channel.send(message)


def served(work, numbers, *messages):
    """Returns the events of the dispatcher, and the replies to Tune."""
    channel = Channel()
    tune = Tune(channel, *messages)
    tune.start()
    news = [(job.number, item) for job, item in Dispatcher(channel, work).serve(map(job_of, numbers))]
    tune.join(10)
    return news, tune.answers


def began(number, worker="w", kill=lambda: None, ago=0.0):
    return WorkerStarted(number, worker, kill, time.monotonic() - ago)


def work_of(folder=Path(), evaluate=None, stop=never, **settings):
    return ExecutionContext(evaluate or Script(), stop, folder, **settings)


def test_the_dispatcher_answers_requests_and_epochs():
    stop = mock.Mock(side_effect=lambda job, epoch: job.number == 1)
    outcome = TrialResult({"clean_error": 0.5})
    news, answers = served(
        work_of(stop=stop),
        [0, 1],
        *(JobRequest(), JobRequest(), JobRequest()),
        *(began(0), EpochReported(0, epoch_of(1, rung=True)), EpochReported(0, epoch_of(2)), JobFinished(0, outcome)),
        *(
            began(1),
            EpochReported(1, epoch_of(1)),
            EpochReported(1, epoch_of(2, rung=True)),
            EpochReported(1, epoch_of(3)),
            JobFinished(1, outcome),
        ),
        *(JobRequest(), TuneFinished(None)),
    )
    # The replies are: two jobs, None for no job now; False, False for the epochs of job 0, which continues; False, True,
    # True for those of job 1, which stops at its rung; and False, because there are no more jobs.
    assert answers == [job_of(0), job_of(1), None, False, False, False, True, True, False]
    assert [number for number, _ in news] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert news[3][1] == outcome
    stopped = news[-1][1]
    assert stopped.stopped == 2
    assert [epoch.epoch for epoch in stopped.epochs] == [1, 2]
    assert [call.args[1].epoch for call in stop.call_args_list] == [1, 2]


def test_the_dispatcher_restarts_a_job_and_reports_no_epoch_twice():
    stop = mock.Mock(return_value=False)
    rung = EpochReported(0, epoch_of(1, rung=True))
    outcome = TrialResult({"clean_error": 0.5})
    news, answers = served(
        work_of(stop=stop, attempts=1),
        [0],
        *(JobRequest(), began(0), rung, WorkerDied(0, "killed"), JobRequest()),
        *(began(0, "v"), rung, EpochReported(0, epoch_of(2)), JobFinished(0, outcome), JobRequest(), TuneFinished(None)),
    )
    assert answers == [job_of(0), False, job_of(0), False, False, False]
    assert [item for _, item in news] == [JobStarted("w"), rung.result, JobStarted("v"), epoch_of(2), outcome]
    assert stop.call_count == 1


def test_the_dispatcher_gives_a_job_up_after_its_attempts():
    news, _ = served(
        work_of(attempts=1),
        [0],
        *(
            JobRequest(),
            began(0),
            WorkerDied(0, "first"),
            JobRequest(),
            began(0),
            WorkerDied(0, "it was the night"),
            WorkerDied(0, "late"),
            JobRequest(),
            TuneFinished(None),
        ),
    )
    outcome = news[-1][1]
    assert " died 2 times" in outcome.reason
    assert "(it was the night)" in outcome.reason
    assert sum(isinstance(item, TrialResult) for _, item in news) == 1


def test_the_dispatcher_kills_a_worker_that_hangs():
    killed = threading.Event()
    limit = 2.0
    channel = Channel()

    def tune():
        channel.request(JobRequest())
        channel.send(began(0, kill=killed.set, ago=limit + executor.GRACE - 0.3))
        killed.wait(10)
        channel.send(WorkerDied(0, "killed"))
        channel.request(JobRequest())
        channel.send(TuneFinished(None))

    threading.Thread(target=tune, daemon=True).start()
    news = [item for _, item in Dispatcher(channel, work_of(time_limit=limit)).serve([job_of(0)])]
    assert killed.is_set()
    assert [item.reason for item in news if isinstance(item, TrialResult)] == ["took longer than search.time_limit, 2 s"]


def test_lost_head_ends_the_search_with_how_to_go_on(monkeypatch, tmp_path):
    clock = [0.0]
    monkeypatch.setattr("nas.executors.ray_tune.cluster.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("nas.executors.ray_tune.executor.HEAD_CHECK_SECONDS", 0.001)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        head = HeadMonitor(address, tmp_path)
        for clock[0] in (1.0, 30.0, 60.0):
            head.check()
    for clock[0] in (66.0, 72.0, 75.0):  # A short interruption is no loss.
        head.check()
    clock[0] = 81.0
    with pytest.raises(HeadLostError) as error:
        list(Dispatcher(Channel(), work_of(tmp_path), head.check).serve([job_of(0)]))
    message = str(error.value)
    assert f"the head of the Ray cluster at {address} has not answered for 21 s" in message
    assert f"`hardcell resume {tmp_path}` continues" in message


def test_the_dispatcher_raises_errors_that_no_candidate_causes():
    with pytest.raises(RunError, match="no module"):
        served(work_of(), [0], JobRequest(), FatalError(0, RunError("no module")))
    with pytest.raises(RunError, match=r"Ray Tune ended .*: TuneError: bad; .* `hardcell resume .*` continues$"):
        served(work_of(), [0], JobRequest(), TuneFinished("TuneError: bad"))
    with pytest.raises(RunError, match=r"Ray Tune ended .*no reason"):
        served(work_of(), [0], JobRequest(), TuneFinished(None))


def test_a_closed_channel_waits_for_nothing():
    channel = Channel()
    tune = Tune(channel, JobRequest(), JobRequest())
    tune.start()
    assert isinstance(channel.receive(10), JobRequest)
    channel.close()
    tune.join(10)
    assert tune.answers == [False, False]


# Tests with Ray.


@pytest.mark.ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379"])
def test_no_cluster_at_the_address(address, tmp_path):
    import ray

    assert not ray.is_initialized()
    with pytest.raises(RunError, match=f"no Ray cluster at {address}; .*`ray start --head"):
        list(Ray(address=address).run([job_of(0)], work_of(tmp_path)))


def processes(mark):
    """Returns the ids of the processes whose environment contains a string. Child processes inherit the environment."""
    pids = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (place / "environ").read_bytes() and b"\nState:\tZ" not in (place / "status").read_bytes():
                pids.append(int(place.name))
        except OSError:
            continue
    return pids


INTERRUPTED = """
import signal, sys, time
from pathlib import Path

# Shells start background jobs with SIGINT ignored, and child processes inherit this. The tests may run in such a job.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[2])
from script_for_ray import Sleeps
from nas.executors import Job, Ray, JobStarted, ExecutionContext

try:
    jobs = (Job(number, {}, {}, 0) for number in range(9))
    for job, news in Ray(workers=2).run(jobs, ExecutionContext(Sleeps(), lambda job, epoch: False, Path(sys.argv[1]))):
        print(type(news).__name__, flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
SLEEPS = """
import time
from nas.executors import TrialResult

class Sleeps:
    def __call__(self, job, checkpoint):
        time.sleep(600)
        yield
"""


@pytest.mark.ray
def test_ctrl_c_leaves_no_process(tmp_path):
    (tmp_path / "script_for_ray.py").write_text(SLEEPS, encoding="utf-8")
    mark = f"HARDCELL_TEST={tmp_path}"
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, tmp_path, tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={**os.environ, "HARDCELL_TEST": str(tmp_path)},
        start_new_session=True,
    )
    assert process.stdout.readline() == "JobStarted\n"
    # Hardcell starts Ray without the processes for a dashboard, an autoscaler and logs.
    commands = [
        Path(f"/proc/{pid}/cmdline").read_text() for pid in processes(mark.encode()) if Path(f"/proc/{pid}").exists()
    ]
    assert any("gcs_server" in command for command in commands)
    assert not [command for command in commands if re.search(r"dashboard\.py|monitor\.py", command)]
    time.sleep(1)
    # A terminal sends Ctrl-C to the whole process group, too.
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert out in ("interrupted\n", "JobStarted\ninterrupted\n")
    assert err == ""
    assert process.returncode == 0
    deadline = time.monotonic() + 60
    while processes(mark.encode()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes(mark.encode()) == []


def slow_start(job, checkpoint):
    time.sleep(1.5)


@pytest.mark.ray
@pytest.mark.slow
def test_nodes_come_and_go(tmp_path):
    import ray
    from ray.cluster_utils import Cluster as Nodes

    news, counts, lost, new = {}, Counter(), None, None
    deadline = time.monotonic() + 180

    def jobs():
        """Yields jobs until the new node has run some."""
        number = 0
        while (new is None or counts[new.node_id[:6]] < 3) and time.monotonic() < deadline:
            yield job_of(number)
            number += 1

    with mock.patch.dict(os.environ, {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}):
        nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        others = [nodes.add_node(num_cpus=1) for _ in range(2)]
        try:
            work = work_of(tmp_path, Script(dict.fromkeys(range(1000), slow_start)), attempts=3)
            for job, item in Ray(address=nodes.address).run(jobs(), work):
                news.setdefault(job.number, []).append(item)
                if isinstance(item, JobStarted):
                    counts[item.worker.partition("/")[2].partition(":")[0]] += 1
                    at_work = {items[0].worker for items in news.values() if not isinstance(items[-1], TrialResult)}
                    # The lost node is a worker node with a job. It is not the head node, on which this process depends.
                    if lost is None and len(counts) == 3 and len(at_work) == 3:
                        lost, cut = others[0], job.number
                        nodes.remove_node(lost, allow_graceful=False)
                        new = nodes.add_node(num_cpus=1)
        finally:
            if ray.is_initialized():
                ray.shutdown()
            nodes.shutdown()
    assert counts[new.node_id[:6]] >= 3
    assert counts[lost.node_id[:6]] <= cut + 1
    for items in news.values():
        assert sum(isinstance(item, TrialResult) for item in items) == 1
        assert isinstance(items[-1], TrialResult)
        assert items[-1].metrics
    assert sorted(news) == list(range(len(news)))
    # Only the job on the lost node restarted.
    assert [sum(isinstance(item, JobStarted) for item in items) for items in news.values()].count(2) == 1


@pytest.fixture(scope="module")
def two_cores():
    """Starts Ray on two cores, as a user may do before a search. Executors use this Ray and leave it running."""
    import ray

    from nas.executors.ray_tune.ray_internals import fewer_processes

    environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    with mock.patch.dict(os.environ, environment), fewer_processes():
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
    yield
    assert ray.is_initialized()
    ray.shutdown()


def remember(job, checkpoint):
    """Writes a checkpoint and then kills the worker process. The restarted job finds the checkpoint."""
    if checkpoint.load() is None:
        checkpoint.seconds = -1
        checkpoint.save(lambda: {"seed": job.seed})
        checkpoint.save(lambda: {"seed": job.seed})
        checkpoint.store.read()
        os.kill(os.getpid(), signal.SIGKILL)
    assert checkpoint.load() == {"seed": job.seed}


def die(job, checkpoint):
    os.kill(os.getpid(), signal.SIGKILL)


def loop(job, checkpoint):
    while True:
        pass


def hang(job, checkpoint):
    """Hangs like a call into C: no signal handler runs."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(600)


def raises(job, checkpoint):
    raise RuntimeError("boom")


def writes(job, checkpoint):
    checkpoint.seconds = -1
    checkpoint.save(dict)
    checkpoint.save(dict)


def title_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # The process has ended.
        return ""


def imported_torch(pid):
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:  # The process has ended.
        return False


@pytest.mark.ray
def test_a_started_executor_has_workers_that_have_imported_torch(tmp_path):
    import ray

    ours = os.getpid()
    with Ray(workers=1).started():
        assert ray.is_initialized()
        deadline, ready = time.monotonic() + 120, []
        while len(ready) < 2 and time.monotonic() < deadline:  # One process is for trials, one for checkpoints.
            time.sleep(0.5)
            others = [pid for pid in map(int, (p.name for p in Path("/proc").glob("[0-9]*"))) if pid != ours]
            ready = [pid for pid in others if title_of(pid).startswith("ray::IDLE") and imported_torch(pid)]
        events = [event for _, event in Ray(workers=1).run([job_of(0)], work_of(tmp_path))]
        assert ray.is_initialized()
    (started,) = [event for event in events if isinstance(event, JobStarted)]
    assert int(started.worker.rpartition(":")[2]) in ready
    assert not ray.is_initialized()


@pytest.mark.ray
def test_jobs_run_and_end_once(two_cores, tmp_path):
    threads, in_hand, most = set(), set(), 0

    def jobs():
        nonlocal most
        for number in range(8):
            threads.add(threading.current_thread())
            in_hand.add(number)
            most = max(most, len(in_hand))
            yield job_of(number)

    def stop(job, epoch):
        threads.add(threading.current_thread())
        assert epoch.rung
        return job.number == 3

    news = {}
    for job, item in Ray().run(jobs(), work_of(tmp_path, stop=stop)):
        news.setdefault(job.number, []).append(item)
        if isinstance(item, TrialResult):
            in_hand.remove(job.number)
    assert threads == {threading.current_thread()}
    assert most <= 2
    for number, items in news.items():
        kinds = [type(item) for item in items]
        if number == 3:
            assert kinds == [JobStarted, EpochResult, TrialResult]
            assert items[-1].stopped == 1
        else:
            assert kinds == [JobStarted, EpochResult, EpochResult, TrialResult]
            assert items[-1].metrics == {"clean_error": number / 100}
    assert sorted(news) == list(range(8))
    assert len({items[0].worker for items in news.values()}) <= 2  # Workers are reused.
    # Tune writes results to its own files.
    (result,) = tmp_path.glob("ray/*/trial-5/result.json")
    assert '"adversarial_error": 0.2' in result.read_text()
    assert "TrialResult" not in result.read_text()
    assert not [name for name in os.environ if name.startswith("TUNE_")]


@pytest.mark.ray
def test_killed_workers_and_jobs_over_the_time_limit(two_cores, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(executor, "GRACE", 6.0)
    work = work_of(tmp_path, Script({0: remember, 1: die, 3: loop, 4: hang}), attempts=1, time_limit=8.0)
    news = run(Ray(), range(6), work)
    assert [type(item) for item in news[0]] == [JobStarted, JobStarted, EpochResult, EpochResult, TrialResult]
    assert news[0][-1].reason is None
    assert news[0][0].worker != news[0][1].worker
    assert " died 2 times" in news[1][-1].reason
    assert "worker process has died" in news[1][-1].reason
    assert "\n" not in news[1][-1].reason
    assert len(news[1]) == 3
    for number in (3, 4):
        assert [type(item) for item in news[number]] == [JobStarted, TrialResult]
        assert news[number][-1].reason == "took longer than search.time_limit, 8 s"
    assert news[3][-1].seconds < 14 - 0.1 < news[4][-1].seconds
    for number in (2, 5):
        assert news[number][-1].metrics
    assert capfd.readouterr() == ("", "")


class Elsewhere:
    """Can be unpickled only with a module that no worker has."""

    def __reduce__(self):
        return importlib.import_module, ("a_module_of_nobody",)


class Never:
    """Cannot be pickled."""

    def __init__(self):
        self.lock = threading.Lock()


@pytest.mark.ray
@pytest.mark.parametrize(
    ("evaluate", "kind", "message"),
    [
        (
            Script(dict.fromkeys(range(9), raises)),
            RunError,
            r"no job can run on worker \S+/\w{6}:\d+: RuntimeError: boom \(test_ray",
        ),
        (Script(dict.fromkeys(range(9), writes)), CheckpointError, r"trial-\d.pt: .* `hardcell resume`"),
        (Elsewhere(), RunError, "has no module 'a_module_of_nobody'; install"),
        (Never(), RunError, "cannot be sent to Ray's workers: TypeError"),
    ],
)
def test_errors_that_no_candidate_causes_end_the_run(two_cores, tmp_path, evaluate, kind, message):
    for number in range(9):  # A folder at the path of each checkpoint makes writing it fail.
        (tmp_path / "checkpoints" / f"trial-{number}.pt").mkdir(parents=True)
    pulled = []

    def jobs():
        for number in range(9):
            pulled.append(number)
            yield job_of(number)

    with pytest.raises(RunError, match=message) as caught:
        list(Ray(workers=1).run(jobs(), work_of(tmp_path, evaluate)))
    assert type(caught.value) is kind
    assert len(pulled) <= 1


@dataclass(frozen=True)
class Looks:
    """Reports the memory mapping of its images, the number of threads and the working folder."""

    data: Dataset

    def __call__(self, job, checkpoint):
        # The other worker needs time to start a job, too.
        time.sleep(3)
        x = self.data.train.x
        for line in Path("/proc/self/maps").read_text().splitlines():
            (low, high), rights, _, device, inode = (line.split()[0].split("-"), *line.split()[1:5])
            if int(low, 16) <= x.data_ptr() < int(high, 16):
                where = f"{rights} {device} {inode}"
        yield EpochResult(1, 1, loss=float(x.sum()), clean_error=None, adversarial_error=None, seconds=0.0)
        return TrialResult({"threads": torch.get_num_threads()}, radii={"where": where, "cwd": str(Path.cwd())})


def data_of(images=200, size=8):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(images, 1, size, size, generator=generator)
    split = split_of(x, (x.mean((1, 2, 3)) > 0.5).long())
    return Dataset("made", ("dark", "light"), split, split)


@pytest.mark.ray
def test_workers_of_a_node_share_the_images(two_cores, tmp_path):
    data = data_of(4000, 40)
    news = run(Ray(), range(3), work_of(tmp_path, Looks(data), threads=3))
    outcomes = [items[-1] for items in news.values()]
    assert len({items[0].worker for items in news.values()}) == 2
    (where,) = {outcome.radii["where"] for outcome in outcomes}
    # Both workers map the same file in shared memory.
    assert where.split()[0].endswith("s")
    assert {items[1].loss for items in news.values()} == {float(data.train.x.sum())}
    assert {outcome.metrics["threads"] for outcome in outcomes} == {3}
    # By default, Tune would change to the folder of the trial.
    assert {outcome.radii["cwd"] for outcome in outcomes} == {str(Path.cwd())}


@dataclass(frozen=True)
class Trains:
    """Trains a small network."""

    data: Dataset

    def __call__(self, job, checkpoint):
        torch.manual_seed(job.seed)
        network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 64), nn.ReLU(), nn.Linear(64, 2))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        for number in range(3):
            for index in torch.randperm(len(self.data.train.x)).split(16):
                loss = nn.functional.cross_entropy(network(self.data.train.x[index]), self.data.train.y[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            yield EpochResult(number + 1, 3, loss=loss.item(), clean_error=None, adversarial_error=None, seconds=0.0)
        weights = torch.cat([p.detach().flatten() for p in network.parameters()])
        return TrialResult({"weights": float(weights.double().abs().sum())}, radii={"weights": weights.numpy().tobytes()})


OWN = """
from dataclasses import dataclass, replace

import torch

from evaluators.attacks import Attack
from search_spaces import Choice, SearchSpace


def helper(x):
    return 2 * x


def build(architecture, input_shape, num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(helper(2), architecture["width"]))


SPACE = SearchSpace(name="own", choices={"width": Choice(3, 5)}, build=build)


@dataclass(frozen=True, kw_only=True)
class OwnAttack(Attack):
    steps: int = 1

    def perturb(self, network, x, y, epsilon, generator):
        return helper(x)


@dataclass(frozen=True, kw_only=True)
class OwnRecipe:
    weight: float = 0.5

    def loss(self, network, x, y):
        return self.weight * helper(x).sum()
"""


@dataclass(frozen=True)
class UsesOwn:
    """Uses a space, an attack and a recipe from a file."""

    space: object
    attack: object
    recipe: object

    def __call__(self, job, checkpoint):
        yield epoch_of(1, 1)
        network = self.space.build({"width": 5}, (1, 2, 2), 5)
        attack = replace(self.attack, steps=7)
        x = torch.ones(2)
        return TrialResult(
            {
                "width": network(torch.ones(1, 4)).shape[1],
                "steps": attack.steps,
                "attack": float(attack.perturb(None, x, None, None, None).sum()),
                "recipe": float(self.recipe.loss(None, x, None)),
            }
        )


@pytest.mark.ray
def test_weights_are_those_of_the_local_executor(two_cores, tmp_path):
    work = work_of(tmp_path, Trains(data_of()), threads=1)
    here, there = (run(settings, range(2), work) for settings in (Local(), Ray(workers=1)))
    for number in (0, 1):
        assert here[number][-1] == there[number][-1]
        assert here[number][1:] == there[number][1:]
    assert here[0][-1].radii != here[1][-1].radii


@pytest.mark.ray
def test_objects_from_files_of_users_run_on_workers(two_cores, tmp_path):
    file = tmp_path / "own_things.py"
    file.write_text(OWN, encoding="utf-8")
    space, attack, recipe = (resolve(f"{file}:{name}", {}) for name in ("SPACE", "OwnAttack", "OwnRecipe"))
    file.unlink()
    news = run(Ray(workers=1), [0], work_of(tmp_path, UsesOwn(space, attack(steps=2), recipe())))
    assert news[0][-1].metrics == {"width": 5.0, "steps": 7.0, "attack": 4.0, "recipe": 2.0}
    from ray import cloudpickle

    assert not cloudpickle.list_registry_pickle_by_value()


@pytest.mark.ray
def test_closing_ends_running_jobs(two_cores, tmp_path):
    import ray

    work = work_of(tmp_path, Script(dict.fromkeys(range(9), hang)))
    running = Ray(workers=1).run(map(job_of, range(9)), work)
    _, started = next(running)
    pid = int(started.worker.rpartition(":")[2])
    begun = time.monotonic()
    running.close()
    assert time.monotonic() - begun < 12
    # Ray kills the process in the background, which takes a moment on a busy machine.
    status, deadline = Path(f"/proc/{pid}/status"), time.monotonic() + 30
    while status.exists() and b"\nState:\tZ" not in status.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert time.monotonic() < deadline
    assert ray.is_initialized()
    assert not [thread for thread in threading.enumerate() if thread.name == "ray-tune"]
