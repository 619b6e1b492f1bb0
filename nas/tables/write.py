"""Writes the measurements of a table as a gzipped CSV file, which the tabular evaluator and pandas read."""

from __future__ import annotations

import csv
import gzip
import io
from typing import TYPE_CHECKING

from nas.config.metrics import is_metric
from nas.evaluation.table_rows import epoch_column
from nas.evaluation.train_and_tabulate import TEST
from nas.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nas.tables.measurements import Measurement


# Names of columns that are neither choices nor numbers, and of a column that stands for all choices of cell201.
RESERVED = ("key", "seed", "state", "reason", "seconds", "training_seconds", "arch")


def is_reserved(name: str) -> bool:
    """Returns whether a table uses a name for another column than a choice."""
    return name in RESERVED or is_metric(name) or name.startswith((TEST, "power_law_"))


def write_table(path: Path, measurements: Sequence[Measurement], keys: Sequence[str] = ()) -> None:
    """Writes measurements as a table. Numbers that a row lacks are empty cells.

    The columns are key, seed, one for each choice, state, reason, seconds, training_seconds, the final numbers, and the
    numbers after each epoch E, such as `clean_error[E]`. The rows of one architecture follow each other, ordered by seed.

    Args:
        path: The file, with a name that ends in .csv.gz. Equal measurements give equal bytes, apart from the seconds.
        measurements: At least one measurement.
        keys: Keys of architectures in the order of their rows. Other architectures follow in the order of the measurements.
    """
    position = {key: number for number, key in enumerate(dict.fromkeys([*keys, *(m.key for m in measurements)]))}
    ordered = sorted(measurements, key=lambda m: (position[m.key], m.seed))
    choices = list(ordered[0].architecture)
    numbers = [_numbers(m) for m in ordered]
    names = dict.fromkeys(name for row in numbers for name in row)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", "seed", *choices, "state", "reason", "seconds", "training_seconds", *names])
    for m, row in zip(ordered, numbers, strict=True):
        values = [m.architecture[name] for name in choices]
        cells = [f"{row[name]:.10g}" if name in row else "" for name in names]
        writer.writerow([m.key, m.seed, *values, m.state, m.reason, m.seconds, m.training_seconds, *cells])
    write_atomic(path, gzip.compress(text.getvalue().encode(), mtime=0))


def _numbers(measurement: Measurement) -> dict[str, float]:
    """Returns the final numbers of a row, then those after each epoch, by name of the column."""
    epochs = enumerate(measurement.epochs, start=1)
    at_epochs = {epoch_column(name, number): value for number, epoch in epochs for name, value in epoch.items()}
    return {**measurement.metrics, **at_epochs}
