"""Folder of a run: paths of its files, and the lock of the writing process."""

from __future__ import annotations

import fcntl
import json
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from nas.config.writer import dump_config
from nas.errors import RunError
from nas.files import check_regular, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nas.config.schema import Config


@final
@dataclass(frozen=True)
class RunFolder:
    """Paths of the files of one run.

    Attributes:
        path: Absolute path of the folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """Path of the complete config."""
        return self.path / "config.yaml"

    @property
    def study(self) -> Path:
        """Path of the study's SQLite database."""
        return self.path / "study.db"

    @property
    def study_name(self) -> Path:
        """Path of the file with the study's name in a shared database."""
        return self.path / ".study"

    @property
    def bundles(self) -> Path:
        """Path of the folder of bundles."""
        return self.path / "bundles"

    @property
    def report(self) -> Path:
        """Path of the report."""
        return self.path / "report.html"

    @property
    def leaderboard(self) -> Path:
        """Path of the table of all trials."""
        return self.path / "leaderboard.csv"

    @property
    def table_plan(self) -> Path:
        """Path of the plan of a table. A folder with this file holds a table and no run."""
        return self.path / "plan.json"

    @property
    def environment(self) -> Path:
        """Path of the file with versions, machine properties and hashes of the data."""
        return self.path / "environment.json"


def check_unused(path: Path) -> RunFolder:
    """Returns the folder of a new run, which is empty or does not exist.

    Raises:
        RunError: the folder already holds a run or other files.
    """
    run = RunFolder(path.expanduser().resolve())
    if run.table_plan.exists():
        raise RunError(f"{path}: holds a table; choose another folder")
    if run.config.exists() or run.study.exists():
        raise RunError(f"{path}: holds a run already; `hardcell resume {path}` resumes it, or choose another folder")
    if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
        raise RunError(f"{path}: must be a new or empty folder")
    return run


def create_run(path: Path, config: Config) -> RunFolder:
    """Creates the folder of a new run and writes its config.

    Raises:
        RunError: the folder already holds a run or other files, or its file system has no locks.
    """
    run = check_unused(path)
    run.path.mkdir(parents=True, exist_ok=True)
    try:
        with locked(run):
            pass
    except RunError:
        (run.path / ".lock").unlink()
        run.path.rmdir()
        raise
    if config.search.storage is not None:
        write_atomic(run.study_name, f"{run.path.name}-{uuid.uuid4().hex[:8]}\n")
    write_config(run, config)
    return run


def write_config(run: RunFolder, config: Config) -> None:
    """Writes the complete config of a run to config.yaml."""
    write_atomic(run.config, dump_config(config))


def find_run(path: Path) -> RunFolder:
    """Returns the folder of an existing run.

    Raises:
        RunError: the folder holds no run, or one of its files is a link or a pipe.
    """
    run = RunFolder(path.expanduser().resolve())
    if run.table_plan.exists():
        raise RunError(f"{path}: holds a table and no run; `hardcell resume {path}` continues it")
    if not run.config.is_file():
        raise RunError(f"{path}: holds no run (no config.yaml); `hardcell search --run {path}` starts one")
    log = [run.study.with_name(run.study.name + suffix) for suffix in ("-journal", "-wal", "-shm", ".backup")]
    written = (run.leaderboard, run.report, run.path / ".lock")
    for file in (run.config, run.study, *log, run.study_name, run.environment, *written):
        try:
            check_regular(file)
        except ValueError as error:
            raise RunError(f"{file}: {error}") from error
    if run.bundles.is_symlink():
        raise RunError(f"{run.bundles}: is a link; the run's folder must hold the bundles themselves")
    return run


@contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Locks the run for this process; the operating system releases the lock when the process ends, even after a crash.

    Raises:
        RunError: another process holds the lock, or the file system has no locks.
    """
    with (run.path / ".lock").open("a") as file:
        for wait in (0.1, 0.2, 0.4, None):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if wait is None:
                    raise RunError(f"{run.path}: another process is working on this run") from error
                time.sleep(wait)  # `is_locked` of another process holds the lock for an instant.
            except OSError as error:
                raise RunError(
                    f"{run.path}: its file system has no file locks ({error.strerror}), which prevent two processes from "
                    "working on one run; use a folder on another file system, such as a local disk, or mount this one with "
                    "locks; an existing run may be copied to another folder and resumed there"
                ) from error
        yield


def is_locked(run: RunFolder) -> bool:
    """Returns whether a process holds the lock of the run, without writing. False if the file system has no locks."""
    try:
        with (run.path / ".lock").open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def write_environment(run: RunFolder, environment: Mapping[str, Any], hashes: Mapping[str, str]) -> None:
    """Writes environment.json: versions, machine properties and hashes of the opened splits."""
    write_atomic(run.environment, json.dumps({**environment, "data": dict(hashes)}, indent=2) + "\n")
