"""Tabular evaluator: looks up trials in a table of measured architectures."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch

from evaluators import macs, parameters
from nas.config.metrics import CHEAP_METRICS
from nas.config.schema import Config
from nas.errors import DataError
from nas.evaluation.base import Evaluator
from nas.evaluation.table_rows import TableRow, Values, epoch_column, read_rows
from nas.executors.base import Precheck, TrialResult
from nas.seeds import seed_of
from nas.training.epoch import EpochResult
from search_spaces import SearchSpace

if TYPE_CHECKING:
    from collections.abc import Generator

    from nas.config.evaluators import TableEvaluatorConfig
    from nas.executors.base import Job
    from nas.training.checkpoints import Checkpoint
    from search_spaces import Architecture


@final
@dataclass(frozen=True)
class TableLookup(Evaluator):
    """Looks up candidates in a table.

    Attributes:
        config: The settings of the run.
        space: The search space.
        rows: Trainings by the values of the choices, in the order of `space.choices`. A trial draws one of them.
        digest: Hash of the table file.
        counted: Cache of counted parameters and macs, by the values of the choices.
    """

    config: Config
    space: SearchSpace
    rows: Mapping[Values, tuple[TableRow, ...]] = field(repr=False)
    digest: str
    counted: dict[Values, dict[str, float]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def hashes(self) -> dict[str, str]:
        """The hash of the table."""
        return {"table": self.digest}

    @property
    def source(self) -> str:
        """Description of the table, for the display."""
        return f"a table of {len(self.rows):,} measured architectures"

    @property
    def _columns(self) -> Mapping[str, str]:
        return _settings(self.config).columns

    @property
    def error(self) -> str:
        """Metric that stands for the adversarial error of an epoch.

        It is adversarial_error, or else the first objective that needs training.
        """
        names = [name for name in self.config.objective.minimise if name not in CHEAP_METRICS]
        return "adversarial_error" if "adversarial_error" in self._columns or not names else names[0]

    @cached_property
    def epochs(self) -> int:
        """Number of epochs, from the first on, after which the table has the errors of trainings; 0 if it has none."""
        row = next(iter(self.rows.values()))[0]  # All rows have the same columns.
        return len(list(itertools.takewhile(lambda metrics: self.error in metrics, row.epochs)))

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
        row = self._row(job)
        metrics, stored = self.config.objective.metrics(), row.metrics if row is not None else {}
        known = {name: value for name in CHEAP_METRICS if (value := stored.get(name)) is not None}
        if any(name in metrics and name not in known for name in CHEAP_METRICS):
            values = tuple(job.architecture.values())
            if values not in self.counted:
                self.counted[values] = self._count(job.architecture)
            known = self.counted[values] | known
        return Precheck(known, constant=row is not None and row.constant)

    def measure(self, job: Job, checkpoint: Checkpoint) -> Generator[EpochResult, None, TrialResult]:
        """Yields the epochs of a training, if the table has them, and returns its metrics."""
        row = self._row(job)
        if row is None:
            return TrialResult(reason="the table does not hold this architecture")
        stopping, count = self.config.search.stopping, self.epochs
        rungs = stopping.rungs(count) if stopping is not None else {}
        compared = [self.error, *(["clean_error"] if "clean_error" in self.config.objective.minimise else [])]
        for epoch, metrics in enumerate(row.epochs[:count], start=1):
            empty = [name for name in compared if metrics.get(name) is None]
            if empty and not rungs:
                break  # Without early stopping, the epochs are not needed.
            error = metrics[self.error]
            if empty or error is None:
                return TrialResult(reason=f"the table holds no {epoch_column(empty[0], epoch)} for this architecture")
            yield EpochResult(
                epoch,
                count,
                loss=None,
                clean_error=metrics.get("clean_error"),
                adversarial_error=error,
                seconds=0.0,
                rung=epoch in rungs,
            )
        missing = [name for name in self._looked_up() if row.metrics.get(name) is None]
        if missing:
            return TrialResult(reason=f"the table holds no {', '.join(missing)} for this architecture")
        return TrialResult(metrics={name: value for name, value in row.metrics.items() if value is not None})

    def _looked_up(self) -> list[str]:
        """Returns the metrics of the objective that must be in the table, because they cannot be counted."""
        return [name for name in self.config.objective.metrics() if name not in CHEAP_METRICS]

    def _count(self, architecture: Architecture) -> dict[str, float]:
        settings = _settings(self.config)
        with torch.device("meta"):
            network = self.space.build(architecture, settings.image, settings.classes)
            return {"parameters": float(parameters(network)), "macs": float(macs(network, settings.image))}

    def _row(self, job: Job) -> TableRow | None:
        """Returns the row of the proposed architecture, or else that of its canonical form; None if there is none.

        The job's seed decides between several trainings.
        """
        for architecture in (job.proposed, job.architecture):
            rows = self.rows.get(tuple(architecture.values()))
            if rows is not None:
                return rows[seed_of(job.seed, "row") % len(rows)]
        return None


def open_table(config: Config, space: SearchSpace) -> TableLookup:
    """Returns the tabular evaluator of a config.

    Args:
        config: The settings of the run, with evaluator 'table'.
        space: The search space.

    Raises:
        DataError: the file is unreadable, has no epochs for early stopping, or `read_rows` raises this error.
    """
    settings, path = _settings(config), Path(_settings(config).path)
    try:
        rows, digest = read_rows(path, space, settings.columns), hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    lookup = TableLookup(config, space, rows, digest)
    _check_stopping(lookup, path)
    return lookup


def _check_stopping(lookup: TableLookup, path: Path) -> None:
    """Checks that a table has the epochs that early stopping needs.

    Raises:
        DataError: it has none, or too few for a rung.
    """
    stopping, error = lookup.config.search.stopping, lookup.error
    if stopping is None:
        return
    if not lookup.epochs:
        raise DataError(
            f"{path}: has no {error} after each epoch, which search.stopping needs: columns that end in [1], [2] and so on, "
            "for each column of its formula, as `hardcell tabulate` writes them; or set search.stopping to null"
        )
    if not stopping.rungs(lookup.epochs):
        raise DataError(f"{path}: search.stopping has no rung in its {lookup.epochs} epochs; lower search.stopping.first")


def _settings(config: Config) -> TableEvaluatorConfig:
    from nas.config.evaluators import TableEvaluatorConfig

    assert isinstance(config.evaluator, TableEvaluatorConfig)
    return config.evaluator
