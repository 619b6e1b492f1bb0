"""Errors with a message for the user: the command line prints the message and exits with the code."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


class HardcellError(Exception):
    """Something that the user can mend; the message says where, what was found and what to do.

    Attributes:
        exit_code: What the command line exits with.
    """

    exit_code: ClassVar[int] = 2


class ConfigError(HardcellError):
    """A config with faults, all of them.

    Attributes:
        faults: One line a fault.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class DataError(HardcellError):
    """Images or labels that cannot be used."""


class NetworkError(HardcellError):
    """A network that cannot be opened, or does not go together with the images."""


class RunError(HardcellError):
    """A run's folder that cannot be used as asked."""


class BundleError(HardcellError):
    """A bundle that is damaged, tampered with, or cannot be built."""


class SearchFailedError(HardcellError):
    """A search in which no trial succeeded."""

    exit_code: ClassVar[int] = 1


class TimeLimitError(Exception):
    """A trial took longer than it may: that is its result."""


class RecordError(Exception):
    """A function of the user's own that notes numbers of trained networks raised an error: that is the trial's result."""


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def format_error(error: BaseException) -> str:
    """Returns an error on one line: its kind, and the first line of what it says."""
    line, kind = first_line(error), type(error).__name__
    return kind if line == kind else f"{kind}: {line}"
