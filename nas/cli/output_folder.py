"""Output folder of a command that writes numbers and pictures."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def output_folder(folder: Path | None, holds: str, *names: str, interrupted: bool = False) -> Iterator[None]:
    """Creates the output folder before the work inside the context.

    After a HardcellError or Ctrl-C, removes the folders that it created, if they are empty.

    Args:
        folder: Output folder; None to write no files.
        holds: Kind of content for the error message, such as `a profile`.
        names: Names of files that must not exist in the folder.
        interrupted: Whether the folder holds interrupted work that will be resumed. The named files may then exist.

    Raises:
        RunError: the path is a file, or one of the named files exists in the folder.
    """
    from nas.errors import HardcellError, RunError

    if folder is None:
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; name a folder")
    if not interrupted and any((folder / name).exists() for name in names):
        raise RunError(f"{folder}: holds {holds} already; name another folder, or remove this one")
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except (HardcellError, KeyboardInterrupt):
        for place in made:
            with suppress(OSError):  # Another process may have put something into the folder.
                place.rmdir()
        raise


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Converts an OSError inside the context to a RunError with the path and the reason.

    Raises:
        RunError: a file cannot be written.
    """
    from nas.errors import RunError

    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from error
