"""Reading of a table from a CSV file. `hardcell check-table` and the tabular evaluator of a search read the same files."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evaluators.table.columns import parse_column, understood

if TYPE_CHECKING:
    from numpy.typing import NDArray

MISSING = ("", "nan", "na", "n/a", "none", "null", "-")
# Largest number of bytes of a table, also after decompression.
LARGEST_TABLE = 2**28
_DECIMAL_COMMA = re.compile(r"([+-]?\d*),(\d+(?:[eE][+-]?\d+)?)")


@final
@dataclass(frozen=True)
class TableText:
    """The cells of a table as text, without spaces around them.

    Attributes:
        header: Names of the columns.
        rows: For each row, the number of its line in the file, and its cells by column.
        separator: Character between two cells.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]
    separator: str

    def number(self, cell: str) -> float | None:
        """Returns the number of a cell, NaN if the cell is missing, or None if it is not a number.

        A percent sign is dropped. A decimal comma is read if commas do not separate the cells.
        """
        if cell.lower() in MISSING:
            return math.nan
        text = cell.removesuffix("%").rstrip()
        if self.separator != ",":
            text = _DECIMAL_COMMA.sub(r"\1.\2", text) if _DECIMAL_COMMA.fullmatch(text) else text
        try:
            return None if "_" in text else float(text)
        except ValueError:
            return None


def read_cells(path: Path) -> TableText:
    """Returns the cells of a CSV file.

    Args:
        path: File with commas, semicolons or tabs as separators, in UTF-8, or in UTF-16 with a byte order mark. It is
            gzipped if its name ends in .gz.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: the file is not a table.
    """
    text = _text(path)
    first = next((line for line in text.splitlines() if line.strip()), None)
    if first is None:
        raise ValueError(f"{path}: must hold a header and at least one row, got an empty file")
    separator = max(",;\t", key=re.sub('"[^"]*"', "", first).count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{path}: must be CSV: {error}") from error
    (line, header), *body = lines
    twice = [name for name in dict.fromkeys(header) if name and header.count(name) > 1]
    if twice:
        raise ValueError(
            f"{path}, line {line}: column names must be unique, got {', '.join(map(repr, twice))} more than once"
        )
    if not body:
        raise ValueError(f"{path}: must hold at least one row below the header")
    for number, row in body:
        if len(row) != len(header):
            raise ValueError(f"{path}, line {number}: must have {len(header)} cells, like the header, got {len(row)}")
    rows = tuple((number, dict(zip(header, row, strict=True))) for number, row in body)
    return TableText(tuple(header), rows, separator)


def _text(path: Path) -> str:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(LARGEST_TABLE + 1)
        if len(content) > LARGEST_TABLE:
            raise ValueError(f"{path}: must hold at most {LARGEST_TABLE:,} bytes")
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except gzip.BadGzipFile as error:
        raise ValueError(f"{path}: must be gzipped, because its name ends in .gz") from error
    except (UnicodeDecodeError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: is not a text table ({type(error).__name__})") from error


def read_table(path: str | Path) -> dict[str, NDArray[Any]]:
    """Returns the columns of a CSV file with N rows below its header, by name, (N,) each.

    Columns of numbers are float64, with NaN for missing cells. Other columns are strings. Percent signs are dropped.

    Args:
        path: File as in `read_cells`.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: the file is not a table, no column has the name of an accuracy, or a cell of an accuracy is not a number.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    table = read_cells(path)
    accuracies = {name for name in table.header if parse_column(name) is not None}
    if not accuracies:
        raise ValueError(f"{path}, line 1: no accuracy columns among {', '.join(table.header)}; {understood()}")
    columns: dict[str, NDArray[Any]] = {}
    for name in table.header:
        cells = [row[name] for _, row in table.rows]
        numbers = [table.number(cell) for cell in cells]
        wrong = next((i for i, value in enumerate(numbers) if value is None), None)
        if wrong is None:
            columns[name] = np.array(numbers, dtype=np.float64)
        elif name in accuracies:
            raise ValueError(f"{path}, line {table.rows[wrong][0]}: {name} must be a number, got {cells[wrong]!r}")
        else:
            columns[name] = np.array(cells)
    return columns
