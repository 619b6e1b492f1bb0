"""Validation of settings: bounds of numbers, and one error for several faults."""

from __future__ import annotations

import numbers
import types
from dataclasses import field, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_NUMBERS = {bool: bool, int: numbers.Integral, float: numbers.Real}


class ValidationError(ValueError):
    """Error with all faults of one section of a config, as (key, message) pairs."""

    def __init__(self, faults: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{key} {message}" for key, message in faults))
        self.faults = faults


def bounded(default: Any, low: float | None = None, high: float | None = None) -> Any:
    """Returns a dataclass field for a number with inclusive bounds, which `check_bounds` applies."""
    return field(default=default, metadata={"low": low, "high": high})


def check_types(settings: Any) -> list[tuple[str, str]]:
    """Returns the faults of the types in a dataclass of settings: numbers, truth values and names from a list.

    The type hints of its fields must be names that its module imports at run time. Fields of other types are not checked.
    """
    faults = []
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        if value is None and type(None) in kinds:
            continue
        (kind,) = [kind for kind in kinds if kind is not type(None)][:1]
        if get_origin(kind) is Literal and value not in get_args(kind):
            faults.append((name, f"must be one of {', '.join(map(str, get_args(kind)))}, got {value!r}"))
        elif kind in _NUMBERS and (not isinstance(value, _NUMBERS[kind]) or (kind is not bool and isinstance(value, bool))):
            text = {bool: "true or false", int: "int", float: "a number"}[kind]
            faults.append((name, f"must be {text}, got {value!r}"))
    return faults


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
