"""The structure of the packages: what import-linter cannot see."""

import importlib
import pkgutil
from types import ModuleType

import pytest

import evaluators
import nas
import search_spaces

PACKAGES = [evaluators, nas, search_spaces]
MODULES = sorted(m.name for package in PACKAGES for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}."))


@pytest.mark.parametrize("name", MODULES)
def test_no_module_is_hidden_by_a_function_of_its_name(name):
    module = importlib.import_module(name)
    package, _, last = name.rpartition(".")
    assert getattr(importlib.import_module(package), last) is module
    assert module.__doc__


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_exports_are_there_and_are_no_modules(package):
    assert len(package.__all__) == len(set(package.__all__)) <= 70
    for name in package.__all__:
        assert not isinstance(getattr(package, name), ModuleType), name
