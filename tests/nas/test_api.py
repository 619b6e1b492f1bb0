"""What `import nas` offers."""

import importlib
import inspect
import pkgutil

import pytest
import torch

import nas
from nas.errors import ConfigError, NetworkError, RunError


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
def test_search_in_python_gives_the_trials_of_the_command_line(tiny, tmp_path, cli, study_content, tiny_file):
    overrides = ["search.trials=3", "finalists.references=false", "finalists.epochs=1"]
    run = nas.search(tiny(*overrides), run=tmp_path / "python")
    code, _, err = cli(
        "search", tiny_file, "--run", tmp_path / "shell", *(part for key in overrides for part in ("--set", key))
    )
    assert code == 0, err
    assert study_content(tmp_path / "python") == study_content(tmp_path / "shell")
    assert [trial.number for trial in run.trials] == [0, 1, 2]
    again = nas.read_run(tmp_path / "shell")
    assert [b.name for b in again.bundles] == [b.name for b in run.bundles]
    weights = [(b.folder / "weights.safetensors").read_bytes() for b in (*run.bundles, *again.bundles)]
    assert len(weights) == 2
    assert weights[0] == weights[1]
    assert all(outcome.passed for outcome in nas.verify(run.bundles[0].folder))


def test_finished_run_reads_back(finished_run, tiny, all_forms):
    run = nas.read_run(finished_run)
    assert isinstance(run, nas.Run)
    assert run.config == tiny(all_forms)
    assert len(run.trials) == 6
    assert [bundle.role for bundle in run.bundles] == ["finalist", "random", "residual"]
    assert nas.load_config(finished_run / "config.yaml") == run.config


def test_events_are_passed_on_and_logged(run_copy, caplog):
    seen = []
    with caplog.at_level("INFO", logger="hardcell"):
        run = nas.resume(run_copy, on_event=seen.append)
    assert [type(event).__name__ for event in seen] == ["RunStarted", "FinalistsStarted", "RunFinished"]
    assert len(caplog.records) == 3
    assert "RunFinished" in caplog.text
    assert len(run.trials) == 6


def test_generators_of_events_take_paths_as_text_and_log(run_copy, caplog):
    with caplog.at_level("INFO", logger="hardcell"):
        events = list(nas.resume_events(str(run_copy)))
    assert len(caplog.records) == len(events) == 3
    with pytest.raises(RunError, match="already"):
        nas.search_events(None, str(run_copy))


def test_export_of_no_architecture_is_refused(run_copy):
    for top in (0, -1):
        with pytest.raises(RunError, match=rf"top must be at least 1, got {top}"):
            nas.export(run_copy, top)


def test_profile_and_comparison_without_config_take_the_data_of_bundles(finished_run):
    first, second = sorted((finished_run / "bundles").iterdir())[:2]
    assert nas.profile(first).record["dataset"] == "digits"
    assert nas.compare([first, nas.load(second)]).data == "digits"
    with pytest.raises(ConfigError, match="must name the data"):
        nas.profile(nas.load(first))


def test_library_is_silent_by_default(capfd, finished_run):
    assert nas.status(finished_run).state == "finished"
    assert capfd.readouterr() == ("", "")


def test_report_and_leaderboard_are_written_anew(run_copy):
    (run_copy / "report.html").unlink()
    (run_copy / "leaderboard.csv").unlink()
    assert nas.report(str(run_copy)) == run_copy / "report.html"
    assert (run_copy / "report.html").exists()
    assert (run_copy / "leaderboard.csv").exists()


def test_export_leaves_what_is_there(run_copy):
    seen = []
    run = nas.export(run_copy, on_event=seen.append)
    assert [bundle.role for bundle in run.bundles] == ["finalist", "random", "residual"]
    assert [type(event).__name__ for event in seen] == ["FinalistsStarted"]


class TestBuild:
    def test_has_the_shapes_of_the_stored_network(self, bundle_copy):
        network, trained = nas.build(bundle_copy), nas.load(bundle_copy)
        shapes = [parameter.shape for parameter in network.parameters()]
        assert shapes == [parameter.shape for parameter in trained.parameters()]

    def test_at_another_size(self, bundle_copy):
        network = nas.build(bundle_copy / "architecture.yaml", input_shape=(3, 16, 16), num_classes=7, channels=12)
        assert network(torch.rand(2, 3, 16, 16)).shape == (2, 7)

    def test_same_seed_same_weights(self, bundle_copy):
        first, again, other = (nas.build(bundle_copy, seed=seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)

    def test_what_cannot_be_built_is_named(self, tmp_path, bundle_copy):
        with pytest.raises(NetworkError, match=r"gone\.yaml: No such file"):
            nas.build(tmp_path / "gone.yaml")
        (tmp_path / "other.yaml").write_text("[1]", encoding="utf-8")
        with pytest.raises(NetworkError, match=r"other\.yaml: must hold space, architecture"):
            nas.build(tmp_path / "other.yaml")
        with pytest.raises(NetworkError, match=r"input_shape must be \(channels, height, width\)"):
            nas.build(bundle_copy, input_shape=(3, 32))
        for shape in (3, (3, 0, 32), "abc"):
            with pytest.raises(NetworkError, match=r"input_shape must be"):
                nas.build(bundle_copy, input_shape=shape)
        for name in ("channels", "num_classes"):
            for value in (0, "x"):
                with pytest.raises(NetworkError, match=rf"{name} must be .*at least 1, got {value!r}"):
                    nas.build(bundle_copy, **{name: value})
