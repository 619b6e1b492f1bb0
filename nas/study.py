"""The study: Optuna's record of the trials, the only truth about a search.

Everything known of a trial is in the study, so that optuna-dashboard and pandas can read it: the architecture as
parameters, the metrics, epochs and all else as user attributes.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from nas.config_writer import as_data
from nas.errors import RunError
from nas.samplers import SeededSampler, quiet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from optuna.trial import FrozenTrial

    from nas.config import Config, ObjectiveConfig
    from nas.executors import Outcome

NAME = "hardcell"
# The states of a trial in our words.
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "rejected",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@final
@dataclass(frozen=True)
class Trial:
    """What the study knows of one trial.

    Attributes:
        number: Its number, from 0.
        state: complete, rejected (by a constraint, before training), failed, running or waiting.
        key: Hash of the canonical architecture; empty if it was not proposed yet.
        architecture: The canonical architecture.
        metrics: Metrics by name; those that are known.
        violation: Sum of the excesses over the constraints; 0 where it is feasible.
        seconds: Wall time of training and scoring.
        reason: Why it failed or was rejected.
        duplicate_of: Number of the trial whose results it shares.
        epochs: One mapping an epoch.
        attempts: How often it was started, but for the times that the user interrupted it.
        random: Drawn uniformly, whatever the sampler.
    """

    number: int
    state: str
    key: str
    architecture: Mapping[str, Any]
    metrics: Mapping[str, float]
    violation: float
    seconds: float
    reason: str | None
    duplicate_of: int | None
    epochs: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    attempts: int = 0
    random: bool = False


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns what a database raises into a message: a full disk, a damaged file."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = getattr(error, "orig", None) or error.__cause__ or error
        raise RunError(
            f"{path}: {getattr(cause, 'orig', cause)}; the trials told so far are kept, and `hardcell resume` goes on"
        ) from error


def open_storage(path: Path) -> RDBStorage:
    """Returns the database in a SQLite file, made where there is none.

    Raises:
        RunError: the file is damaged, or no database.
    """
    quiet()
    with storage_errors(path):
        # Not as text: a path may hold a question mark, which would end it.
        return RDBStorage(URL.create("sqlite", database=str(path)).render_as_string())


def open_study(storage: RDBStorage, path: Path, config: Config | None = None) -> optuna.Study:
    """Returns the study in a database: made for the config where there is none, only read if config is None.

    Raises:
        RunError: the database holds no study of ours, is damaged, or belongs to another config.
    """
    with storage_errors(path):
        try:
            if config is None:
                return optuna.load_study(study_name=NAME, storage=storage)
            directions = [StudyDirection.MINIMIZE] * len(config.objective.minimise)
            search = config.search
            sampler = SeededSampler(search.sampler, seed=config.seed, random_trials=search.random_trials, first=search.first)
            study = optuna.create_study(
                study_name=NAME, storage=storage, directions=directions, sampler=sampler, load_if_exists=True
            )
        except KeyError as error:
            raise RunError(f"{path}: holds no study of ours") from error
        stored = study.user_attrs.get("config")
        if stored is None and not study.get_trials(deepcopy=False):
            with _experimental():
                study.set_metric_names(list(config.objective.minimise))
            study.set_user_attr("config", as_data(config))
        elif stored != as_data(config):
            raise RunError(f"{path}: belongs to another config: {_difference(stored, as_data(config))}")
        return study


def _difference(stored: Any, wanted: Any, path: str = "") -> str:
    """Returns the first difference of two trees, in words."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in [*stored, *wanted]:
            if stored.get(key) != wanted.get(key):
                return _difference(stored.get(key), wanted.get(key), f"{path}.{key}".lstrip("."))
    return f"{path or 'the config'} is {stored!r} in the study and {wanted!r} here"


