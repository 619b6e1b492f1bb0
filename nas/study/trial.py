"""Trials of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import TYPE_CHECKING, Any, final

from optuna.trial import TrialState

from nas.errors import RunError, printable
from nas.renamed import RUNG_KEYS, rename_keys

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


# States of a trial in Hardcell, by state in Optuna. Optuna's PRUNED also covers trials that early stopping has stopped;
# `read_trial` gives them the state pruned.
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "infeasible",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


# States of finished trials.
ENDED = ("complete", "infeasible", "pruned", "failed")


@final
@dataclass(frozen=True)
class Trial:
    """One trial of a study.

    Attributes:
        number: Number of the trial, from 0.
        state: complete, infeasible (by a constraint, before training), pruned (by early stopping), failed, running, waiting.
        key: Hash of the canonical architecture; empty if it was not proposed yet.
        architecture: The canonical architecture.
        metrics: Measured metrics, by name.
        violation: Sum of the relative excesses over the constraints; 0 if feasible.
        seconds: Wall time of training and scoring, in seconds.
        reason: Reason why the trial failed, is infeasible or was pruned; None for other states.
        duplicate_of: Number of the earlier trial with the same canonical architecture, whose results are reused; else None.
        epochs: Results of the epochs, one mapping each.
        rungs: One mapping for each reached rung, an epoch at which early stopping compares trials. The keys are epoch, point
            (the compared metrics) and promoted (whether the trial continued).
        worker: Name of the worker.
        started: Start time, in seconds since 1970; None if unknown.
        ended: End time, in seconds since 1970; None if unknown.
        attempts: Number of starts, without those that the user interrupted.
        random: Whether the architecture was drawn uniformly, independent of the sampler.
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
    rungs: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    worker: str = ""
    started: float | None = None
    ended: float | None = None
    attempts: int = 0
    random: bool = False


def read_rungs(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the reached rungs of a trial from its user attributes."""
    return [rename_keys(rung, RUNG_KEYS) for rung in attributes.get("rungs", ())]


# Types of the attributes of a trial.
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("key", "worker"), (str,)),
    **dict.fromkeys(("architecture", "metrics"), (Mapping,)),
    **dict.fromkeys(("epochs", "rungs"), (list,)),
    "seconds": (int, float),
    "reason": (str, NoneType),
    "duplicate_of": (int, NoneType),
    "attempts": (int,),
    "random": (bool,),
}


def _check_attributes(number: int, attributes: Mapping[str, Any]) -> None:
    """Checks the types of a trial's attributes, because others may have written the database.

    Raises:
        RunError: an attribute has a wrong type.
    """
    metrics = attributes.get("metrics", {})
    wrong = [name for name, kinds in _TYPES.items() if name in attributes and not isinstance(attributes[name], kinds)]
    if "metrics" not in wrong and not all(isinstance(value, int | float) for value in metrics.values()):
        wrong.append("metrics")
    for name in ("epochs", "rungs"):
        if name not in wrong and not all(isinstance(entry, dict) for entry in attributes.get(name, ())):
            wrong.append(name)
    if "rungs" not in wrong:
        rungs = read_rungs(attributes)
        wrong += ["rungs"] * any(not isinstance(rung.get("epoch"), int) or "promoted" not in rung for rung in rungs)
    if wrong:
        values = ", ".join(f"{name} = {attributes[name]!r:.60}" for name in wrong)
        raise RunError(f"the study is damaged: trial {number} has attributes of a wrong type: {values}")


def read_trial(trial: FrozenTrial) -> Trial:
    """Converts an Optuna trial to a Trial, and replaces unprintable characters in its texts.

    Raises:
        RunError: an attribute of the trial has a wrong type.
    """
    attributes = trial.user_attrs
    _check_attributes(trial.number, attributes)
    rungs = read_rungs(attributes)
    reason = attributes.get("reason")
    stopped = trial.state == TrialState.PRUNED and rungs and not rungs[-1]["promoted"]
    return Trial(
        number=trial.number,
        state="pruned" if stopped else STATES[trial.state],
        key=printable(attributes.get("key", "")),
        architecture=attributes.get("architecture", trial.params),
        metrics={printable(name): value for name, value in attributes.get("metrics", {}).items()},
        violation=sum(max(0.0, value) for value in trial.constraints.values()),
        seconds=attributes.get("seconds", 0.0),
        reason=None if reason is None else printable(reason),
        duplicate_of=attributes.get("duplicate_of"),
        epochs=attributes.get("epochs", ()),
        rungs=rungs,
        worker=printable(attributes.get("worker", "")),
        started=trial.datetime_start.timestamp() if trial.datetime_start else None,
        ended=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
        attempts=attributes.get("attempts", 0),
        random=attributes.get("random", False),
    )


def read_trials(study: optuna.Study) -> list[Trial]:
    """Returns all trials of a study, ordered by number."""
    return [read_trial(trial) for trial in study.get_trials(deepcopy=False)]
