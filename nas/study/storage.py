"""Where a study lies: a SQLite file in the run's folder, or any other database that Optuna can use."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import URL, event, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from nas.config.storage_url import expand_variables, hide_password
from nas.errors import RunError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "hardcell"


@final
@dataclass(frozen=True)
class StudyLocation:
    """Where a run's study lies.

    Attributes:
        path: The SQLite file that holds it where no URL is given.
        url: URL of the database that holds it instead; variables of the environment in it are written $NAME.
        name: Name of the study in the database.
    """

    path: Path
    url: str | None = None
    name: str = NAME

    def __str__(self) -> str:
        """Returns the place as messages name it: without a password."""
        return str(self.path) if self.url is None else f"study {self.name} in {hide_password(self.url)}"

    @property
    def backup(self) -> Path:
        """The copy that is made of the file whenever a run goes on."""
        return self.path.with_name(f"{self.path.name}.backup")


@contextmanager
def storage_errors(location: StudyLocation) -> Iterator[None]:
    """Turns what a database raises into a message: a full disk, a damaged file, a server that is gone."""
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
        return "the trials told so far are kept, and `hardcell resume` goes on"
    if location.backup.exists():
        count = _trials_in(location.backup)
        # What was written ahead belongs to the damaged file: it would damage the copy.
        remove, copy = f"rm -f {location.path}-wal {location.path}-shm", f"cp {location.backup} {location.path}"
        return f"the file is damaged; `{remove}; {copy}` takes the copy made at the last resume, of {count} trials"
    return "the file is damaged, and there is no copy of it: one is made at every resume"


def _trials_in(path: Path) -> int | str:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return int(database.execute("select count(*) from trials").fetchone()[0])
    except sqlite3.Error:
        return "no"


def silence_optuna() -> None:
    """Keeps Optuna's own log lines out of the display; warnings stay."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_storage(location: StudyLocation, *, write: bool = False) -> RDBStorage:
    """Returns the database of a study, made where it is a file and there is none.

    Args:
        location: Where it lies.
        write: It will be written much, until `close_storage`.

    Raises:
        RunError: the file is damaged or no database, or the URL is none that works here.
    """
    silence_optuna()
    with storage_errors(location):
        if location.url is None:
            # Not as text: a path may hold a question mark, which would end it.
            storage = RDBStorage(URL.create("sqlite", database=str(location.path)).render_as_string())
            if write:
                _write_ahead(storage)
            return storage
        try:
            # A server may drop a connection that is not used for hours.
            return RDBStorage(expand_variables(location.url), engine_kwargs={"pool_pre_ping": True})
        except (ArgumentError, ValueError, ImportError) as error:
            # Not what a ValueError says of the port: it may be a part of the password.
            message = "is no URL" if isinstance(error, ValueError) else first_line(error)
            raise RunError(
                f"{location}: {message}; search.storage must be a URL such as "
                "postgresql+psycopg2://USER:$PASSWORD@HOST/NAME whose driver is installed (pip install psycopg2-binary)"
            ) from error


def check_database(url: str) -> None:
    """Opens a database and closes it again, to find before any work that it cannot be used.

    Raises:
        RunError: it cannot be reached, or is none that Optuna can use.
    """
    try:
        release(open_storage(StudyLocation(Path("study.db"), url, "of the run")))
    except RunError as error:
        cause = error.__cause__ or error
        message = first_line(getattr(cause, "orig", None) or getattr(cause.__cause__, "orig", None) or cause)
        raise RunError(f"search.storage: {hide_password(url)}: {message}") from error


def _write_ahead(storage: RDBStorage) -> None:
    """Has SQLite write ahead, which halves the time of a write: what was written survives a kill of the process."""

    def tune(connection: Any, record: object) -> None:
        with suppress(sqlite3.OperationalError):  # In a folder that can only be read.
            connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    event.listen(storage.engine, "connect", tune)
    storage.engine.dispose()


def close_storage(storage: RDBStorage) -> None:
    """Leaves a SQLite database as one file that can be copied, and read in a folder that cannot be written."""
    release(storage)
    if storage.engine.dialect.name == "sqlite":
        with suppress(SQLAlchemyError), storage.engine.connect() as connection:  # Another process may be reading it.
            connection.execute(text("PRAGMA journal_mode=DELETE"))
        release(storage)


def release(storage: RDBStorage) -> None:
    """Closes the connections to a database."""
    storage.remove_session()
    storage.engine.dispose()


def backup(location: StudyLocation) -> None:
    """Copies a study's file, once it is found whole, to go back to should it be damaged one day.

    Raises:
        RunError: it is damaged; the copy made before stays.
    """
    if location.url is not None:
        return
    if not location.path.exists():
        if location.backup.exists():
            remedy = f"`cp {location.backup} {location.path}` takes the copy made at the last resume"
            raise RunError(f"{location}: is missing; {remedy}")
        return
    partial = location.backup.with_name(f".{location.backup.name}.partial")
    try:
        with closing(sqlite3.connect(location.path)) as database:
            integrity = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if integrity != "ok":
                raise sqlite3.DatabaseError(f"malformed: {integrity}")
            # An empty file is a whole database to SQLite. Without a study the run had only begun, unless there is a copy.
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