def read_trial(trial: FrozenTrial) -> Trial:
    """Returns what a trial of the study holds."""
    attributes = trial.user_attrs
    return Trial(
        number=trial.number,
        state=STATES[trial.state],
        key=attributes.get("key", ""),
        architecture=attributes.get("architecture", trial.params),
        metrics=attributes.get("metrics", {}),
        violation=sum(max(0.0, value) for value in trial.constraints.values()),
        seconds=attributes.get("seconds", 0.0),
        reason=attributes.get("reason"),
        duplicate_of=attributes.get("duplicate_of"),
        epochs=attributes.get("epochs", ()),
        attempts=attributes.get("attempts", 0),
        random=attributes.get("random", False),
    )


def read_trials(study: optuna.Study) -> list[Trial]:
    """Returns all trials of a study, by number."""
    return [read_trial(trial) for trial in study.get_trials(deepcopy=False)]


def tell_outcome(
    study: optuna.Study, trial: optuna.Trial, objective: ObjectiveConfig, metrics: Mapping[str, float], outcome: Outcome
) -> None:
    """Writes the outcome of a trial into the study, and ends it."""
    trial.set_user_attr("metrics", {**metrics, **outcome.metrics})
    trial.set_user_attr("seconds", round(outcome.seconds, 4))
    trial.set_user_attr("worker", outcome.worker)
    trial.set_user_attr("epochs", [dataclasses.asdict(epoch) for epoch in outcome.epochs])
    if outcome.reason is not None:
        tell_failed(study, trial, outcome.reason)
        return
    trial.set_user_attr("radii", dict(outcome.radii))
    tell_values(study, trial, objective, {**metrics, **outcome.metrics})


def tell_values(study: optuna.Study, trial: optuna.Trial, objective: ObjectiveConfig, metrics: Mapping[str, float]) -> None:
    """Ends a trial as complete, with the values of its objectives and constraints."""
    set_constraints(trial, objective, metrics)
    study.tell(trial, [metrics[name] for name in objective.minimise])


@contextmanager
def _experimental() -> Iterator[None]:
    """Keeps Optuna's notices about experimental methods out of the display."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def set_constraints(trial: optuna.Trial, objective: ObjectiveConfig, metrics: Mapping[str, float]) -> None:
    """Sets the constraints whose metrics are known: the excess over the bound, relative to it where it is not 0."""
    for name, bound in objective.constraints.items():
        if name in metrics:
            set_constraint(trial, name, (metrics[name] - bound) / (abs(bound) or 1.0))


def set_constraint(trial: optuna.Trial, name: str, excess: float) -> None:
    """Sets a constraint of a trial, feasible where the excess is 0 or less; what a killed process has set already stays."""
    with _experimental():
        if name not in trial.constraints:
            trial.set_constraint(name, excess)


def tell_failed(study: optuna.Study, trial: optuna.Trial, reason: str) -> None:
    """Ends a trial as failed, with its reason."""
    trial.set_user_attr("reason", reason)
    study.tell(trial, state=TrialState.FAIL)


def tell_rejected(study: optuna.Study, trial: optuna.Trial, reason: str) -> None:
    """Ends a trial that a constraint rules out before any training: pruned, which samplers see as infeasible."""
    trial.set_user_attr("reason", reason)
    study.tell(trial, state=TrialState.PRUNED)


def ranked(trials: Sequence[Trial], objective: ObjectiveConfig) -> list[Trial]:
    """Returns the complete trials from best to worst, each architecture once.

    Feasible ones come first, by Pareto front membership and then by the first objective; then the others, by how far they
    exceed the constraints.
    """
    unique = {trial.key: trial for trial in reversed(trials) if trial.state == "complete"}
    complete = list(unique.values())
    feasible = [trial for trial in complete if trial.violation == 0]
    points = {trial.number: [trial.metrics[name] for name in objective.minimise] for trial in complete}

    def dominated(trial: Trial) -> bool:
        mine = points[trial.number]
        return any(
            all(a <= b for a, b in zip(points[other.number], mine, strict=True)) and points[other.number] != mine
            for other in feasible
        )

    if len(objective.minimise) > 1:
        return sorted(complete, key=lambda t: (t.violation, dominated(t), points[t.number], t.number))
    return sorted(complete, key=lambda t: (t.violation, points[t.number], t.number))
