"""Validation of settings: bounds of numbers, and one error for several faults."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any


class ValidationError(ValueError):
    """Error with all faults of one section of a config, as (key, message) pairs."""

    def __init__(self, faults: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{key} {message}" for key, message in faults))
        self.faults = faults


def bounded(default: Any, low: float | None = None, high: float | None = None) -> Any:
    """Returns a dataclass field for a number with inclusive bounds, which `check_bounds` applies."""
    return field(default=default, metadata={"low": low, "high": high})


def check_bounds(settings: Any) -> list[tuple[str, str]]:
    """Returns the faults of the numbers in a dataclass of settings: NaN, and values outside the bounds of their fields."""
    faults = []
    for f in fields(settings):
        value, low, high = getattr(settings, f.name), f.metadata.get("low"), f.metadata.get("high")
        if value is None or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if value != value:  # For NaN, both comparisons below are False.
            faults.append((f.name, "must be a number, got nan"))
        elif low is not None and value < low:
            faults.append((f.name, f"must be at least {format_number(low)}, got {format_number(value)}"))
        elif high is not None and value > high:
            faults.append((f.name, f"must be at most {format_number(high)}, got {format_number(value)}"))
    return faults


def format_number(value: float) -> str:
    """Returns a number as text: all digits of an int, no trailing zeros of a float."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def raise_if_invalid(faults: list[tuple[str, str]]) -> None:
    """Raises ValidationError if there are faults."""
    if faults:
        raise ValidationError(faults)
