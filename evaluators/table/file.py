"""Reading of a table from a CSV file."""

from __future__ import annotations

import csv
import gzip
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluators.table.columns import parse_column, understood

if TYPE_CHECKING:
    from numpy.typing import NDArray

MISSING = ("", "nan", "na", "n/a", "none", "null", "-")


def read_table(path: str | Path) -> dict[str, NDArray[Any]]:
    """Returns the columns of a CSV file with N rows below its header, by name, (N,) each.

    Columns of numbers are float64, with NaN for missing cells. Other columns are strings. Percent signs are dropped.

    Args:
        path: File with commas, semicolons or tabs as separators. It is gzipped if its name ends in .gz.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: the file is not a table, no column has the name of an accuracy, or a cell of an accuracy is not a number.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    lines = _lines(path)
    if not lines:
        raise ValueError(f"{path}: must hold a header and at least one row, got an empty file")
    separator = max(",;\t", key=lines[0].count)
    rows = list(csv.reader(lines, delimiter=separator))
    header = [name.strip() for name in rows[0]]
    if len(set(header)) < len(header):
        twice = sorted({name for name in header if header.count(name) > 1})
        raise ValueError(f"{path}, line 1: column names must be unique, got {', '.join(map(repr, twice))} more than once")
    accuracies = {name for name in header if parse_column(name) is not None}
    if not accuracies:
        raise ValueError(f"{path}, line 1: no accuracy columns among {', '.join(header)}; {understood()}")
    body = [(number, row) for number, row in enumerate(rows[1:], 2) if any(cell.strip() for cell in row)]
    if not body:
        raise ValueError(f"{path}: must hold at least one row below the header")
    for number, row in body:
        if len(row) != len(header):
            raise ValueError(f"{path}, line {number}: must have {len(header)} cells, like the header, got {len(row)}")
    columns: dict[str, NDArray[Any]] = {}
    for place, name in enumerate(header):
        cells = [row[place].strip() for _, row in body]
        numbers = [_number(cell) for cell in cells]
        wrong = next((i for i, value in enumerate(numbers) if value is None), None)
        if wrong is None:
            columns[name] = np.array(numbers, dtype=np.float64)
        elif name in accuracies:
            raise ValueError(f"{path}, line {body[wrong][0]}: {name} must be a number, got {cells[wrong]!r}")
        else:
            columns[name] = np.array(cells)
    return columns


def _lines(path: Path) -> list[str]:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
                return file.read().splitlines()
        return path.read_text(encoding="utf-8-sig").splitlines()
    except gzip.BadGzipFile as error:
        raise ValueError(f"{path}: must be gzipped, because its name ends in .gz") from error
    except (UnicodeDecodeError, EOFError) as error:
        raise ValueError(f"{path}: is not a text table ({type(error).__name__})") from error


def _number(cell: str) -> float | None:
    """Returns the number of a cell, NaN if the cell is missing, or None if it is not a number."""
    if cell.lower() in MISSING:
        return math.nan
    try:
        return float(cell.removesuffix("%"))
    except ValueError:
        return None
