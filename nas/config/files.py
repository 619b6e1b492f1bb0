"""Reads config files and overrides into the settings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nas.config.evaluators import TableEvaluatorConfig
from nas.config.reader import Reader
from nas.config.schema import Config
from nas.config.writer import as_data
from nas.data.config import DataConfig
from nas.errors import ConfigError
from nas.files import UniqueKeyLoader, read_plain_yaml
from nas.spaces.architectures import validate_initial
from nas.spaces.options import open_space

if TYPE_CHECKING:
    from collections.abc import Sequence


def parse_config(
    data: Any,
    *,
    source: str = "config",
    folder: Path | None = None,
    overrides: Sequence[str] = (),
    build_space: bool = True,
) -> Config:
    """Returns the config for plain data. Missing keys take their defaults.

    Args:
        data: Content of a YAML file: a mapping of sections, or None.
        source: Name of the data in error messages.
        folder: Base of relative paths; the working directory if None.
        overrides: Strings `section.key=value` with values in YAML. Their paths are relative to the working directory.
            Overrides are applied before the checks, so they can repair a faulty value in the data.
        build_space: Build the search space to check its options. Use False to read the config of a finished run.

    Raises:
        ConfigError: the config has faults; the error lists all of them.

    Example:
        >>> import nas
        >>> config = nas.parse_config({"data": {"name": "digits"}, "search": {"trials": 50}})
        >>> config.search.trials, config.space.name
        (50, 'cell201')
    """
    _check_mapping(data, source)
    typed = [_parsed(override) for override in overrides]
    # Names come first, so that the order of the overrides does not matter: a new name discards the settings below it.
    for keys, value in sorted(typed, key=lambda entry: entry[0][-1] != "name"):
        data = _replaced(data, Config(), keys, value)
    reader = Reader(source, folder, build_space, typed=[".".join(keys) for keys, _ in typed])
    config = _read(reader, data)
    if build_space and config.search.first:
        space = open_space(config.space, trust=True)
        for number, architecture in enumerate(config.search.first):
            fault = None if isinstance(architecture, Path) else validate_initial(architecture, space)
            if fault is not None:
                reader.fault(f"search.first[{number}]", fault)
        if reader.faults:
            raise ConfigError(reader.faults)
    return _with_absolute_paths(reader, config)


def parse_untrusted_config(data: Any, *, source: str, folder: Path | None = None) -> tuple[Config, tuple[str, ...]]:
    """Returns the config that comes with a bundle or a run, without importing anything.

    Settings that refer to code take their defaults. The search space is not built.

    Args:
        data: Content of a YAML file: a mapping of sections, or None.
        source: Name of the data in error messages.
        folder: Base of relative paths; the working directory if None.

    Returns:
        The config, and one message for each setting that refers to code, except the search space.

    Raises:
        ConfigError: the config has other faults; the error lists all of them.
    """
    _check_mapping(data, source)
    reader = Reader(source, folder, build_space=False, trust=False)
    return _with_absolute_paths(reader, _read(reader, data)), tuple(dict.fromkeys(reader.refused))


def _check_mapping(data: Any, source: str) -> None:
    if data is not None and not isinstance(data, dict):
        raise ConfigError([f"{source}: must be a mapping of sections, got {data!r}"])


def _read(reader: Reader, data: Any) -> Config:
    config = reader.settings(Config, data, "", Config())
    if reader.faults:
        raise ConfigError(list(dict.fromkeys(reader.faults)))
    assert isinstance(config, Config)
    return config


def _with_absolute_paths(reader: Reader, config: Config) -> Config:
    if config.data.path is not None:
        config = replace(config, data=replace(config.data, path=_absolute(reader, "data.path", config.data.path)))
    if isinstance(config.evaluator, TableEvaluatorConfig):
        path = _absolute(reader, "evaluator.path", config.evaluator.path)
        config = replace(config, evaluator=replace(config.evaluator, path=path))
    return config


def _absolute(reader: Reader, key: str, path: str) -> str:
    """Returns the absolute form of the path at a dotted key."""
    try:
        return str(Path(reader.folder_of(key) or ".", Path(path).expanduser()).resolve())
    except RuntimeError as error:
        raise ConfigError([f"{reader.source_of(key)}: {key} {path!r}: {error}"]) from error


def _parsed(override: str) -> tuple[list[str], Any]:
    """Returns the keys and the value of an override `section.key=value`.

    Raises:
        ConfigError: the override has no key or no =, or its value is not YAML.
    """
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError([f"--set must be section.key=value, got {override!r}"])
    try:
        return keys, yaml.load(text, UniqueKeyLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError([f"--set {dotted}: not YAML: {text!r}"]) from error


def _replaced(base: Any, default: Any, keys: Sequence[str], value: Any) -> dict[str, Any]:
    """Returns the tree with the new value at the path. A new name discards the other settings of its section.

    Args:
        base: The tree, as plain data; None if it is empty.
        default: The default settings of this tree; None if there are none.
        keys: Path to the value, one key per level.
        value: The new value.
    """
    if base is None and isinstance(default, Mapping):
        base = as_data(default)
    tree = base if isinstance(base, dict) else {} if base is None else {"name": base}
    key, *rest = keys
    if rest:
        inner = vars(default).get(key) if is_dataclass(default) and "name" not in tree else None
        return {**tree, key: _replaced(tree.get(key), inner, rest, value)}
    # All data sources share one set of settings, so a new source name keeps them.
    if key == "name" and not isinstance(default, DataConfig):
        return tree if value == tree.get("name", _name_of(default)) else {"name": value}
    return {**tree, key: value}


def _name_of(settings: Any) -> Any:
    data = as_data(settings)
    return data.get("name") if isinstance(data, dict) else data


def load_config(path: Path | str, overrides: Sequence[str] = (), *, build_space: bool = True) -> Config:
    """Returns the config in a YAML file.

    Args:
        path: The YAML file. Relative paths in it are relative to its folder.
        overrides: As for `parse_config`.
        build_space: As for `parse_config`.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or has faults.

    Example:
        >>> import nas
        >>> config = nas.load_config("digits.yaml", ["search.trials=2", "training.epochs=1"])
        >>> config.search.trials
        2
    """
    path = Path(path)
    return parse_config(
        _read_yaml(path), source=str(path), folder=path.resolve().parent, overrides=overrides, build_space=build_space
    )


def load_untrusted_config(path: Path) -> tuple[Config, tuple[str, ...]]:
    """Returns the config in the YAML file of a run, and messages, as `parse_untrusted_config`.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or has faults.
    """
    try:
        data = read_plain_yaml(path)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise ConfigError([f"{path}: {error}"]) from error
    return parse_untrusted_config(data, source=str(path), folder=path.resolve().parent)


def _read_yaml(path: Path) -> Any:
    """Returns the content of a YAML file.

    Raises:
        ConfigError: the file cannot be read or is not YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), UniqueKeyLoader)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: must be text in UTF-8"]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: is nested too deep"]) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError([f"{path}: is not YAML: {' '.join(str(error).split())}"]) from error
