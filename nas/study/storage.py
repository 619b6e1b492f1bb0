"""Storage of a study: a SQLite file in the run's folder, or another database that Optuna supports."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import URL, event, text
from sqlalchemy.exc import ArgumentError, DatabaseError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from nas.config.storage_url import expand_variables, hide_password
from nas.errors import RunError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "hardcell"

# A view or a virtual table runs code when it is read, possibly without end. The query finds everything except ordinary
# tables and indices.
_NOT_OPTUNAS = """
    select type, name from sqlite_master
    where type not in ('table', 'index') or (type = 'table' and sql not like 'create table%')
"""


@final
@dataclass(frozen=True)
class StudyLocation:
    """Location of a run's study.

    Attributes:
        path: SQLite file of the study, if there is no URL.
        url: URL of the study's database, with environment variables as $NAME; None for the SQLite file.
        name: Name of the study in the database.
    """

    path: Path
    url: str | None = None
    name: str = NAME

    def __str__(self) -> str:
        """Returns the location for messages, without a password."""
        return str(self.path) if self.url is None else f"study {self.name} in {hide_password(self.url)}"

    @property
    def backup(self) -> Path:
        """Path of the backup of the SQLite file. It is written at the start of a resume, and regularly during the trials."""
        return self.path.with_name(f"{self.path.name}.backup")


@contextmanager
def storage_errors(location: StudyLocation) -> Iterator[None]:
    """Converts database errors, such as a full disk, a damaged file or a lost server, to RunError."""
    try:
        yield
    except RuntimeError as error:
        if "schema" not in str(error):
            raise
        raise RunError(f"{location}: was made by another version of Optuna: {first_line(error)}") from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = getattr(error, "orig", None) or error.__cause__ or error
        message = first_line(getattr(cause, "orig", None) or cause)
        raise RunError(f"{location}: {message}; {_remedy(location, message)}") from error


def _remedy(location: StudyLocation, message: str) -> str:
    damaged = location.url is None and any(word in message for word in ("malformed", "not a database", "corrupt"))
    if not damaged:
        return "finished trials are kept; run `hardcell resume` to continue"
    if location.backup.exists():
        count = _trials_in(location.backup)
        if count is None:
            return f"the file is damaged, and so is its backup {location.backup}"
        # The write-ahead log belongs to the damaged file and would damage the copy.
        remove, copy = f"rm -f {location.path}-wal {location.path}-shm", f"cp {location.backup} {location.path}"
        return f"the file is damaged; `{remove}; {copy}` restores the last backup, with {count} trials"
    return "the file is damaged and has no backup (the first one is written after the first trial); start a new run"


def _trials_in(path: Path) -> int | None:
    """Returns the number of trials in an SQLite file; None if it is damaged."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            if database.execute(_NOT_OPTUNAS).fetchone() is not None:
                return None
            return int(database.execute("select count(*) from trials").fetchone()[0])
    except sqlite3.Error:
        return None


