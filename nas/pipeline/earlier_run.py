"""Architectures of an earlier run, with which a search begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import ConfigError, HardcellError
from nas.runs.run import read_run
from nas.spaces.architectures import validate_initial
from nas.spaces.options import open_space
from nas.study.ranking import ranked
from nas.validation import ValidationError
from search_spaces import Architecture

if TYPE_CHECKING:
    from nas.config.schema import Config


def resolve_earlier_runs(config: Config) -> Config:
    """Returns the config with the finalists of earlier runs in the place of the runs' folders in `search.first`.

    Raises:
        ConfigError: an earlier run cannot be read, holds no complete trial, or its architectures are of another space.
    """
    if not any(isinstance(entry, Path) for entry in config.search.first):
        return config
    space, first, faults = open_space(config.space), list[Architecture | Path](), []
    for number, entry in enumerate(config.search.first):
        try:
            architectures = finalists_of(entry) if isinstance(entry, Path) else [entry]
        except ValueError as error:
            faults.append(f"search.first[{number}] {error}")
            continue
        first += architectures
        invalid = filter(None, (validate_initial(architecture, space) for architecture in architectures))
        faults += [f"search.first[{number}] {fault}" for fault in invalid]
    if not faults:
        try:
            return replace(config, search=replace(config.search, first=tuple(first)))
        except ValidationError as error:
            faults = [f"search.{key} {message}" for key, message in error.faults]
    raise ConfigError(faults)


def finalists_of(path: Path) -> list[Architecture]:
    """Returns the best architectures of an earlier run, as many as it has finalists."""
    try:
        run = read_run(path)
    except HardcellError as error:
        raise ValueError(str(error)) from error
    best = [trial.architecture for trial in ranked(run.trials, run.config.objective)[: run.config.finalists.count]]
    if not best:
        raise ValueError(f"{path}: has no complete trial yet, so there is nothing to begin with")
    return best
