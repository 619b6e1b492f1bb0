"""Reads plain data into settings, and collects all faults.

Unknown keys, wrong types and unknown names are faults.
Spaces, recipes, attacks, norms, samplers, executors and evaluators are chosen by name. With a name, missing keys take the
defaults of the named class. Without a name, the keys change the default of the section. Entries of lists and mappings have
no default and need a name.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from evaluators.attacks import ATTACKS, LOSSES, Attack, Loss
from evaluators.norms import NORMS, Norm
from nas.config.evaluation import Recorder
from nas.config.evaluators import EVALUATORS, EvaluatorConfig
from nas.errors import ConfigError
from nas.executors import EXECUTORS, Executor
from nas.resolve import UntrustedCodeError, absolute, resolve
from nas.samplers import SAMPLERS, Sampler
from nas.spaces.architectures import InitialArchitecture, read_architectures
from nas.spaces.config import SpaceConfig
from nas.spaces.options import (
    annotations_of,
    check_operation,
    holds_operations,
    is_plain,
    open_space,
    operation_name,
    parameters_of,
)
from nas.training.recipes import RECIPES, Recipe
from nas.validation import ValidationError
from search_spaces import PUBLISHED, SPACES, Operation, SearchSpace

Settings = TypeVar("Settings")

# Types that YAML refers to by name, and the table of their implementations.
TABLES: dict[type, Mapping[str, object]] = {
    Attack: ATTACKS,
    Norm: NORMS,
    Recipe: RECIPES,
    Sampler: SAMPLERS,
    Executor: EXECUTORS,
    EvaluatorConfig: EVALUATORS,
}
_TYPE_NAMES: dict[Any, str] = {int: "int", float: "a number", str: "a string", bool: "true or false"}
_UNIONS, _LISTS = (Union, types.UnionType), (list, tuple, Sequence)
# Largest number of steps, queries or restarts of an attack in the config of a bundle or a run.
LARGEST_UNTRUSTED = 100_000
# Placeholder for a faulty entry of a list or mapping.
_FAULTY: Any = object()


@dataclass
class Reader:
    """Reads plain data into settings. It collects faults instead of stopping at the first.

    Attributes:
        source: Name of the data in messages.
        folder: Base of relative paths in the data; the working directory if None.
        build_space: Build the search space to check its options.
        typed: Dotted keys set by --set. File names in their values are relative to the working directory.
        trust: Import the code that names refer to. If false, such settings take their defaults.
        faults: Messages of the faults.
        refused: Messages of the settings that refer to code, if `trust` is false.
    """

    source: str
    folder: Path | None
    build_space: bool = True
    typed: Sequence[str] = ()
    trust: bool = True
    faults: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def fault(self, path: str, message: str) -> None:
        """Adds a fault at a dotted path; '' is the whole config."""
        self.faults.append(f"{self.source_of(path)}: {path} {message}" if path else f"{self.source}: {message}")

    def _unresolved(self, path: str, error: ValueError) -> None:
        """Records a name that cannot be resolved: in `refused` if it refers to untrusted code, else in `faults`."""
        if isinstance(error, UntrustedCodeError):
            self.refused.append(f"{path} {error}")
        else:
            self.fault(path, str(error))

    def source_of(self, path: str) -> str:
        """Returns '--set' if an override sets a dotted path, a part of it, or a section that contains it; else `source`."""
        return "--set" if any(_within(path, key) or _within(key, path) for key in self.typed) else self.source

    def folder_of(self, path: str) -> Path | None:
        """Returns the base of relative paths for a setting; None for the working directory."""
        return None if any(_within(path, key) for key in self.typed) else self.folder

    def read(self, kind: Any, value: Any, path: str, default: Any) -> Any:
        """Returns the value converted to the type `kind`. If that fails, adds a fault and returns the default."""
        origin, arguments = get_origin(kind), get_args(kind)
        if value is None and type(None) in arguments:
            return None
        if kind == Operation or (origin in _UNIONS and Operation in arguments):
            return self._operation(value, path, default)
        if origin in _UNIONS:
            return self._one_of([a for a in arguments if a is not type(None)], value, path, default)
        if origin is Literal:
            if value not in arguments:
                self.fault(path, f"must be {_describe_type(kind)}, got {value!r}{_hint(value, arguments)}")
                return default
            return value
        if kind == Loss:
            return self._function(value, path, default, LOSSES, "logits and labels")
        if kind == Recorder:
            return self._function(value, path, default, {}, "a network, the images and the config")
        if kind is SpaceConfig:
            return self._space(value, path, default)
        if kind in TABLES:
            return self._named(kind, value, path, default)
        if dataclasses.is_dataclass(kind):
            return self.settings(kind, value, path, default)
        if origin in _LISTS:
            return self._list(kind, value, path, default)
        if origin is Mapping:
            if not isinstance(value, dict):
                self.fault(path, f"must be a mapping, got {value!r}")
                return default
            read = {str(k): self.read(arguments[1], v, f"{path}.{k}", _FAULTY) for k, v in value.items()}
            usable = {k: v for k, v in read.items() if v is not _FAULTY}
            # Without trust, entries that refer to code are left out.
            return read if usable == read else default if self.trust or not usable else usable
        # Custom spaces may use any other annotation. Their values are passed unchecked.
        return self._plain(kind, value, path, default) if kind in _TYPE_NAMES else value

    def _one_of(self, kinds: Sequence[Any], value: Any, path: str, default: Any) -> Any:
        """Returns the value converted to the first type that accepts it."""
        if len(kinds) == 1:
            return self.read(kinds[0], value, path, default)
        for kind in kinds:
            alone = replace(self, faults=[])
            read = alone.read(kind, value, path, _FAULTY)
            if not alone.faults:
                return read
            if isinstance(value, list) and get_origin(kind) in _LISTS:  # The value is meant for this type.
                self.faults += alone.faults
                return default
        names = [name for kind in kinds if get_origin(kind) is Literal for name in get_args(kind)]
        self.fault(path, f"must be {' or '.join(map(_describe_type, kinds))}, got {value!r}{_hint(value, names)}")
        return default

    def _list(self, kind: Any, value: Any, path: str, default: Any) -> Any:
        origin, arguments = get_origin(kind), get_args(kind)
        if not isinstance(value, list):
            self.fault(path, f"must be a list, got {value!r}")
            return default
        if arguments[0] == InitialArchitecture:
            return tuple(a for i, entry in enumerate(value) for a in self._architectures(entry, f"{path}[{i}]"))
        if origin is not tuple or arguments[-1:] == (Ellipsis,):
            arguments = (arguments[0],) * len(value)
        if len(arguments) != len(value):
            self.fault(path, f"must be a list of {len(arguments)}, got {value!r}")
            return default
        entries = [self.read(a, v, f"{path}[{i}]", _FAULTY) for i, (a, v) in enumerate(zip(arguments, value, strict=True))]
        if any(entry is _FAULTY for entry in entries):
            return default
        if holds_operations(kind):
            self._each_once([operation_name(str(entry)) for entry in entries], path)
        return entries if origin is list else tuple(entries)

    def _each_once(self, operations: list[str], path: str) -> None:
        for i, name in enumerate(operations):
            first = operations.index(name)
            if first < i:
                self.fault(f"{path}[{i}]", f"is called {name!r} like {path}[{first}]; operations must differ in name")

    def _operation(self, value: Any, path: str, default: Any) -> Any:
        try:
            return check_operation(value, self.folder_of(path), trust=self.trust)
        except ValueError as error:
            self._unresolved(path, error)
            return default

    def _plain(self, kind: Any, value: Any, path: str, default: Any) -> Any:
        if kind is float and isinstance(value, str):
            value = _fraction(value)
        if kind is float and type(value) is int and abs(value) < 2**53:
            value = float(value)
        if type(value) is not kind or (kind is float and math.isnan(value)):
            self.fault(path, f"must be {_TYPE_NAMES[kind]}, got {value!r}")
            return default
        if not self.trust and kind is int and ("attack" in path or "recipe" in path) and value > LARGEST_UNTRUSTED:
            self.fault(path, f"must be at most {LARGEST_UNTRUSTED:,} without --trust, got {value}")
            return default
        return value

    def settings(self, kind: Any, value: Any, path: str, default: Any, defaults: Mapping[str, Any] | None = None) -> Any:
        """Returns a dataclass of settings read from a mapping; `defaults` replace the defaults of the dataclass."""
        if value is None:
            value = {}
        if not isinstance(value, dict):
            self.fault(path, f"must be a mapping, got {value!r}")
            return default
        hints = get_type_hints(kind)
        known = {f.name: hints[f.name] for f in dataclasses.fields(kind) if f.init}
        self.check_keys(value, list(known), path)
        before = len(self.faults)
        read: dict[str, Any] = dict(defaults or {})
        for f in dataclasses.fields(kind):
            if f.name in value and f.name in known:
                fallback = read.get(f.name, _default_of(f))
                got = self.read(known[f.name], value[f.name], f"{path}.{f.name}".lstrip("."), fallback)
                if got is not dataclasses.MISSING:
                    read[f.name] = got
        return self._construct(lambda: kind(**read), path, default, quiet=len(self.faults) > before)

    def _construct(self, make: Callable[[], Any], path: str, default: Any, quiet: bool = False) -> Any:
        try:
            return make()
        except ValidationError as error:
            for key, message in error.faults:
                self.fault(f"{path}.{key}".lstrip("."), message)
        except Exception as error:  # A custom space, attack or recipe may raise any error.
            if not quiet:
                known = isinstance(error, TypeError | ValueError)
                self.fault(path, f"is refused: {error if known else f'{type(error).__name__}: {error}'}")
        return default

    def check_keys(self, value: Mapping[str, Any], known: Sequence[str], path: str) -> None:
        """Adds a fault for each unknown key, with the closest known key."""
        for key in value:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f"; did you mean '{near[0]}'?" if near else f"; valid keys: {', '.join(known)}" if known else ""
                dotted = f"{path}.{key}".lstrip(".")
                self.faults.append(f"{self.source_of(dotted)}: unknown key {dotted}{hint}")

    def _name(self, value: Any, path: str) -> tuple[str | None, dict[str, Any]] | None:
        """Returns the name of a section, if any, and its other keys; None if the section has a fault."""
        if isinstance(value, str):
            return value, {}
        if not isinstance(value, dict):
            self.fault(path, f"must be a name, or a mapping with a name, got {value!r}")
            return None
        name = value.get("name")
        if name is not None and not isinstance(name, str):
            self.fault(f"{path}.name", f"must be a string, got {name!r}")
            return None
        return name, {k: v for k, v in value.items() if k != "name"}

    def _named(self, kind: type, value: Any, path: str, default: Any) -> Any:
        section = self._name(value, path)
        if section is None:
            return default
        name, settings = section
        if name is None:
            if default is _FAULTY:
                self.fault(path, f"must have a name: one of {', '.join(TABLES[kind])}")
                return default
            defaults = {f.name: getattr(default, f.name) for f in dataclasses.fields(default) if f.init}
            return self.settings(type(default), settings, path, default, defaults)
        try:
            entry = resolve(name, TABLES[kind], self.folder_of(f"{path}.name"), trust=self.trust)
        except ValueError as error:
            self._unresolved(path, error)
            return default
        if isinstance(entry, type) and issubclass(entry, kind) and dataclasses.is_dataclass(entry):
            return self.settings(entry, settings, path, default)
        self.fault(path, f"must name a dataclass derived from {kind.__name__}, got {entry!r}")
        return default

    def _function(self, value: Any, path: str, default: Any, table: Mapping[str, object], of: str) -> Any:
        if not isinstance(value, str):
            self.fault(path, f"must be a name, got {value!r}")
            return default
        try:
            function = resolve(value, table, self.folder_of(path), trust=self.trust)
        except ValueError as error:
            self._unresolved(path, error)
            return default
        if not callable(function):
            self.fault(path, f"must name a function of {of}, got {function!r}")
            return default
        return function

    def _architectures(self, value: Any, path: str) -> Sequence[InitialArchitecture]:
        if not self.trust and isinstance(value, str) and value not in PUBLISHED:  # The text may name any file.
            return ()
        try:
            return read_architectures(value, self.folder_of(path))
        except ValueError as error:
            self.fault(path, str(error))
            return ()

    def _space(self, value: Any, path: str, default: SpaceConfig) -> SpaceConfig:
        section = self._name(value, path)
        if section is None:
            return default
        name, options = section
        if name is None:
            name, options = default.name, {**default.options, **options}
        if not self.build_space:
            return SpaceConfig(name=name, options=options)
        folder = self.folder_of(f"{path}.name")
        try:
            factory = resolve(name, SPACES, folder, trust=self.trust)
        except ValueError as error:
            self._unresolved(path, error)
            return default
        before = len(self.faults)
        options = self._options(factory, options, path)
        if len(self.faults) > before:
            return default
        config = SpaceConfig(name=absolute(name, SPACES, folder), options=options)
        self._construct(lambda: open_space(config, trust=self.trust), path, None)
        return config

    def _options(self, factory: Any, options: dict[str, Any], path: str) -> dict[str, Any]:
        """Returns the options of a space, read by the annotations of its factory function."""
        if isinstance(factory, SearchSpace) or not callable(factory):
            self.check_keys(options, [], path)
            return {}
        try:
            parameters = parameters_of(factory)
        except (TypeError, ValueError):  # Some builtins have no signature.
            self.fault(path, f"must name a SearchSpace, or a function that returns one, got {factory!r}")
            return {}
        hints = annotations_of(factory)
        self.check_keys(options, list(parameters), path)
        # Defaults that are not plain data, such as functions, are left to the factory.
        read = {name: p.default for name, p in parameters.items() if p.default is not p.empty and is_plain(p.default)}
        for name, value in options.items():
            if name in parameters:
                read[name] = self.read(hints.get(name, Any), value, f"{path}.{name}", read.get(name))
        return read


def _within(path: str, whole: str) -> bool:
    """Returns whether a dotted path equals another or lies below it."""
    return path == whole or path.startswith((f"{whole}.", f"{whole}["))


def _describe_type(kind: Any) -> str:
    """Returns the description of a type for messages."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return "a list" if get_origin(kind) in _LISTS else _TYPE_NAMES.get(kind, str(kind))