def silence_optuna() -> None:
    """Disables Optuna's log messages below warnings."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_storage(location: StudyLocation, *, write: bool = False) -> RDBStorage:
    """Returns the database of a study.

    Args:
        location: Location of the study.
        write: Open a SQLite file for writing, and create a missing one. If false, the file is copied into memory and not
            changed, so its folder may be read-only.

    Raises:
        RunError: the file is damaged or not a database, or the URL cannot be used.
    """
    silence_optuna()
    with storage_errors(location):
        if location.url is None:
            if not write:
                return _copy_in_memory(location.path)
            # Text such as f"sqlite:///{path}" would be wrong: a question mark in the path would end the path.
            storage = RDBStorage(URL.create("sqlite", database=str(location.path)).render_as_string())
            _write_ahead(storage)
            return storage
        try:
            # A server may close idle connections, and pool_pre_ping replaces them.
            return RDBStorage(expand_variables(location.url), engine_kwargs={"pool_pre_ping": True})
        except (ArgumentError, ValueError, ImportError) as error:
            # The text of a ValueError about the port may contain a part of the password.
            message = "is not a URL" if isinstance(error, ValueError) else first_line(error)
            raise RunError(
                f"{location}: {message}; search.storage must be a URL such as "
                "postgresql+psycopg2://USER:$PASSWORD@HOST/NAME whose driver is installed (pip install psycopg2-binary)"
            ) from error


def _copy_in_memory(path: Path) -> RDBStorage:
    """Returns a copy of a SQLite database in memory. Neither the file nor its folder is changed.

    Raises:
        SQLAlchemyError: the file is damaged or not a database.
        RunError: the database holds more than ordinary tables and indices.
    """
    memory = sqlite3.connect(":memory:", check_same_thread=False)
    try:
        try:
            _copy_into(memory, path)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise
            # A process was killed while it wrote. SQLite must merge the log of that process into the database. This changes
            # the files, so SQLite merges copies of them.
            with tempfile.TemporaryDirectory() as folder:
                for file in (path, *(path.with_name(f"{path.name}-{log}") for log in ("wal", "journal"))):
                    if file.exists():
                        shutil.copyfile(file, Path(folder, file.name))
                _copy_into(memory, Path(folder, path.name), mode="rw")
        odd = memory.execute(_NOT_OPTUNAS).fetchone()
        if odd is not None:
            memory.close()
            raise RunError(
                f"{path}: holds {' '.join(odd)}, which is not an ordinary table or index of a study, so the file is not read"
            )
        # If the file has no tables of Optuna (it is empty, or of another program), Optuna makes them in memory.
        return RDBStorage("sqlite://", engine_kwargs={"creator": lambda: memory, "poolclass": StaticPool})
    except sqlite3.Error as error:
        memory.close()
        raise DatabaseError(None, None, error) from error


def _copy_into(memory: sqlite3.Connection, path: Path, mode: str = "ro") -> None:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True)) as database:
        database.execute("select count(*) from sqlite_master").fetchone()
        database.backup(memory)


def check_database(url: str) -> None:
    """Opens and closes a database, to report errors before the search starts.

    Raises:
        RunError: the database cannot be reached or is not supported by Optuna.
    """
    try:
        release(open_storage(StudyLocation(Path("study.db"), url, "of the run")))
    except RunError as error:
        cause = error.__cause__ or error
        message = first_line(getattr(cause, "orig", None) or getattr(cause.__cause__, "orig", None) or cause)
        raise RunError(f"search.storage: {hide_password(url)}: {message}") from error


def _write_ahead(storage: RDBStorage) -> None:
    """Sets SQLite to write-ahead logging. This halves the time of a write, and writes survive a kill of the process."""

    def tune(connection: Any, record: object) -> None:
        with suppress(sqlite3.OperationalError):  # The folder may be read-only.
            connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    event.listen(storage.engine, "connect", tune)
    storage.engine.dispose()


def close_storage(storage: RDBStorage) -> None:
    """Closes a database. A SQLite database becomes one file, which can be copied and read in a read-only folder."""
    release(storage)
    if storage.engine.dialect.name == "sqlite":
        with suppress(SQLAlchemyError), storage.engine.connect() as connection:  # Fails if others read the file.
            connection.execute(text("PRAGMA journal_mode=DELETE"))
        release(storage)


def release(storage: RDBStorage) -> None:
    """Closes the connections to a database."""
    storage.remove_session()
    storage.engine.dispose()


def backup(location: StudyLocation) -> None:
    """Checks the SQLite file of a study and writes a backup of it.

    Nothing is done for a study in a database with a URL. Without an earlier backup, nothing is done either if the file is
    missing or has no table of trials.

    Raises:
        RunError: the file is damaged, or there is an earlier backup and the file is missing or has no table of trials. The
            earlier backup is kept.
    """
    if location.url is not None:
        return
    if not location.path.exists():
        if location.backup.exists():
            remedy = f"`cp {location.backup} {location.path}` restores the last backup"
            raise RunError(f"{location}: is missing; {remedy}")
        return
    partial = location.backup.with_name(f".{location.backup.name}.partial")
    try:
        with closing(sqlite3.connect(location.path)) as database:
            integrity = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if integrity != "ok":
                raise sqlite3.DatabaseError(f"malformed: {integrity}")
            # SQLite accepts an empty file. If there is no backup, the run was killed before its first trial. If there is
            # one, the file had trials and is damaged.
            if not database.execute("select count(*) from sqlite_master where name = 'trials'").fetchone()[0]:
                if location.backup.exists():
                    raise sqlite3.DatabaseError("malformed: holds no trials")
                return
            partial.unlink(missing_ok=True)
            with closing(sqlite3.connect(partial)) as copy:
                database.backup(copy)
        partial.replace(location.backup)
    except sqlite3.Error as error:
        partial.unlink(missing_ok=True)
        message = first_line(error)
        raise RunError(f"{location}: {message}; {_remedy(location, message)}") from error
