"""The folder into which a command writes numbers and pictures."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def output_folder(folder: Path | None, holds: str, *names: str) -> Iterator[None]:
    """Makes the folder before the work within; where that is refused, takes away again what it made.

    Args:
        folder: The folder; None for none.
        holds: What it must not hold yet, such as `a profile`.
        names: Files that show that it does.

    Raises:
        RunError: it is a file, or one of the files is in it.
    """
    from nas.errors import HardcellError, RunError

    if folder is None:
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; name a folder")
    if any((folder / name).exists() for name in names):
        raise RunError(f"{folder}: holds {holds} already; name another folder, or remove this one")
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except HardcellError:
        for place in made:
            with suppress(OSError):  # Another process may have put something into it.
                place.rmdir()
        raise


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tells what keeps files from being written into the folder.

    Raises:
        RunError: there is no space left, or the folder cannot be written any more.
    """
    from nas.errors import RunError

    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from error
