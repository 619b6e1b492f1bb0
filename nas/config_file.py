"""YAML onto the settings and back: every fault found before any work starts, all of them listed at once.

Strictness is the point: an unknown key, a wrong type or an unknown name is a fault, never a new attribute or a guess.
A section with a name (a space, a recipe, an attack, a sampler, an executor) takes what is left out from that thing's own
defaults; without a name its keys change the default thing.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from evaluators.attacks import ATTACKS, LOSSES, Attack, Loss
from evaluators.norms import NORMS, Norm
from nas.config import Config, FaultsError, SpaceConfig
from nas.errors import ConfigError
from nas.executors import EXECUTORS, Executor
from nas.resolve import absolute, resolve
from nas.samplers import SAMPLERS, Sampler
from nas.training.recipes import RECIPES, Recipe
from search_spaces import SPACES, SearchSpace

# The kinds of things that YAML names, each with the table that stands beside its implementations.
TABLES: dict[type, Mapping[str, object]] = {
    Attack: ATTACKS,
    Norm: NORMS,
    Recipe: RECIPES,
    Sampler: SAMPLERS,
    Executor: EXECUTORS,
}
_TYPE_NAMES: dict[Any, str] = {int: "int", float: "a number", str: "a string", bool: "true or false"}
# Stands for an entry of a list or mapping in which a fault was found.
_FAULTY: Any = object()


@dataclass
class _Reader:
    """Reads plain data into settings, noting faults on the way instead of stopping at the first."""

    source: str
    folder: Path | None
    faults: list[str] = field(default_factory=list)

    def fault(self, path: str, message: str) -> None:
        self.faults.append(f"{self.source}: {path} {message}" if path else f"{self.source}: {message}")

    def read(self, kind: Any, value: Any, path: str, default: Any) -> Any:
        """Returns value as a `kind`; notes a fault and returns the default where it cannot be one."""
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            if value is None and type(None) in arguments:
                return None
            inner = [a for a in arguments if a is not type(None)]
            return self.read(inner[0], value, path, default) if len(inner) == 1 else value
        if origin is Literal:
            if value not in arguments:
                self.fault(path, f"must be one of {', '.join(map(str, arguments))}, got {value!r}")
                return default
            return value
        if kind == Loss:
            return self._loss(value, path, default)
        if kind is SpaceConfig:
            return self._space(value, path, default)
        if kind in TABLES:
            return self._named(kind, value, path, default)
        if dataclasses.is_dataclass(kind):
            return self.settings(kind, value, path, default)
        if origin in (tuple, Sequence):
            if not isinstance(value, list):
                self.fault(path, f"must be a list, got {value!r}")
                return default
            entries = [self.read(arguments[0], v, f"{path}[{i}]", _FAULTY) for i, v in enumerate(value)]
            return default if _FAULTY in entries else tuple(entries)
        if origin is Mapping:
            if not isinstance(value, dict):
                self.fault(path, f"must be a mapping, got {value!r}")
                return default
            read = {str(k): self.read(arguments[1], v, f"{path}.{k}", _FAULTY) for k, v in value.items()}
            return default if any(v is _FAULTY for v in read.values()) else read
        # What else a user's space may annotate its settings with is between that space and its user.
        return self._plain(kind, value, path, default) if kind in _TYPE_NAMES else value

    def _plain(self, kind: Any, value: Any, path: str, default: Any) -> Any:
        if kind is float and isinstance(value, str):
            value = _fraction(value)
        if kind is float and type(value) is int and abs(value) < 2**53:
            value = float(value)
        if type(value) is not kind or (kind is float and math.isnan(value)):
            self.fault(path, f"must be {_TYPE_NAMES[kind]}, got {value!r}")
            return default
        return value

    def settings(self, kind: Any, value: Any, path: str, default: Any, own: Mapping[str, Any] | None = None) -> Any:
        """Returns a dataclass of settings read from a mapping; `own` stands for the defaults of what is left out."""
        if value is None:
            value = {}
        if not isinstance(value, dict):
            self.fault(path, f"must be a mapping, got {value!r}")
            return default
        hints = get_type_hints(kind)
        known = {f.name: hints[f.name] for f in dataclasses.fields(kind)}
        self.unknown(value, list(known), path)
        before = len(self.faults)
        read: dict[str, Any] = dict(own or {})
        for f in dataclasses.fields(kind):
            if f.name in value:
                fallback = read.get(f.name, _default_of(f))
                got = self.read(known[f.name], value[f.name], f"{path}.{f.name}".lstrip("."), fallback)
                if got is not dataclasses.MISSING:
                    read[f.name] = got
        return self._construct(lambda: kind(**read), path, default, quiet=len(self.faults) > before)

    def _construct(self, make: Callable[[], Any], path: str, default: Any, quiet: bool = False) -> Any:
        try:
            return make()
        except FaultsError as error:
            for key, message in error.faults:
                self.fault(f"{path}.{key}".lstrip("."), message)
        except Exception as error:  # A user's own space, attack or recipe may raise anything.
            if not quiet:
                known = isinstance(error, TypeError | ValueError)
                self.fault(path, f"is refused: {error if known else f'{type(error).__name__}: {error}'}")
        return default

    def unknown(self, value: Mapping[str, Any], known: Sequence[str], path: str) -> None:
        """Notes the keys that do not exist, each with the nearest that does."""
        for key in value:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(known)}" if known else ""
                dotted = f"{path}.{key}".lstrip(".")
                self.faults.append(f"{self.source}: unknown key {dotted}{hint}")

    def _name(self, value: Any, path: str) -> tuple[str | None, dict[str, Any]] | None:
        """Returns the name that a section gives, if any, and its other keys; None after noting a fault."""
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
            own = {f.name: getattr(default, f.name) for f in dataclasses.fields(default)}
            return self.settings(type(default), settings, path, default, own)
        try:
            found = resolve(name, TABLES[kind], self.folder)
        except ValueError as error:
            self.fault(path, str(error))
            return default
        if isinstance(found, type) and issubclass(found, kind) and dataclasses.is_dataclass(found):
            return self.settings(found, settings, path, default)
        self.fault(path, f"must name a dataclass derived from {kind.__name__}, got {found!r}")
        return default

    def _loss(self, value: Any, path: str, default: Any) -> Any:
        if not isinstance(value, str):
            self.fault(path, f"must be a name, got {value!r}")
            return default
        try:
            loss = resolve(value, LOSSES, self.folder)
        except ValueError as error:
            self.fault(path, str(error))
            return default
        if not callable(loss):
            self.fault(path, f"must name a function of logits and labels, got {loss!r}")
            return default
        return loss

    def _space(self, value: Any, path: str, default: SpaceConfig) -> SpaceConfig:
        section = self._name(value, path)
        if section is None:
            return default
        name, options = section
        if name is None:
            name, options = default.name, {**default.options, **options}
        try:
            factory = resolve(name, SPACES, self.folder)
        except ValueError as error:
            self.fault(path, str(error))
            return default
        before = len(self.faults)
        options = self._options(factory, options, path)
        if len(self.faults) > before:
            return default
        config = SpaceConfig(name=absolute(name, SPACES, self.folder), options=options)
        self._construct(lambda: open_space(config), path, None)
        return config

    def _options(self, factory: Any, options: dict[str, Any], path: str) -> dict[str, Any]:
        """Returns the options of a space, read by the annotations of the function that makes it."""
        if isinstance(factory, SearchSpace) or not callable(factory):
            self.unknown(options, [], path)
            return {}
        try:
            parameters = inspect.signature(factory).parameters
        except (TypeError, ValueError):  # Some builtins have none.
            self.fault(path, f"must name a SearchSpace, or a function that returns one, got {factory!r}")
            return {}
        try:
            hints = get_type_hints(factory)
        except Exception:  # Annotations that only a type checker can resolve: its settings are taken as they are.
            hints = {}
        self.unknown(options, list(parameters), path)
        read = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
        for name, value in options.items():
            if name in parameters:
                read[name] = self.read(hints.get(name, Any), value, f"{path}.{name}", read.get(name))
        return read


def _default_of(f: dataclasses.Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default


def _fraction(text: str) -> float | str:
    """Returns '8/255' as a number, and any other text as it is."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*/\s*(\d+(?:\.\d*)?)\s*", text)
    if match and float(match[2]) != 0:
        return float(match[1]) / float(match[2])
    # YAML 1.1 reads 1e-3, without a dot, as text.
    return float(text) if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", text) else text


