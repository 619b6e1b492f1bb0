"""Converts settings to plain data and to YAML, with a comment for every key."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from evaluators.attacks import LOSSES, Attack
from evaluators.norms import Norm
from nas.config.reader import TABLES
from nas.resolve import resolve
from nas.spaces.config import SpaceConfig
from search_spaces import SPACES

if TYPE_CHECKING:
    from nas.config.schema import Config


def as_data(value: Any) -> Any:
    """Returns settings as complete plain data. `parse_config` reads it back into equal settings."""
    if isinstance(value, SpaceConfig):
        return {"name": value.name, **{k: as_data(v) for k, v in value.options.items()}}
    if isinstance(value, Norm):
        return value.name
    if isinstance(value, Path):
        return str(value)
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
    return {f.name: as_data(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}


def _reference(table: Mapping[str, object], thing: Any) -> str:
    """Returns the YAML name of a class or function: its name in the table, FILE.py:NAME or MODULE:NAME."""
    for name, entry in table.items():
        if entry is thing:
            return name
    source = inspect.getsourcefile(thing) if thing.__module__.startswith("hardcell_user_") else None
    return f"{source or thing.__module__}:{thing.__qualname__}"


def dump_config(config: Config) -> str:
    """Returns the complete config as YAML without comments."""
    return yaml.safe_dump(as_data(config), sort_keys=False, width=120)


def commented_config(config: Config) -> str:
    """Returns the complete config as YAML with a comment for every key."""
    lines = ["# Hardcell: all keys with their values. Missing keys take their defaults.", ""]
    for f in dataclasses.fields(config):
        lines += _commented(f.name, getattr(config, f.name), documented(type(config))[f.name], 0)
        if dataclasses.is_dataclass(getattr(config, f.name)):
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def documented(kind: Any) -> dict[str, str]:
    """Returns the descriptions of the attributes or arguments in a docstring, by name. Those of base classes come first."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        bases = [base for base in reversed(kind.__mro__) if dataclasses.is_dataclass(base)]
        return {name: text for base in bases for name, text in _documented(base.__doc__ or "").items()}
    return _documented(inspect.getdoc(kind) or "")


def _documented(docstring: str) -> dict[str, str]:
    """Returns the descriptions of the attributes or arguments in one docstring, by name."""
    text = inspect.cleandoc(docstring)
    match = re.search(r"^(?:Attributes|Args):\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    if not match:
        return {}
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", match[1], re.MULTILINE)
    return {name: " ".join(description.split()) for name, description in entries}


def _commented(key: str, value: Any, comment: str, indent: int) -> list[str]:
    """Returns the YAML lines of one key and of the keys below it."""
    pad = "  " * indent
    data = as_data(value)
    if not isinstance(data, dict) or not data:
        text = yaml.safe_dump(data, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")
        return [f"{pad}{_key(key)}: {text}  # {comment}"]
    lines = [f"{pad}{_key(key)}:  # {comment}"]
    if isinstance(value, SpaceConfig):
        descriptions = documented(resolve(value.name, SPACES))
        lines += _commented("name", value.name, documented(SpaceConfig)["name"], indent + 1)
        for name, option in value.options.items():
            lines += _commented(name, option, descriptions.get(name, "an option of the space"), indent + 1)
        return lines
    table = next((table for kind, table in TABLES.items() if isinstance(value, kind)), None)
    if table is not None:
        lines.append(f"{pad}  name: {data['name']}  # one of {', '.join(table)}, or path/to/file.py:NAME")
    if isinstance(value, Mapping):
        for name, entry in value.items():
            lines += _commented(name, entry, _label(entry, key), indent + 1)
        return lines
    for f in dataclasses.fields(value):
        if not f.init:
            continue
        lines += _commented_field(f.name, value, indent + 1)
    return lines


def _key(name: str) -> str:
    """Returns a key in YAML, quoted if YAML would not read it as text."""
    return yaml.safe_dump({name: 0}, default_flow_style=True).strip()[1:].rpartition(": ")[0]


def _commented_field(name: str, owner: Any, indent: int) -> list[str]:
    return _commented(name, getattr(owner, name), documented(type(owner)).get(name, "a setting"), indent)


def _label(entry: Any, key: str) -> str:
    if isinstance(entry, Attack):
        return "an attack, under a name of your choice"
    return "an upper bound" if key == "constraints" else "an entry"
