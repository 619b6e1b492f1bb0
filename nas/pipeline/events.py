"""What happens in a run, as plain data: the search is a generator of these, and whoever displays it consumes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from nas.config.schema import ObjectiveConfig
from nas.study.trial import Trial
from nas.training.epoch import EpochResult


@final
@dataclass(frozen=True)
class RunStarted:
    """The search begins, or goes on.

    Attributes:
        folder: The run's folder.
        trials: Number of trials in all.
        finished: Number of trials that are finished already.
        space_size: Number of architectures in the space.
        source: What answers the trials, in words.
    """

    folder: Path
    trials: int
    finished: int
    space_size: int
    source: str


@final
@dataclass(frozen=True)
class TrialStarted:
    """A trial's training begins, or begins again.

    Attributes:
        number: Its number.
        worker: Where it runs.
    """

    number: int
    worker: str


@final
@dataclass(frozen=True)
class EpochFinished:
    """An epoch of a trial, or of a finalist, has ended.

    Attributes:
        name: 'trial 7', or the name of a bundle.
        result: The epoch.
    """

    name: str
    result: EpochResult


@final
@dataclass(frozen=True)
class TrialFinished:
    """A trial has ended, in whatever state.

    Attributes:
        trial: What the study holds of it.
        best: The best trial so far; None while there is none.
        objective: What the search is after.
    """

    trial: Trial
    best: Trial | None
    objective: ObjectiveConfig


@final
@dataclass(frozen=True)
class FinalistsLacking:
    """The run has fewer architectures than are to become bundles; all that it has do.

    Attributes:
        requested: How many were asked for.
        available: How many there are.
    """

    requested: int
    available: int


@final
@dataclass(frozen=True)
class FinalistsStarted:
    """The search has ended; these bundles are to be made.

    Attributes:
        names: Names of the bundles.
        finished: How many of them exist already.
    """

    names: tuple[str, ...]
    finished: int


@final
@dataclass(frozen=True)
class StageStarted:
    """A finalist enters a stage that has no epochs.

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
        name: Its name.
        folder: Where it is.
        clean_error: On the test split.
        adversarial_error: On the test split, at the epsilon of the search.
    """

    name: str
    folder: Path
    clean_error: float
    adversarial_error: float


@final
@dataclass(frozen=True)
class BundleFailed:
    """A candidate has no bundle that can be used.

    Attributes:
        name: Name of the bundle.
        reason: Why not.
    """

    name: str
    reason: str


@final
@dataclass(frozen=True)
class RunFinished:
    """The run is complete.

    Attributes:
        report: The report's file.
        verdicts: How the best finalist compares with each reference, a sentence each.
    """

    report: Path
    verdicts: tuple[str, ...]


Event = (
    RunStarted
    | TrialStarted
    | EpochFinished
    | TrialFinished
    | FinalistsLacking
    | FinalistsStarted
    | StageStarted
    | BundleFinished
    | BundleFailed
    | RunFinished
)