def _hint(value: Any, names: Sequence[Any]) -> str:
    words = [name for name in names if isinstance(name, str)] if isinstance(value, str) else []
    near = difflib.get_close_matches(str(value), words, 1)
    return f"; did you mean '{near[0]}'?" if near else ""


def read_settings(kind: type[Settings], data: Mapping[str, Any], source: str) -> Settings:
    """Returns a dataclass of settings for plain data. Missing keys take their defaults.

    Args:
        kind: The dataclass. All its fields have a default.
        data: A mapping of settings. Relative paths in it are relative to the working directory.
        source: Name of the data in error messages.

    Raises:
        ConfigError: the data has faults; the error lists all of them.
    """
    reader = Reader(source, None)
    settings = reader.settings(kind, data, "", kind())
    if reader.faults:
        raise ConfigError(list(dict.fromkeys(reader.faults)))
    assert isinstance(settings, kind)
    return settings


def _default_of(f: dataclasses.Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default


def _fraction(text: str) -> float | str:
    """Returns text such as '8/255' or '1e-3' as a number, and any other text unchanged."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*/\s*(\d+(?:\.\d*)?)\s*", text)
    if match and float(match[2]) != 0:
        return float(match[1]) / float(match[2])
    # YAML 1.1 reads 1e-3, which has no dot, as text.
    return float(text) if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", text) else text
