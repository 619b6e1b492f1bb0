"""A trial as the study holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from optuna.trial import TrialState

from nas.renamed import RUNG_KEYS, rename_keys

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


# The states of a trial in our words.
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "infeasible",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


# Those of them in which a trial has ended.
ENDED = ("complete", "infeasible", "pruned", "failed")


@final
@dataclass(frozen=True)
class Trial:
    """What the study knows of one trial.

    Attributes:
        number: Its number, from 0.
        state: complete, infeasible (by a constraint, before training), pruned (by early stopping), failed, running, waiting.
        key: Hash of the canonical architecture; empty if it was not proposed yet.
        architecture: The canonical architecture.
        metrics: Metrics by name; those that are known.
        violation: Sum of the excesses over the constraints; 0 where it is feasible.
        seconds: Wall time of training and scoring.
        reason: Why it failed or was infeasible.
        duplicate_of: Number of the trial whose results it shares.
        epochs: One mapping an epoch.
        rungs: One mapping for each rung that it reached: epoch, point (what it was judged by), and whether it went on.
        worker: Where it runs, or ran.
        started: When, in seconds since 1970; None where that is not known.
        ended: When it ended, likewise.
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
    rungs: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    worker: str = ""
    started: float | None = None
    ended: float | None = None
    attempts: int = 0
    random: bool = False


def read_rungs(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rungs that a trial has reached, from its attributes in the study."""
    return [rename_keys(rung, RUNG_KEYS) for rung in attributes.get("rungs", ())]


def read_trial(trial: FrozenTrial) -> Trial:
    """Returns what a trial of the study holds."""
    attributes = trial.user_attrs
    rungs = read_rungs(attributes)
    stopped = trial.state == TrialState.PRUNED and rungs and not rungs[-1]["promoted"]
    return Trial(
        number=trial.number,
        state="pruned" if stopped else STATES[trial.state],
        key=attributes.get("key", ""),
        architecture=attributes.get("architecture", trial.params),
        metrics=attributes.get("metrics", {}),
        violation=sum(max(0.0, value) for value in trial.constraints.values()),
        seconds=attributes.get("seconds", 0.0),
        reason=attributes.get("reason"),
        duplicate_of=attributes.get("duplicate_of"),
        epochs=attributes.get("epochs", ()),
        rungs=rungs,
        worker=attributes.get("worker", ""),
        started=trial.datetime_start.timestamp() if trial.datetime_start else None,
        ended=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
        attempts=attributes.get("attempts", 0),
        random=attributes.get("random", False),
    )


def read_trials(study: optuna.Study) -> list[Trial]:
    """Returns all trials of a study, by number."""
    return [read_trial(trial) for trial in study.get_trials(deepcopy=False)]
