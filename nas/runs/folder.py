"""A run's folder: what lies where, who may write to it."""

from __future__ import annotations

import fcntl
import json
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from nas.config.files import load_config
from nas.config.writer import dump_config
from nas.errors import RunError
from nas.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nas.config.schema import Config


@final
@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Attributes:
        path: The folder, absolute.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The complete config."""
        return self.path / "config.yaml"

    @property
    def study(self) -> Path:
        """The study's database."""
        return self.path / "study.db"

    @property
    def study_name(self) -> Path:
        """The name of the study, where it lies in a database that runs share."""
        return self.path / ".study"

    @property
    def bundles(self) -> Path:
        """The folder of the bundles."""
        return self.path / "bundles"

    @property
    def report(self) -> Path:
        """The report's page."""
        return self.path / "report.html"

    @property
    def leaderboard(self) -> Path:
        """The table of all trials."""
        return self.path / "leaderboard.csv"

    @property
    def environment(self) -> Path:
        """Versions, machine and hashes of the data."""
        return self.path / "environment.json"


def create_run(path: Path, config: Config) -> RunFolder:
    """Makes the folder of a new run and writes its config.

    Raises:
        RunError: the folder holds a run already, or other files.
    """
    run = RunFolder(path.expanduser().resolve())
    if run.config.exists() or run.study.exists():
        raise RunError(f"{path}: holds a run already; `hardcell resume {path}` goes on with it, or choose another folder")
    if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
        raise RunError(f"{path}: must be a new or empty folder")
    run.path.mkdir(parents=True, exist_ok=True)
    if config.search.storage is not None:
        write_atomic(run.study_name, f"{run.path.name}-{uuid.uuid4().hex[:8]}\n")
    write_atomic(run.config, dump_config(config))
    return run


def open_run(path: Path, *, build_space: bool = True) -> tuple[RunFolder, Config]:
    """Returns a run that exists, and its config; its space is not made if `build_space` is off.

    Raises:
        RunError: there is no run in the folder.
        ConfigError: its config was damaged.
    """
    run = RunFolder(path.expanduser().resolve())
    if not run.config.is_file():
        raise RunError(f"{path}: holds no run (no config.yaml); `hardcell search --run {path}` starts one")
    return run, load_config(run.config, build_space=build_space)


@contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Holds the run for this process alone; the lock goes with the process, however it ends.

    Raises:
        RunError: another process holds it.
    """
    with (run.path / ".lock").open("w") as file:
        for wait in (0.1, 0.2, 0.4, None):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if wait is None:
                    raise RunError(f"{run.path}: another process is working on this run") from error
                time.sleep(wait)  # `is_locked` of another process holds it for an instant.
        yield


def is_locked(run: RunFolder) -> bool:
    """Returns whether a process is working on the run."""
    with (run.path / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def write_environment(run: RunFolder, environment: Mapping[str, Any], hashes: Mapping[str, str]) -> None:
    """Records versions, machine and the hashes of the splits that have been opened."""
    write_atomic(run.environment, json.dumps({**environment, "data": dict(hashes)}, indent=2) + "\n")
