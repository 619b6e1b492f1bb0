"""The examples in docstrings run as printed. Those of `nas` run in a folder with a finished run and its config."""

import doctest
import importlib
import inspect
import pkgutil
import shutil
from pathlib import Path

import pytest

import evaluators
import nas
import search_spaces

PACKAGES = (evaluators, search_spaces, nas)
# The functions and classes that users meet first.
SHOWN = {
    evaluators: [
        "PGD",
        "certify",
        "check_network",
        "check_table",
        "compare",
        "compare_radii",
        "describe",
        "error_area",
        "error_at",
        "error_curve",
        "explain",
        "first_order_error",
        "fit_power_law",
        "holm",
        "macs",
        "margins",
        "median_radius",
        "parameters",
        "profile",
        "radii",
        "rank_correlation",
        "transfer_matrix",
        "worst_case",
    ],
    search_spaces: [
        "CellGraph",
        "SearchSpace",
        "cell201",
        "cell_space",
        "one_hot",
        "path_encoding",
    ],
    nas: [
        "build",
        "compare",
        "load",
        "load_config",
        "parse_config",
        "profile",
        "read_run",
        "report",
        "resume",
        "search",
        "status",
        "surface",
        "verify",
    ],
}


def modules():
    """Yields the names of the modules with an example."""
    for package in PACKAGES:
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            source = Path(found.module_finder.path, found.name.rpartition(".")[2])
            source = source / "__init__.py" if found.ispkg else source.with_suffix(".py")
            if ">>> " in source.read_text(encoding="utf-8"):
                yield found.name


@pytest.fixture
def beside_a_run(finished_run, tiny_file, tmp_path, monkeypatch):
    """Makes a folder with a finished run and its config the working directory."""
    shutil.copytree(finished_run, tmp_path / "runs" / "digits")
    shutil.copy(tiny_file, tmp_path / "digits.yaml")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", list(modules()))
def test_examples_run(name, request):
    if name.startswith("nas."):
        request.getfixturevalue("beside_a_run")
    module = importlib.import_module(name)
    examples = [found for found in doctest.DocTestFinder().find(module, name, globs={}) if found.examples]
    runner = doctest.DocTestRunner()
    for found in examples:
        report = []
        runner.run(found, out=report.append)
        assert not report, "".join(report)
    assert runner.tries >= 1


def test_no_example_is_left_out():
    text = "".join(inspect.getsource(importlib.import_module(name)) for name in modules())
    assert "+SKIP" not in text


@pytest.mark.parametrize(("package", "name"), [(package, name) for package in PACKAGES for name in SHOWN[package]])
def test_functions_that_users_meet_first_have_an_example(package, name):
    assert ">>> " in inspect.getdoc(getattr(package, name))
