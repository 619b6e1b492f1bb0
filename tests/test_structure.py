"""Rules that import-linter cannot check: names of modules, exports, number of parameters."""

import importlib
import inspect
import pkgutil
from types import FunctionType, ModuleType

import pytest

import evaluators
import nas
import search_spaces

PACKAGES = [evaluators, nas, search_spaces]
MODULES = sorted(m.name for package in PACKAGES for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}."))
MAX_PARAMETERS = 8
# `cell_space` may have more, because its parameters are the keys of `space: {name: cells, ...}` in YAML, without nesting.
MORE_PARAMETERS = {"search_spaces.cells.cell_space.cell_space"}


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


def functions_of(module):
    """The public functions of a module, and the public methods of its public classes, by name."""
    for name, member in vars(module).items():
        if name.startswith("_") or getattr(member, "__module__", None) != module.__name__:
            continue
        if isinstance(member, FunctionType):
            yield f"{module.__name__}.{name}", member
        elif inspect.isclass(member):
            for method, function in vars(member).items():
                if isinstance(function, FunctionType) and not method.startswith("_"):
                    yield f"{module.__name__}.{name}.{method}", function


def test_public_functions_have_few_parameters():
    many = {
        name
        for module in map(importlib.import_module, MODULES)
        for name, function in functions_of(module)
        if len([p for p in inspect.signature(function).parameters if p not in ("self", "cls")]) > MAX_PARAMETERS
    }
    assert many == MORE_PARAMETERS
