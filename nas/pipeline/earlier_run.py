"""Takes the initial architectures of a search from the finalists of an earlier run."""

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
    """Returns the config after replacing each run folder in `search.first` by the finalists of that run.

    Raises:
        ConfigError: an earlier run cannot be read or has no complete trial, an architecture does not belong to the space, or
            the section search becomes invalid.
    """
    if not any(isinstance(entry, Path) for entry in config.search.first):
        return config
    space, first, faults = open_space(config.space, trust=True), list[Architecture | Path](), []
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
    """Returns the best architectures of an earlier run, at most `finalists.count` of its config.

    Raises:
        ValueError: the run cannot be read or has no complete trial.
    """
    try:
        run = read_run(path)
    except HardcellError as error:
        raise ValueError(str(error)) from error
    if run.config.search.storage is not None and not run.trials:
        raise ValueError(
            f"{path}: its study is in a database, which is not opened; name the architecture.yaml of its bundles instead"
        )
    best = [trial.architecture for trial in ranked(run.trials, run.config.objective)[: run.config.finalists.count]]
    if not best:
        raise ValueError(f"{path}: has no complete trial yet; name a run with complete trials")
    return best
