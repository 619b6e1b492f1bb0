"""Events of a run, as frozen dataclasses. The generators of the pipeline yield them, and displays consume them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from nas.config.schema import ObjectiveConfig
from nas.study.trial import Trial
from nas.tables.measurements import Measurement
from nas.training.epoch import EpochResult


@final
@dataclass(frozen=True)
class RunStarted:
    """The search begins or resumes.

    Attributes:
        folder: Folder of the run.
        trials: Total number of trials.
        finished: Number of trials that have already ended.
        space_size: Number of architectures in the space.
        source: Description of the evaluator: data and device, or table.
    """

    folder: Path
    trials: int
    finished: int
    space_size: int
    source: str


@final
@dataclass(frozen=True)
class TrialStarted:
    """The training of a trial begins or restarts.

    Attributes:
        number: Number of the trial.
        worker: Name of the worker.
    """

    number: int
    worker: str


@final
@dataclass(frozen=True)
class EpochFinished:
    """An epoch of a trial, or of the final training of a finalist or reference, has ended.

    Attributes:
        name: Name of the trial, such as 'trial 7', or of the bundle.
        result: Result of the epoch.
    """

    name: str
    result: EpochResult


@final
@dataclass(frozen=True)
class TrialFinished:
    """A trial has ended, in any state.

    Attributes:
        trial: The trial.
        best: The best complete trial so far; None if there is none.
        objective: Objective of the search.
    """

    trial: Trial
    best: Trial | None
    objective: ObjectiveConfig


@final
@dataclass(frozen=True)
class FinalistsLacking:
    """The run has fewer architectures than were requested for export; all of them are exported.

    Attributes:
        requested: Requested number of architectures.
        available: Available number of architectures.
    """

    requested: int
    available: int


@final
@dataclass(frozen=True)
class FinalistsStarted:
    """The final training, profiling and export of the finalists and references begin.

    Attributes:
        names: Names of the bundles.
        finished: Number of usable bundles that already exist.
    """

    names: tuple[str, ...]
    finished: int


@final
@dataclass(frozen=True)
class StageStarted:
    """The profile or the export of a finalist or reference begins, after its training.

    Attributes:
        name: Name of the bundle.
        stage: 'profile' or 'export'.
    """

    name: str
    stage: str


@final
@dataclass(frozen=True)
class BundleFinished:
    """A bundle is complete.

    Attributes:
        name: Name of the bundle.
        folder: Folder of the bundle.
        clean_error: Clean error on the test split, in [0, 1].
        adversarial_error: Error on the test split at the epsilon of the search, in [0, 1]; worst case over the attacks in
            the norm of the search, or over its union of norms.
    """

    name: str
    folder: Path
    clean_error: float
    adversarial_error: float


@final
@dataclass(frozen=True)
class BundleDamaged:
    """An existing bundle cannot be read. It is neither changed nor made again.

    Attributes:
        folder: Folder of the bundle.
        reason: Reason why it cannot be read.
    """

    folder: Path
    reason: str


@final
@dataclass(frozen=True)
class BundleFailed:
    """A candidate has no usable bundle.

    Attributes:
        name: Name of the bundle.
        reason: Reason why the bundle is missing or damaged.
    """

    name: str
    reason: str


@final
@dataclass(frozen=True)
class RunFinished:
    """The run is complete.

    Attributes:
        report: Path of report.html.
        verdicts: One text for each reference. It compares the best finalist with the reference.
    """

    report: Path
    verdicts: tuple[str, ...]


@final
@dataclass(frozen=True)
class TableStarted:
    """The measurement of a table begins or continues.

    Attributes:
        folder: Folder of the table.
        rows: Total number of rows: architectures times seeds.
        finished: Number of rows that exist already.
        architectures: Number of architectures.
        source: Description of data and device.
    """

    folder: Path
    rows: int
    finished: int
    architectures: int
    source: str


@final
@dataclass(frozen=True)
class MeasurementFinished:
    """A row of a table is measured, or has failed.

    Attributes:
        measurement: The row.
        finished: Number of rows that exist now.
        rows: Total number of rows.
    """

    measurement: Measurement
    finished: int
    rows: int


@final
@dataclass(frozen=True)
class TableFinished:
    """A table is complete.

    Attributes:
        table: Path of the table.
        card: Path of its data card.
        rows: Number of rows in the table, also of an earlier, longer plan.
    """

    table: Path
    card: Path
    rows: int


TableEvent = TableStarted | MeasurementFinished | TableFinished

Event = (
    RunStarted
    | TrialStarted
    | EpochFinished
    | TrialFinished
    | FinalistsLacking
    | FinalistsStarted
    | StageStarted
    | BundleFinished
    | BundleDamaged
    | BundleFailed
    | RunFinished
)
