"""What `import nas` offers."""

import importlib
import inspect
import pkgutil

import pytest

import nas


@pytest.mark.parametrize("name", nas.__all__)
def test_name_imports(name):
    assert callable(getattr(nas, name))
    scope = {}
    exec(f"from nas import {name}", scope)
    assert scope[name] is getattr(nas, name)


def test_names_are_sorted_and_each_once():
    assert sorted(set(nas.__all__)) == nas.__all__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'nas' has no attribute 'serach'"):
        _ = nas.serach


def test_no_module_takes_the_place_of_a_name():
    """A module of the same name would take a function's place as soon as it is imported."""
    for module in pkgutil.walk_packages(nas.__path__, "nas."):
        importlib.import_module(module.name)
    assert [name for name in nas.__all__ if inspect.ismodule(getattr(nas, name))] == []


@pytest.mark.slow
def test_search_in_python_gives_the_trials_of_the_command_line(tiny, tmp_path, cli, told, tiny_file):
    overrides = ["search.trials=3", "finalists.references=false", "finalists.epochs=1"]
    found = nas.search(tiny(*overrides), run=tmp_path / "python")
    code, _, err = cli(
        "search", tiny_file, "--run", tmp_path / "shell", *(part for key in overrides for part in ("--set", key))
    )
    assert code == 0, err
    assert told(tmp_path / "python") == told(tmp_path / "shell")
    assert [trial.number for trial in found.trials] == [0, 1, 2]
    again = nas.read_run(tmp_path / "shell")
    assert [b.name for b in again.bundles] == [b.name for b in found.bundles]
    weights = [(b.folder / "weights.safetensors").read_bytes() for b in (*found.bundles, *again.bundles)]
    assert len(weights) == 2
    assert weights[0] == weights[1]
    assert all(outcome.passed for outcome in nas.verify(found.bundles[0].folder))


def test_finished_run_reads_back(finished_run, tiny):
    found = nas.read_run(finished_run)
    assert isinstance(found, nas.Run)
    assert found.config == tiny()
    assert len(found.trials) == 6
    assert [bundle.role for bundle in found.bundles] == ["finalist", "random", "residual"]
    assert nas.load_config(finished_run / "config.yaml") == found.config
