"""Limits what a candidate prints: a flood of lines would hide the progress of the search."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self, TextIO, final

from nas.errors import LimitError

if TYPE_CHECKING:
    from types import TracebackType

# Number of lines of a trial after which nothing more is shown.
SHOWN_LINES = 10
# Largest output of a trial. A trial that prints more fails.
MAX_LINES, MAX_CHARACTERS = 1000, 200_000


@final
class LimitedOutput:
    """Context manager that limits how much a trial prints in its blocks. It can be entered again; the counts add up.

    Only output through Python's stdout and stderr is counted. The call that exceeds the limit raises LimitError. If the
    candidate catches this error, the end of the block raises it again.
    """

    def __init__(self) -> None:
        self._lines = self._characters = 0
        self._before: tuple[TextIO, TextIO] | None = None

    def __enter__(self) -> Self:
        self._before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Stream(sys.stdout, self), _Stream(sys.stderr, self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._before is not None
        sys.stdout, sys.stderr = self._before
        if kind is None or kind is StopIteration:  # The candidate may have caught a LimitError.
            self._check()

    def count(self, text: str) -> bool:
        """Counts printed text, and returns whether to show it.

        Raises:
            LimitError: the trial has printed too much.
        """
        shown = self._lines < SHOWN_LINES and self._characters < MAX_CHARACTERS
        self._lines, self._characters = self._lines + text.count("\n"), self._characters + len(text)
        self._check()
        return shown

    def _check(self) -> None:
        if self._lines > MAX_LINES or self._characters > MAX_CHARACTERS:
            raise LimitError(f"printed more than {MAX_LINES:,} lines or {MAX_CHARACTERS:,} characters")


class _Stream:
    """A text stream whose output is counted and limited."""

    def __init__(self, stream: TextIO, output: LimitedOutput) -> None:
        self._stream, self._output = stream, output

    def write(self, text: str) -> int:
        if self._output.count(text):
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
