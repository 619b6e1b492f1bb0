"""Names of the columns of a table that hold a number after each epoch."""

from __future__ import annotations


def epoch_column(name: str, epoch: int) -> str:
    """Returns the name of the column with a number after an epoch, from 1: `clean_error[3]`."""
    return f"{name}[{epoch}]"
