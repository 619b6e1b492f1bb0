"""Which trials are best: feasible ones before others, and of several objectives the Pareto front before the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nas.pareto import MOST_OBJECTIVES, front_ranks, hypervolume_history, hypervolume_subset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.config.schema import ObjectiveConfig
    from nas.study.trial import Trial

# Of a larger front only so many are put in the order of the hypervolume that they add.
MOST_SPREAD = 30


def sort_key(trial: Trial, objective: ObjectiveConfig) -> tuple[float, tuple[float, ...], int]:
    """Returns what a complete trial is ranked by, where one is best: violation, objectives in order, number.

    The least in this order is on the Pareto front.
    """
    return trial.violation, _values(trial, objective), trial.number


def _values(trial: Trial, objective: ObjectiveConfig) -> tuple[float, ...]:
    return tuple(trial.metrics[name] for name in objective.minimise)


def front(trials: Sequence[Trial], objective: ObjectiveConfig) -> list[Trial]:
    """Returns the Pareto front: the complete, feasible trials that no other one dominates, each architecture once.

    The first is the best by the first objective; each further one adds the most hypervolume to those before it, measured up
    to the worst value of each objective. With one objective the front is the best trial, and those that equal it.
    """
    feasible = [trial for trial in _unique(trials) if trial.violation == 0]
    if not feasible:
        return []
    points = np.array([_values(trial, objective) for trial in feasible])
    members = [feasible[i] for i in np.flatnonzero(front_ranks(points) == 0)]
    members = sorted(members, key=lambda trial: sort_key(trial, objective))
    if not 1 < points.shape[1] <= MOST_OBJECTIVES:
        return members
    # A little beyond the worst, so that the ends of the front add something, too.
    reference = points.max(0) + 0.1 * np.ptp(points, axis=0)
    chosen = hypervolume_subset([_values(trial, objective) for trial in members], MOST_SPREAD, reference.tolist())
    rest = [i for i in range(len(members)) if i not in {*chosen}]
    return [members[i] for i in [*chosen, *rest]]


def ranked(trials: Sequence[Trial], objective: ObjectiveConfig) -> list[Trial]:
    """Returns the complete trials from best to worst, each architecture once.

    Feasible ones come first: the Pareto front in its order, then the others by the first objective; then those that are not
    feasible, by how far they exceed the constraints.
    """
    complete = sorted(_unique(trials), key=lambda trial: sort_key(trial, objective))
    if len(objective.minimise) == 1:
        return complete
    best = front(complete, objective)
    numbers = {trial.number for trial in best}
    return [*best, *(trial for trial in complete if trial.number not in numbers)]


def hypervolume_so_far(trials: Sequence[Trial], objective: ObjectiveConfig) -> list[tuple[int, float]]:
    """Returns, for every complete and feasible trial, its number and the hypervolume of those up to it.

    In units of the box between the best and the worst value of each objective over all of them; empty where these are not
    at least two, or there are more than five objectives.
    """
    feasible = [trial for trial in trials if trial.state == "complete" and trial.violation == 0]
    points = np.array([_values(trial, objective) for trial in feasible], dtype=np.float64)
    if len(points) < 2 or points.shape[1] > MOST_OBJECTIVES:
        return []
    low, high = points.min(0), points.max(0)
    # What does not vary is no side of the box.
    scaled = (points - low) / np.where(high > low, high - low, 1.0)
    history = hypervolume_history(scaled, [1.0] * points.shape[1])
    return [(trial.number, float(share)) for trial, share in zip(feasible, history, strict=True)]


def _unique(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the complete trials, of each architecture the first."""
    return list({trial.key: trial for trial in reversed(trials) if trial.state == "complete"}.values())
