"""The private interfaces of Ray that Hardcell uses. If a release of Ray changes one, a test here fails.

No test of this file starts Ray.
"""

import ast
import inspect
import io
import runpy
import sys
import types
from pathlib import Path

import pytest
import ray
from ray import cloudpickle
from ray._private import worker
from ray._private.node import Node
from ray.air.execution._internal import actor_manager
from ray.exceptions import OutOfMemoryError, RayActorError, RaySystemError
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial

import nas
from nas.errors import RunError
from nas.executors.ray_tune import ray_internals
from nas.executors.ray_tune.cluster import connected

MESSAGE = {"lines": ["a worker died"], "pid": "raylet", "is_err": False}


def test_this_ray_has_every_interface():
    assert ray_internals.missing_interfaces() == [], f"Ray {ray.__version__} has changed these interfaces"


def other_signature(self, task, error):
    raise AssertionError


@pytest.mark.parametrize(
    ("owner", "name", "replacement", "interface"),
    [
        (worker, "_worker_logs_enabled", None, "_worker_logs_enabled"),
        (actor_manager, "RayActorManager", None, "_actor_task_failed"),
        (actor_manager.RayActorManager, "_actor_task_failed", None, "_actor_task_failed"),
        (actor_manager.RayActorManager, "_actor_task_failed", other_signature, "_actor_task_failed"),
        (class_cache, "_ActorClassCache", None, "_ActorClassCache.get"),
        (class_cache._ActorClassCache, "get", other_signature, "_ActorClassCache.get"),
        (Trial, "__init__", lambda self, *args, **settings: None, "temporary_state.ray_actor"),
        (Trial, "pickled_error_file", None, "pickled_error_file"),
        (RaySystemError, "__init__", lambda self, *args: None, "client_exc"),
    ],
)
def test_a_changed_interface_ends_a_search_before_it_connects(monkeypatch, owner, name, replacement, interface):
    monkeypatch.setattr(owner, name, replacement) if replacement else monkeypatch.delattr(owner, name)
    (missing,) = ray_internals.missing_interfaces()
    assert interface in missing
    monkeypatch.setattr(ray, "__version__", "9.8.7")
    with pytest.raises(RunError, match=r"search\.executor: Ray 9\.8\.7 .*pip install") as error, connected():
        pass
    assert missing in str(error.value)
    assert not ray.is_initialized()


def test_a_missing_module_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.air.execution._internal", None)
    with pytest.raises(
        RunError, match=r"search\.executor: Ray \S+ has changed ray\.air\.execution\._internal; .*pip install"
    ):
        runpy.run_path(ray_internals.__file__)


def test_worker_logs_are_disabled_and_enabled_again():
    disabled, enabled = io.StringIO(), io.StringIO()
    with ray_internals.worker_logs_disabled():
        worker.print_worker_logs(MESSAGE, disabled)
    worker.print_worker_logs(MESSAGE, enabled)
    assert disabled.getvalue() == ""
    assert "a worker died" in enabled.getvalue()


def test_workers_of_tune_have_no_environment_of_their_own():
    class Trainable:
        pass

    def environment():
        return class_cache._ActorClassCache().get(Trainable)._default_options.get("runtime_env")

    before = environment()
    with ray_internals.use_started_processes():
        assert environment() is None
    assert environment() == before != {}
    assert before is not None


def test_fewer_processes_are_started_inside_the_block(monkeypatch):
    started = []
    for name in ray_internals.UNUSED_PROCESSES:
        assert inspect.isfunction(getattr(Node, name)), f"Ray {ray.__version__} has changed {name}"
        monkeypatch.setattr(Node, name, lambda self, name=name: started.append(name))
    head = Node.__new__(Node)
    with ray_internals.fewer_processes():
        head.start_api_server(include_dashboard=False, raise_on_failure=False)
        head.start_monitor()
        head.start_log_monitor()
    assert started == []
    head.start_monitor()
    assert started == ["start_monitor"]
    monkeypatch.delattr(Node, "start_monitor")
    with ray_internals.fewer_processes():
        assert not hasattr(Node, "start_monitor")


def handle(error):
    """Returns the error that Tune passes to a trial's error handler when an actor task fails with `error`."""
    errors = []
    actor = types.SimpleNamespace(actor_id=0, _on_error=None)
    task = types.SimpleNamespace(_tracked_actor=actor, _on_error=lambda _, error: errors.append(error))
    manager = types.SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda tracked_actor: None)
    actor_manager.RayActorManager._actor_task_failed(manager, task, error)
    return errors[0]


def test_memory_kills_are_treated_as_deaths(monkeypatch):
    manager = actor_manager.RayActorManager
    monkeypatch.setattr(manager, "_actor_task_failed", manager._actor_task_failed)
    ray_internals.treat_memory_kills_as_deaths()
    patched = manager._actor_task_failed
    ray_internals.treat_memory_kills_as_deaths()
    assert manager._actor_task_failed is patched
    error = handle(OutOfMemoryError("17 GB of 16 GB"))
    assert isinstance(error, RayActorError)
    assert not error.actor_init_failed
    assert "17 GB of 16 GB" in str(error)
    died = RayActorError(error_msg="killed")
    assert handle(died) is died
    with pytest.raises(RuntimeError):
        handle(ValueError("not an error of Ray"))


def test_tune_ends_at_a_memory_kill_without_the_treatment(monkeypatch):
    """If this fails, Tune handles memory kills itself: delete `treat_memory_kills_as_deaths`."""
    manager = actor_manager.RayActorManager
    monkeypatch.setattr(manager, "_actor_task_failed", inspect.unwrap(manager._actor_task_failed))
    with pytest.raises(RuntimeError):
        handle(OutOfMemoryError("17 GB of 16 GB"))


def test_the_actor_and_the_error_of_a_trial(monkeypatch, tmp_path):
    trial = Trial("hardcell", stub=True)
    assert ray_internals.trial_actor(trial) is None
    trial.temporary_state.ray_actor = "actor"
    assert ray_internals.trial_actor(trial) == "actor"
    file = tmp_path / "error.pkl"
    monkeypatch.setattr(Trial, "pickled_error_file", str(file))
    with pytest.raises(FileNotFoundError):
        ray_internals.trial_error(trial)
    file.write_bytes(cloudpickle.dumps(RayActorError(error_msg="killed")))
    assert isinstance(ray_internals.trial_error(trial), RayActorError)


def test_the_error_of_unpickling():
    cause = ModuleNotFoundError("no module")
    assert ray_internals.unpickling_error(RaySystemError(cause)) is cause
    assert ray_internals.unpickling_error(RaySystemError("no cause")) is None
    assert ray_internals.unpickling_error(ValueError("another error")) is None


def private_uses(source):
    """Returns the private names of Ray that a file imports or reads from the module `ray`."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names.append(ast.unparse(node))
    return [
        name
        for name in names
        if name.startswith("ray.") and ("._" in name.replace("__version__", "") or name.startswith("ray.air"))
    ]


def test_no_other_file_uses_a_private_interface():
    packages = Path(nas.__file__).parent
    uses = {file.name: private_uses(file.read_text(encoding="utf-8")) for file in packages.rglob("*.py")}
    assert {name for name, names in uses.items() if names} == {"ray_internals.py"}
