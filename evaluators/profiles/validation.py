"""Checks the content of a profile's files. A form describes the structure and the types that a value must have."""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

# Largest number of images of a profile.
LARGEST_N = 10_000_000
LARGEST_INTEGER = 2**63


@final
@dataclass(frozen=True)
class _Mapping:
    """Form of a mapping: the forms of its values, given by key or as one form for all keys.

    Attributes:
        keys: Forms of the values under the required keys.
        optional: Forms of the values under keys that may be missing.
        entries: Form of the values under any other key; None if these values are not checked.
        exact: Whether keys outside `keys` and `optional` are refused, if `entries` is None.
    """

    keys: dict[str, Any]
    optional: dict[str, Any] | None = None
    entries: Any = None
    exact: bool = False


@final
@dataclass(frozen=True)
class _Choice:
    """Either of two forms: the first if the mapping has the key, otherwise the second."""

    key: str
    first: Any
    second: Any


@final
@dataclass(frozen=True)
class _List:
    """Form of a list: the form of its entries, and the bounds of its length."""

    entries: Any
    least: int = 0
    most: int = 100_000


@final
@dataclass(frozen=True)
class _Nullable:
    """Either null or a form."""

    form: Any


_NUMBER = (int, float)
_MAYBE = (int, float, type(None))
_PAIR, _CURVE = _List(_NUMBER, 2, 2), _List(_NUMBER, 1)
_INTERVALS = _List(_PAIR, 1)
_ALTERNATIVE = _Mapping(dict.fromkeys(("ceiling", "scale", "shape", "log_likelihood_ratio", "p_value"), _NUMBER), exact=True)
_LAW = _Mapping(
    {
        "exponent": _NUMBER,
        "exponent_interval": _PAIR,
        "prefactor": _NUMBER,
        "window": _PAIR,
        "n": (int,),
        "p_value": _NUMBER,
        "saturated": (bool,),
        "alternatives": _Mapping({}, entries=_ALTERNATIVE),
    },
    optional={"fit": (str,), "prefactor_interval": _PAIR},
)
_REASON = _Mapping({"reason": (str,)})
_LOCAL = _Mapping({"exponent": _NUMBER, "interval": _PAIR, "window": _PAIR, "n": (int,), "flip_rate": _NUMBER}, exact=True)
_LAWS = {"power_law": _Choice("reason", _REASON, _LAW), "local_exponent": _Choice("reason", _REASON, _LOCAL)}
_ATTACK = _Mapping(
    {
        "config": _Mapping({"name": (str,), "norm": (str,)}),
        "epsilons": _CURVE,
        "error": _CURVE,
        "error_interval": _INTERVALS,
        "median_radius": _MAYBE,
        "success_rate": _NUMBER,
        "power_law": _LAWS["power_law"],
        "flip_rate": _Nullable(_CURVE),
        "flip_interval": _Nullable(_INTERVALS),
    },
    optional={"local_exponent": _LAWS["local_exponent"]},
)
_FIRST_ORDER = _Mapping(
    {
        **dict.fromkeys(("median_radius", "median_gradient", "parting_epsilon"), _MAYBE),
        **dict.fromkeys(("epsilons", "predicted_error"), _CURVE),
    },
    optional={"mean_field_error": _CURVE},
)
_NEAREST = _Mapping({"near_zero": _Mapping({"density": _NUMBER, "interval": _PAIR}), "distance_to_independent": _NUMBER})
_DENSITIES = _Mapping({"at": _CURVE}, optional=dict.fromkeys(("rival_1", "rival_2", "rival_3"), _CURVE), exact=True)
_MARGINS = _Mapping(
    {
        "median": _NUMBER,
        "density_at_zero": _MAYBE,
        "densities": _Nullable(_DENSITIES),
        "mean_entropy": _NUMBER,
        "first_order": _Mapping({}, entries=_FIRST_ORDER),
    },
    optional={"nearest": _NEAREST},
)
_CHECK = _Mapping({"name": (str,), "passed": (bool,), "evidence": _Mapping({}, entries=(int, float, str, bool))}, exact=True)
_RECORD = _Mapping(
    {
        "dataset": (str,),
        "split": (str,),
        "n": (int,),
        "clean_error": _NUMBER,
        "attacks": _Mapping({}, entries=_ATTACK),
        "margins": _MARGINS,
        "checks": _List(_CHECK),
        "cost": _Mapping(dict.fromkeys(("parameters", "macs"), (int, type(None)))),
        "seed": (int,),
        "tolerance": _MAYBE,
    },
    optional={
        "worst_case": _Mapping({}, entries=_Mapping(_LAWS, exact=True)),
        "union": _Mapping({"epsilons": _Mapping({}, entries=_NUMBER), "error": _NUMBER, "interval": _PAIR}),
        "corruptions": _Mapping({"clean": _NUMBER, "mean": _NUMBER, "errors": _Mapping({}, entries=_List(_NUMBER, 1, 5))}),
        "certificates": _Mapping(
            {"sigma": _NUMBER, "abstained": _NUMBER, "median_radius": _NUMBER, "epsilons": _CURVE, "certified_error": _CURVE}
        ),
    },
)


