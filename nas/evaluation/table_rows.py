"""Rows of a table of measured architectures: metrics, and their values after each epoch, for each training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

from evaluators.table import read_cells
from nas.errors import DataError
from nas.evaluation.formula import evaluate_formula, parse_formula

if TYPE_CHECKING:
    from pathlib import Path

    from evaluators.table import TableText
    from nas.evaluation.formula import Formula
    from search_spaces import Architecture, SearchSpace, Value

# Values of the choices, in the order of the space.
Values = tuple["Value", ...]
Metrics = Mapping[str, float | None]
# Column with the number of the seed, for tables with several trainings of an architecture.
SEED = "seed"
# Column with the state of a training, and its value for a network whose logits do not depend on the image.
STATE, INFEASIBLE = "state", "infeasible"
# NAS-Bench-201 names of the operations of cell201.
_NASBENCH201 = {
    "none": "none",
    "skip_connect": "skip",
    "avg_pool_3x3": "avgpool3x3",
    "nor_conv_1x1": "conv1x1",
    "nor_conv_3x3": "conv3x3",
}


@final
@dataclass(frozen=True)
class TableRow:
    """One training of an architecture.

    Attributes:
        metrics: Metrics by name; None for an empty cell or a formula whose value is not finite.
        epochs: Metrics after each epoch, from the first on; empty if the table has no columns for them.
        constant: Whether the table says that no path leads from the image to the logits.
    """

    metrics: Metrics
    epochs: tuple[Metrics, ...] = ()
    constant: bool = False


def epoch_column(name: str, epoch: int) -> str:
    """Returns the name of the column with a number after an epoch, from 1: `clean_error[3]`."""
    return f"{name}[{epoch}]"


def read_rows(path: Path, space: SearchSpace, columns: Mapping[str, str]) -> dict[Values, tuple[TableRow, ...]]:
    """Returns the trainings in a table, by the values of the choices.

    An architecture has several trainings only in a table with the column `seed`. A metric has values after each epoch if,
    for epochs from 1 on, all columns of its formula have columns with the number of the epoch, such as `clean_error[1]`.

    Args:
        path: CSV file.
        space: The search space.
        columns: A column or a formula over columns for each metric.

    Raises:
        OSError: the file cannot be read.
        DataError: the file is no table, a column is missing, a formula is invalid, or a row has no architecture of the
            space, an invalid value, or other values than an earlier row of the same architecture and seed.
    """
    try:
        table = read_cells(path)
    except ValueError as error:
        raise DataError(str(error)) from error
    header = table.header
    formulas = {name: parse_formula(text, header, f"{path}: column of {name}") for name, text in columns.items()}
    at_epochs = _formulas_at_epochs(formulas, header)
    architecture_of = _architecture_reader(table, space, path)
    rows: dict[Values, dict[str, TableRow]] = {}
    for number, cells in table.rows:
        try:
            architecture = space.validate(architecture_of(cells))
        except (ValueError, KeyError) as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        metrics = _metrics(formulas, table, cells, path, number)
        row = TableRow(
            metrics=metrics,
            epochs=tuple(_metrics(at_epoch, table, cells, path, number) for at_epoch in at_epochs),
            constant=cells.get(STATE) == INFEASIBLE and all(value is None for value in metrics.values()),
        )
        trainings = rows.setdefault(tuple(architecture.values()), {})
        if trainings.setdefault(cells.get(SEED, ""), row) != row:
            raise DataError(f"{path}, line {number}: repeats the architecture of an earlier row, with other values: {cells}")
    return {values: tuple(trainings.values()) for values, trainings in rows.items()}


def _metrics(
    formulas: Mapping[str, Formula], table: TableText, cells: Mapping[str, str], path: Path, line: int
) -> dict[str, float | None]:
    """Returns the metrics of a row.

    Raises:
        DataError: a cell is not a number, or an error is not a share.
    """
    values = {name: evaluate_formula(formula, table, cells, path, line) for name, formula in formulas.items()}
    for name, value in values.items():
        if name.endswith("_error") and value is not None and not 0 <= value <= 1:
            raise DataError(
                f"{path}, line {line}: {name} must be an error, a share from 0 to 1, got {value:g}; for an accuracy "
                "in percent, write 1 - COLUMN / 100"
            )
    return values


def _formulas_at_epochs(formulas: Mapping[str, Formula], header: tuple[str, ...]) -> list[dict[str, Formula]]:
    """Returns the formulas over the columns of each epoch. Metrics without such columns are left out."""
    at_epochs: list[dict[str, Formula]] = []
    names = set(header)
    while True:
        epoch = len(at_epochs) + 1
        at_epoch = {}
        for name, formula in formulas.items():
            columns = {variable: epoch_column(column, epoch) for variable, column in formula.columns.items()}
            if columns and names.issuperset(columns.values()):
                at_epoch[name] = replace(formula, columns=columns)
        if not at_epoch:
            return at_epochs
        at_epochs.append(at_epoch)


def _architecture_reader(table: TableText, space: SearchSpace, path: Path) -> Any:
    """Returns a function that maps the cells of a row to its architecture."""
    header = table.header
    if all(name in header for name in space.choices):
        # Maps the text of a cell to a value of the choice: "3" to the int 3, and "3,5" to 3.5 if commas do not separate the
        # columns. If the choice has the value None, an empty cell stands for it, as csv and pandas write None.
        empty = {name: {"": None} if None in choice.values else {} for name, choice in space.choices.items()}
        comma = {
            name: {str(v).replace(".", ","): v for v in choice.values if isinstance(v, float) and table.separator != ","}
            for name, choice in space.choices.items()
        }
        written = {
            name: {**empty[name], **comma[name], **{str(v): v for v in choice.values}}
            for name, choice in space.choices.items()
        }
        return lambda cells: {name: written[name].get(cells[name], cells[name]) for name in space.choices}
    if "arch" in header:
        return lambda cells: _of_nasbench201(cells["arch"])
    lacking = [name for name in space.choices if name not in header]
    raise DataError(
        f"{path}: must hold a column for each choice of {space.name}, or a column arch with NAS-Bench-201 cells; "
        f"missing: {', '.join(lacking[:6])}"
    )


def _of_nasbench201(cell: str) -> Architecture:
    """Returns the cell201 architecture of a NAS-Bench-201 string |op~0|+|op~0|op~1|+|op~0|op~1|op~2|."""
    architecture = {}
    for end, node in enumerate(cell.split("+"), start=1):
        for edge in node.strip("|").split("|"):
            operation, tilde, start = edge.partition("~")
            if not tilde or operation not in _NASBENCH201:
                raise ValueError(f"arch must be written as |nor_conv_3x3~0|+|skip_connect~0|none~1|+..., got {cell!r}")
            architecture[f"edge{start}{end}"] = _NASBENCH201[operation]
    return architecture
