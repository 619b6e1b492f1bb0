"""Progress bar on stderr, and exit code of Ctrl-C, for commands that take minutes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INTERRUPTED = 130


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None] | None]:
    """Yields a function of (stage, completed share in [0, 1]) that updates a bar on stderr; None without a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("opening the network and the images", total=1.0)
        yield lambda stage, share: bar.update(task, description=stage, completed=share)