def check_record(record: Any) -> None:
    """Checks the content of profile.json.

    Raises:
        ValueError: an entry is missing or has another type; the message names it.
    """
    _check(record, _RECORD, "")
    if not 0 < record["n"] <= LARGEST_N:
        raise ValueError(f"n must be from 1 to {LARGEST_N:,}, got {record['n']}")
    if not record["attacks"]:
        raise ValueError("attacks must not be empty")
    curves = {f"attacks.{name}": entry for name, entry in record["attacks"].items()}
    curves.update({f"margins.first_order.{name}": entry for name, entry in record["margins"]["first_order"].items()})
    curves.update({key: record[key] for key in ("certificates",) if record.get(key)})
    for place, entry in curves.items():
        along = [key for key, value in entry.items() if isinstance(value, list)]
        if len({len(entry[key]) for key in along}) > 1:
            raise ValueError(f"{place}: {', '.join(along)} must have equal lengths")


def _check(value: Any, form: Any, place: str) -> None:
    if isinstance(form, _Nullable):
        return None if value is None else _check(value, form.form, place)
    if isinstance(form, _Choice):
        return _check(value, form.first if isinstance(value, dict) and form.key in value else form.second, place)
    if isinstance(form, _Mapping):
        return _check_mapping(value, form, place)
    if isinstance(form, _List):
        if not isinstance(value, list) or not form.least <= len(value) <= form.most:
            raise ValueError(f"{place} must be a list of {form.least} to {form.most:,} entries, got {_short(value)}")
        for number, entry in enumerate(value):
            _check(entry, form.entries, f"{place}[{number}]")
        return None
    # bool is a subclass of int.
    if not isinstance(value, form) or (isinstance(value, bool) and bool not in form):
        raise ValueError(f"{place} must be {' or '.join(kind.__name__ for kind in form)}, got {_short(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} must be finite, got {value}")
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise ValueError(f"{place} must be an integer of 64 bits, got {len(str(value))} digits")
    if isinstance(value, str) and not value.isprintable():
        raise ValueError(f"{place} must be printable text, got {_short(value)}")
    return None


def _check_mapping(value: Any, form: _Mapping, place: str) -> None:
    dot = f"{place}." if place else ""
    if not isinstance(value, dict):
        raise ValueError(f"{place or 'the content'} must be a mapping, got {_short(value)}")
    for key in form.keys:
        if key not in value:
            raise ValueError(f"{dot}{key} is missing")
    known = {**form.keys, **(form.optional or {})}
    for key, entry in value.items():
        if key in known and not (entry is None and form.optional and key in form.optional):
            _check(entry, known[key], f"{dot}{key}")
        elif key not in known and form.entries is not None:
            if not key.isprintable():
                raise ValueError(f"{place} has a key that is not printable, {_short(key)}")
            _check(entry, form.entries, f"{dot}{key}")
        elif key not in known and form.exact:
            raise ValueError(f"{place} has an unknown key, {_short(key)}: another version of Hardcell wrote it")


def _short(value: Any) -> str:
    return repr(value)[:60]


def read_radii(path: Path, names: Collection[str], n: int) -> dict[str, Any]:
    """Returns the arrays of radii.npz, (n,) float64 each. No memory is taken before the headers are checked.

    Args:
        path: The file.
        names: Names of the arrays.
        n: Number of images.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged; an array is missing, has another shape or type, or holds a negative or NaN radius.
    """
    try:
        return _read_radii(path, names, n)
    # Errors of damaged archives. Encrypted entries and unknown compressions raise `RuntimeError` or a subclass.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OverflowError, SyntaxError) as error:
        raise ValueError(f"{path.name}: is damaged: {error}") from error


def _read_radii(path: Path, names: Collection[str], n: int) -> dict[str, Any]:
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name in names:
            try:
                info = archive.getinfo(f"{name}.npy")
            except KeyError as error:
                raise ValueError(f"{path.name}: {name} is missing") from error
            if info.file_size > 8 * n + 1024:
                raise ValueError(f"{path.name}: {name} must hold {n} radii, got {info.file_size:,} bytes")
            with archive.open(info) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
                if shape != (n,) or dtype != np.float64:
                    raise ValueError(f"{path.name}: {name} must be ({n},) float64, got {shape} {dtype}")
                radii = np.frombuffer(file.read(), dtype=np.float64).copy()
            if len(radii) != n or not (radii >= 0).all():
                raise ValueError(f"{path.name}: {name} must hold {n} radii of at least 0")
            arrays[name] = radii
    return arrays
