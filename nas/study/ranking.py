"""Ranking of trials: feasible trials first, and with several objectives the Pareto front before the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nas.pareto import MOST_OBJECTIVES, front_ranks, hypervolume_history, hypervolume_subset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.config.schema import ObjectiveConfig
    from nas.study.trial import Trial

# Maximum number of front members that are ordered by their hypervolume gain.
MOST_SPREAD = 30


def sort_key(trial: Trial, objective: ObjectiveConfig) -> tuple[float, tuple[float, ...], int]:
    """Returns the sort key of a complete trial: violation, values of the objectives in the config's order, number.

    If any trial is feasible, the first trial in this order is on the Pareto front.
    """
    return trial.violation, _values(trial, objective), trial.number


def _values(trial: Trial, objective: ObjectiveConfig) -> tuple[float, ...]:
    return tuple(trial.metrics[name] for name in objective.minimise)


def front(trials: Sequence[Trial], objective: ObjectiveConfig) -> list[Trial]:
    """Returns the Pareto front: the non-dominated complete and feasible trials, without duplicate architectures.

    The first trial is the best one by the first objective. With two to five objectives, each of the next trials, up to the
    30th, adds the most hypervolume to the earlier ones. The others are in the order of `sort_key`. In each objective, the
    reference point of the hypervolume is slightly worse than the worst value. With one objective, the front holds all trials
    with the best value.
    """
    feasible = [trial for trial in _unique(trials) if trial.violation == 0]
    if not feasible:
        return []
    points = np.array([_values(trial, objective) for trial in feasible])
    members = [feasible[i] for i in np.flatnonzero(front_ranks(points) == 0)]
    members = sorted(members, key=lambda trial: sort_key(trial, objective))
    if not 1 < points.shape[1] <= MOST_OBJECTIVES:
        return members
    # Slightly worse than the worst values, so that the extreme points have a positive gain.
    reference = points.max(0) + 0.1 * np.ptp(points, axis=0)
    chosen = hypervolume_subset([_values(trial, objective) for trial in members], MOST_SPREAD, reference.tolist())
    rest = [i for i in range(len(members)) if i not in {*chosen}]
    return [members[i] for i in [*chosen, *rest]]


def ranked(trials: Sequence[Trial], objective: ObjectiveConfig) -> list[Trial]:
    """Returns the complete trials from best to worst, without duplicate architectures.

    The order is: the Pareto front, the other feasible trials by their objectives in order, the infeasible ones by violation.
    """
    complete = sorted(_unique(trials), key=lambda trial: sort_key(trial, objective))
    if len(objective.minimise) == 1:
        return complete
    best = front(complete, objective)
    numbers = {trial.number for trial in best}
    return [*best, *(trial for trial in complete if trial.number not in numbers)]


def hypervolume_so_far(trials: Sequence[Trial], objective: ObjectiveConfig) -> list[tuple[int, float]]:
    """Returns the number of each complete and feasible trial, and the hypervolume of all such trials up to it.

    The unit is the volume of the box between the best and the worst value of each objective. The list is empty for fewer
    than two feasible trials or more than five objectives.
    """
    feasible = [trial for trial in trials if trial.state == "complete" and trial.violation == 0]
    points = np.array([_values(trial, objective) for trial in feasible], dtype=np.float64)
    if len(points) < 2 or points.shape[1] > MOST_OBJECTIVES:
        return []
    low, high = points.min(0), points.max(0)
    # An objective that does not vary counts as a side of length 1.
    scaled = (points - low) / np.where(high > low, high - low, 1.0)
    history = hypervolume_history(scaled, [1.0] * points.shape[1])
    return [(trial.number, float(share)) for trial, share in zip(feasible, history, strict=True)]


def _unique(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the first complete trial of each architecture."""
    return list({trial.key: trial for trial in reversed(trials) if trial.state == "complete"}.values())
