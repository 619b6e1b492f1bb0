"""Exception classes, and functions that format exceptions for messages.

The command line prints the message of a HardcellError and exits with its `exit_code`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


class HardcellError(Exception):
    """An error that the user can fix. The message gives the place, the rule, the value and the remedy.

    Attributes:
        exit_code: Exit code of the command line.
    """

    exit_code: ClassVar[int] = 2


class ConfigError(HardcellError):
    """All faults of a config.

    Attributes:
        faults: Messages, one line per fault.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class DataError(HardcellError):
    """Images, labels or a table cannot be used."""


class NetworkError(HardcellError):
    """A network cannot be opened or does not fit the images."""


class RunError(HardcellError):
    """A run or a command cannot continue, for example because of its folder, database, search space or hardware."""


class HeadLostError(RunError):
    """The head node of a Ray cluster does not answer. Any further call to Ray, even at exit, blocks or ends the process."""


class BundleError(HardcellError):
    """A bundle is missing, damaged or modified, or its network cannot be built."""


class SearchFailedError(HardcellError):
    """No trial of a search is complete, or none of its finalists has a usable bundle."""

    exit_code: ClassVar[int] = 1


class LimitError(BaseException):
    """A trial ran too long or printed too much. The error message is recorded as the reason why the trial failed.

    LimitError is not a subclass of `Exception`, so that an `except Exception` in the code of a candidate does not catch it.
    """


class RecordError(Exception):
    """The custom function `evaluation.record` raised an error, which is recorded as the reason why the trial failed."""


class UndefinedMetricError(Exception):
    """A metric has no value for a trained network. The message is recorded as the reason why the trial failed."""


def printable(text: str) -> str:
    """Returns a text in which all characters are replaced except printable characters, line feeds and tabs.

    Control characters could change the state of a terminal.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def first_line(error: BaseException) -> str:
    """Returns the printable first line of an error's message, or the name of the error's type if the message is empty."""
    return printable(next(iter(str(error).strip().splitlines()), type(error).__name__))


def format_error(error: BaseException) -> str:
    """Returns an error on one line: the name of its type, and the first line of its message."""
    line, kind = first_line(error), type(error).__name__
    return kind if line == kind else f"{kind}: {line}"
