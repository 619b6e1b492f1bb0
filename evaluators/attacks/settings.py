"""Checks of settings that several attacks have."""

from __future__ import annotations


def check_counts(**counts: int) -> None:
    """Checks numbers of steps, restarts, queries and the like, given by their names.

    Raises:
        ValueError: one of them is below 1.
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
