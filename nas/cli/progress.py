"""Progress bar on stderr, and exit code of Ctrl-C, for commands that take minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERRUPTED = 130


@final
@dataclass
class TimeLeft:
    """Estimates the time that is left from the completed shares of the time.

    The estimate uses the whole work so far. Rich's own column uses the last 30 seconds, in which nothing may be reported.

    Attributes:
        clock: Returns the seconds of a clock.
    """

    clock: Callable[[], float] = time.monotonic
    _started: float | None = None
    _end: float | None = None

    def update(self, share: float) -> None:
        """Takes the completed share, between 0 and 1. The time runs from the first call."""
        now = self.clock()
        if self._started is None:
            self._started = now
        if share > 0:
            self._end = now + (now - self._started) * (1 - share) / share

    def text(self) -> str:
        """Returns the time left, such as '1:02:03 left' or '2 days, 0:00:05 left'; '' if it is not known."""
        return "" if self._end is None else f"{timedelta(seconds=round(max(0.0, self._end - self.clock())))} left"


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None] | None]:
    """Yields a function of (stage, completed share in [0, 1]) that updates a bar on stderr; None without a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class TimeLeftColumn(ProgressColumn):
        """The time left, which also runs down between two updates of the share."""

        def render(self, task: Task) -> Text:
            return Text(left.text(), style="progress.remaining")

    console, left = Console(stderr=True), TimeLeft()
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeLeftColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("opening the network and the images", total=1.0)

        def update(stage: str, share: float) -> None:
            left.update(share)
            bar.update(task, description=stage, completed=share)

        yield update
