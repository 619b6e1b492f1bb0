"""The Optuna study of a run, which holds all results of a search.

Optuna's parameters of a trial hold the proposed architecture. Its user attributes hold the canonical architecture, the
metrics, the epochs and other results. optuna-dashboard and pandas can read all of them.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from nas.config.changes import changed_settings
from nas.config.writer import as_data
from nas.errors import RunError
from nas.samplers import StudySampler
from nas.study.storage import open_storage, release, storage_errors
from nas.study.trial import Trial, read_trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from optuna.storages import RDBStorage

    from nas.config.schema import Config, ObjectiveConfig
    from nas.executors import Precheck, TrialResult
    from nas.study.storage import StudyLocation
    from search_spaces import SearchSpace

# Attribute of a study: start time of the process that runs the search, in seconds since 1970.
SESSION = "session"


def create_study(
    storage: RDBStorage, location: StudyLocation, config: Config, space: SearchSpace, *, must_exist: bool = False
) -> optuna.Study:
    """Returns the study of a run with its sampler. A missing study is created.

    Args:
        storage: The database.
        location: Location of the study.
        config: The settings of the run.
        space: The search space.
        must_exist: Whether a missing study is an error, as for a resumed run.

    Raises:
        RunError: the database is damaged, or the study is missing and must exist.
    """
    with storage_errors(location):
        if must_exist and location.name not in optuna.get_all_study_names(storage):
            raise RunError(f"{location}: the study of the run is missing; restore it, or start a new run")
        directions = [StudyDirection.MINIMIZE] * len(config.objective.minimise)
        search = config.search
        sampler = StudySampler(
            search.sampler, space, seed=config.seed, random_trials=search.random_trials, first=search.first_architectures
        )
        study = optuna.create_study(
            study_name=location.name, storage=storage, directions=directions, sampler=sampler, load_if_exists=True
        )
        if "config" not in study.user_attrs and not study.get_trials(deepcopy=False):
            with _experimental():
                study.set_metric_names(list(config.objective.minimise))
            store_config(study, config)
        return study


def store_config(study: optuna.Study, config: Config) -> None:
    """Stores the config in the study. `config_changes` compares a later config with it."""
    if study.user_attrs.get("config") != as_data(config):
        study.set_user_attr("config", as_data(config))


def config_changes(study: optuna.Study, config: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the settings that differ from those of a study, by dotted key, with the stored and the new value."""
    stored = study.user_attrs.get("config")
    return {} if stored is None else changed_settings(stored, config)


@contextmanager
def open_study(location: StudyLocation) -> Iterator[optuna.Study | None]:
    """Context manager that opens the study of a run for reading. Its value is None if the study does not exist.

    Raises:
        RunError: the database is damaged.
    """
    if location.url is None and not location.path.exists():
        yield None
        return
    storage = open_storage(location)
    try:
        with storage_errors(location):
            exists = location.name in optuna.get_all_study_names(storage)
            yield optuna.load_study(study_name=location.name, storage=storage) if exists else None
    finally:
        release(storage)


def tell_outcome(
    study: optuna.Study, trial: optuna.Trial, objective: ObjectiveConfig, known: Precheck | None, outcome: TrialResult
) -> Trial:
    """Writes the result of a trial to the study and ends the trial. Returns the trial.

    Args:
        study: The study.
        trial: The trial.
        objective: Objective of the search.
        known: Properties of the candidate that need no training; None if its network could not be built.
        outcome: Result of the trial.
    """
    cheap = known.metrics if known is not None else {}
    metrics = {**cheap, **outcome.metrics}
    if metrics:
        trial.set_user_attr("metrics", metrics)
    trial.set_user_attr("seconds", round(outcome.seconds, 4))
    if outcome.epochs:
        trial.set_user_attr("epochs", [dataclasses.asdict(epoch) for epoch in outcome.epochs])
    if outcome.reason is not None:
        return tell_failed(study, trial, outcome.reason)
    if outcome.infeasible is not None:
        if known is not None and known.constant:
            set_constraint(trial, "path", 1.0)
        set_constraints(trial, objective, cheap)
        return tell_pruned(study, trial, outcome.infeasible)
    if outcome.stopped is not None:
        set_constraints(trial, objective, cheap)
        return tell_pruned(study, trial, f"pruned by successive halving at epoch {outcome.stopped}")
    if outcome.radii:
        trial.set_user_attr("radii", dict(outcome.radii))
    return tell_values(study, trial, objective, metrics)


def tell_values(study: optuna.Study, trial: optuna.Trial, objective: ObjectiveConfig, metrics: Mapping[str, float]) -> Trial:
    """Ends a trial as complete with its objectives and constraints, or as failed if one of them is not finite."""
    odd = [f"{name} is {metrics[name]}" for name in objective.metrics() if not math.isfinite(metrics[name])]
    if odd:
        return tell_failed(study, trial, ", ".join(odd))
    set_constraints(trial, objective, metrics)
    return read_trial(study.tell(trial, [metrics[name] for name in objective.minimise]))


@contextmanager
def _experimental() -> Iterator[None]:
    """Suppresses Optuna's warnings about experimental methods."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def set_constraints(trial: optuna.Trial, objective: ObjectiveConfig, metrics: Mapping[str, float]) -> None:
    """Sets the constraint of each measured metric with a bound: the excess, divided by the absolute bound if it is not 0."""
    for name, bound in objective.constraints.items():
        if name in metrics:
            set_constraint(trial, name, (metrics[name] - bound) / (abs(bound) or 1.0))


def set_constraint(trial: optuna.Trial, name: str, excess: float) -> None:
    """Sets a constraint of a trial, unless a killed process has already set it. The constraint holds if excess <= 0."""
    with _experimental():
        if name not in trial.constraints:
            trial.set_constraint(name, excess)


def tell_failed(study: optuna.Study, trial: optuna.Trial, reason: str) -> Trial:
    """Ends a trial as failed, with a reason."""
    trial.set_user_attr("reason", reason)
    return read_trial(study.tell(trial, state=TrialState.FAIL))


def tell_pruned(study: optuna.Study, trial: optuna.Trial, reason: str) -> Trial:
    """Ends a trial as pruned: infeasible before training, or stopped early."""
    trial.set_user_attr("reason", reason)
    return read_trial(study.tell(trial, state=TrialState.PRUNED))