def open_space(config: SpaceConfig) -> SearchSpace:
    """Returns the search space that a config names.

    Raises:
        ValueError: there is no such space, or it refuses its options.
    """
    found = resolve(config.name, SPACES)
    space = found(**config.options) if callable(found) else found
    if not isinstance(space, SearchSpace):
        raise ValueError(f"{config.name} must be a SearchSpace, or a function that returns one, got {space!r}")
    return space


def parse_config(data: Any, *, source: str = "config", folder: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Returns the config that plain data stands for; what it leaves out has its default.

    Args:
        data: What YAML holds: a mapping of sections, or None.
        source: The name that error messages begin with.
        folder: What relative paths are relative to.
        overrides: `section.key=value`, each value in YAML.

    Raises:
        ConfigError: with every fault that was found.
    """
    reader = _Reader(source, folder)
    if data is not None and not isinstance(data, dict):
        raise ConfigError([f"{source}: must be a mapping of sections, got {data!r}"])
    config = reader.settings(Config, data, "", Config())
    if reader.faults:
        raise ConfigError(list(dict.fromkeys(reader.faults)))
    assert isinstance(config, Config)
    if overrides:
        complete = as_data(config)
        assert isinstance(complete, dict)
        for override in overrides:
            complete = _overridden(complete, override)
        return parse_config(complete, source="--set", folder=folder)
    if config.data.path is not None:
        try:
            path = str(Path(folder or ".", Path(config.data.path).expanduser()).resolve())
        except RuntimeError as error:
            raise ConfigError([f"{source}: data.path {config.data.path!r}: {error}"]) from error
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=path))
    return config


def _overridden(data: dict[str, Any], override: str) -> dict[str, Any]:
    """Returns data with one `section.key=value` applied: the value takes the place of what was there."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError([f"--set must be section.key=value, got {override!r}"])
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError([f"--set {dotted}: not YAML: {text!r}"]) from error
    if keys == ["data", "name"]:
        # The sources of data share their settings, unlike the things that have a name and settings of their own.
        return {**data, "data": {**data["data"], "name": value}}
    return _replaced(data, keys, value)


def _replaced(base: Any, keys: Sequence[str], value: Any) -> dict[str, Any]:
    """Returns a tree with the value at the end of the keys; a thing of another name keeps none of the old one's settings."""
    key, *rest = keys
    tree = base if isinstance(base, dict) else {} if base is None else {"name": base}
    if rest:
        return {**tree, key: _replaced(tree.get(key), rest, value)}
    if key == "name" and tree.get(key) != value:
        return {key: value}
    return {**tree, key: value}


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Returns the config in a YAML file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or has faults.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: must be text in UTF-8"]) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError([f"{path}: is not YAML: {' '.join(str(error).split())}"]) from error
    return parse_config(data, source=str(path), folder=path.resolve().parent, overrides=overrides)


def as_data(value: Any) -> Any:
    """Returns settings as plain data, complete: what `parse_config` reads back into equal settings."""
    if isinstance(value, SpaceConfig):
        return {"name": value.name, **{k: as_data(v) for k, v in value.options.items()}}
    if isinstance(value, Norm):
        return value.name
    for kind, table in TABLES.items():
        if isinstance(value, kind):
            return {"name": _reference(table, type(value)), **_fields(value)}
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if isinstance(value, Mapping):
        return {k: as_data(v) for k, v in value.items()}
    if callable(value):
        return _reference(LOSSES, value)
    return [as_data(v) for v in value] if isinstance(value, tuple | list) else value


def _fields(value: Any) -> dict[str, Any]:
    return {f.name: as_data(getattr(value, f.name)) for f in dataclasses.fields(value)}


def _reference(table: Mapping[str, object], thing: Any) -> str:
    """Returns the name by which YAML finds a class or function: in the table, in a user's file, or in a module."""
    for name, entry in table.items():
        if entry is thing:
            return name
    source = inspect.getsourcefile(thing) if thing.__module__.startswith("hardcell_user_") else None
    return f"{source or thing.__module__}:{thing.__qualname__}"


def dump_config(config: Config) -> str:
    """Returns the complete config as YAML, with no comments."""
    return yaml.safe_dump(as_data(config), sort_keys=False, width=120)


def commented_config(config: Config) -> str:
    """Returns the complete config as YAML with a comment on every key, ready to edit."""
    lines = ["# Hardcell: every key, with its default. What you leave out keeps its default.", ""]
    for f in dataclasses.fields(config):
        lines += _commented(f.name, getattr(config, f.name), documented(type(config))[f.name], 0)
        if dataclasses.is_dataclass(getattr(config, f.name)):
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def documented(kind: Any) -> dict[str, str]:
    """Returns what a docstring says of each attribute or argument, by name."""
    text = inspect.getdoc(kind) or ""
    match = re.search(r"^(?:Attributes|Args):\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    if not match:
        return {}
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", match[1], re.MULTILINE)
    return {name: " ".join(said.split()) for name, said in entries}


def _commented(key: str, value: Any, comment: str, indent: int) -> list[str]:
    """Returns the lines of one key, with those below it."""
    pad = "  " * indent
    data = as_data(value)
    if not isinstance(data, dict) or not data:
        text = yaml.safe_dump(data, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")
        return [f"{pad}{_key(key)}: {text}  # {comment}"]
    lines = [f"{pad}{_key(key)}:  # {comment}"]
    if isinstance(value, SpaceConfig):
        said = documented(resolve(value.name, SPACES))
        lines += _commented("name", value.name, documented(SpaceConfig)["name"], indent + 1)
        for name, option in value.options.items():
            lines += _commented(name, option, said.get(name, "a setting of the space"), indent + 1)
        return lines
    table = next((table for kind, table in TABLES.items() if isinstance(value, kind)), None)
    if table is not None:
        lines.append(f"{pad}  name: {data['name']}  # one of {', '.join(table)}, or path/to/file.py:NAME")
    if isinstance(value, Mapping):
        for name, entry in value.items():
            lines += _commented(name, entry, _label(entry, key), indent + 1)
        return lines
    for f in dataclasses.fields(value):
        lines += _commented_field(f.name, value, indent + 1)
    return lines


def _key(name: str) -> str:
    """Returns a key as YAML writes it: quoted where it would be read as something else."""
    return yaml.safe_dump({name: 0}, default_flow_style=True).strip()[1:].rpartition(": ")[0]


def _commented_field(name: str, owner: Any, indent: int) -> list[str]:
    return _commented(name, getattr(owner, name), documented(type(owner)).get(name, "a setting"), indent)


def _label(entry: Any, key: str) -> str:
    if isinstance(entry, Attack):
        return "an attack, under a name of your choice"
    return "an upper bound" if key == "constraints" else "an entry"
