"""Tabular evaluator: looks up trials in a table of measured architectures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch

from evaluators import macs, parameters
from evaluators.table import read_cells
from nas.config.metrics import CHEAP_METRICS
from nas.config.schema import Config
from nas.errors import DataError
from nas.evaluation.base import Evaluator
from nas.evaluation.formula import evaluate_formula, parse_formula
from nas.executors.base import Precheck, TrialResult
from search_spaces import SearchSpace

if TYPE_CHECKING:
    from collections.abc import Generator

    from evaluators.table import TableText
    from nas.config.evaluators import TableEvaluatorConfig
    from nas.executors.base import Job
    from nas.training.checkpoints import Checkpoint
    from nas.training.epoch import EpochResult
    from search_spaces import Architecture, Value

Row = tuple["Value", ...]
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
class TableLookup(Evaluator):
    """Looks up candidates in a table.

    Attributes:
        config: The settings of the run.
        space: The search space.
        rows: Metrics by the values of the choices, in the order of `space.choices`; None for an empty cell or a
            formula whose value is not finite.
        digest: Hash of the table file.
        counted: Cache of counted parameters and macs, by the values of the choices.
    """

    config: Config
    space: SearchSpace
    rows: Mapping[Row, Mapping[str, float | None]] = field(repr=False)
    digest: str
    counted: dict[Row, dict[str, float]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def hashes(self) -> dict[str, str]:
        """The hash of the table."""
        return {"table": self.digest}

    @property
    def source(self) -> str:
        """Description of the table, for the display."""
        return f"a table of {len(self.rows):,} measured architectures"

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def precheck(self, job: Job) -> Precheck:
        """Returns the parameters and macs of a candidate from the table.

        If the objective needs one of them and the table does not have it, it is counted in the network.

        Raises:
            Exception: any error of the network's construction.
        """
        metrics, stored = self.config.objective.metrics(), self._row(job) or {}
        known = {name: value for name in CHEAP_METRICS if (value := stored.get(name)) is not None}
        if any(name in metrics and name not in known for name in CHEAP_METRICS):
            row = tuple(job.architecture.values())
            if row not in self.counted:
                self.counted[row] = self._count(job.architecture)
            known = self.counted[row] | known
        return Precheck(known, constant=False)

    def measure(self, job: Job, checkpoint: Checkpoint) -> Generator[EpochResult, None, TrialResult]:
        """Yields no epoch, and returns the metrics of the table."""
        yield from ()
        row = self._row(job)
        if row is None:
            return TrialResult(reason="the table does not hold this architecture")
        missing = [name for name in self._looked_up() if row.get(name) is None]
        if missing:
            return TrialResult(reason=f"the table holds no {', '.join(missing)} for this architecture")
        return TrialResult(metrics={name: value for name, value in row.items() if value is not None})

    def _looked_up(self) -> list[str]:
        """Returns the metrics of the objective that must be in the table, because they cannot be counted."""
        return [name for name in self.config.objective.metrics() if name not in CHEAP_METRICS]

    def _count(self, architecture: Architecture) -> dict[str, float]:
        settings = _settings(self.config)
        with torch.device("meta"):
            network = self.space.build(architecture, settings.image, settings.classes)
            return {"parameters": float(parameters(network)), "macs": float(macs(network, settings.image))}

    def _row(self, job: Job) -> Mapping[str, float | None] | None:
        """Returns the row of the proposed architecture, or else that of its canonical form; None if there is none."""
        for architecture in (job.proposed, job.architecture):
            row = self.rows.get(tuple(architecture.values()))
            if row is not None:
                return row
        return None


def open_table(config: Config, space: SearchSpace) -> TableLookup:
    """Returns the tabular evaluator of a config.

    Args:
        config: The settings of the run, with evaluator 'table'.
        space: The search space.

    Raises:
        DataError: the file is unreadable, a column is missing, a formula is invalid, or a row has no architecture of the
            space, an invalid value, or other values than an earlier row of the same architecture.
    """
    settings = _settings(config)
    path = Path(settings.path)
    try:
        table, digest = read_cells(path), hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(str(error)) from error
    header = table.header
    formulas = {name: parse_formula(text, header, f"{path}: column of {name}") for name, text in settings.columns.items()}
    architecture_of = _architecture_reader(table, space, path)
    rows: dict[Row, Mapping[str, float | None]] = {}
    for number, cells in table.rows:
        try:
            architecture = space.validate(architecture_of(cells))
        except (ValueError, KeyError) as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        values = {name: evaluate_formula(formula, table, cells, path, number) for name, formula in formulas.items()}
        for name, value in values.items():
            if name.endswith("_error") and value is not None and not 0 <= value <= 1:
                raise DataError(
                    f"{path}, line {number}: {name} must be an error, a share from 0 to 1, got {value:g}; for an accuracy "
                    "in percent, write 1 - COLUMN / 100"
                )
        if rows.setdefault(tuple(architecture.values()), values) != values:
            raise DataError(f"{path}, line {number}: repeats the architecture of an earlier row, with other values: {cells}")
    return TableLookup(config, space, rows, digest)


def _settings(config: Config) -> TableEvaluatorConfig:
    from nas.config.evaluators import TableEvaluatorConfig

    assert isinstance(config.evaluator, TableEvaluatorConfig)
    return config.evaluator


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
