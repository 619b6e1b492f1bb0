"""Where the seconds of the trials go."""

from __future__ import annotations

from statistics import mean
from typing import TYPE_CHECKING

from nas.training.stopwatch import STAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.study.trial import Trial

# Time of a trial outside its epochs: building the network, and attacks on the validation images after the training.
SCORING = "scoring"


def stage_seconds(trials: Sequence[Trial]) -> dict[str, float]:
    """Returns the mean seconds of each stage of the trials that were trained and scored; {} if there are none.

    The time of a resumed trial is that of its last attempt only. If this is less than the time of all its epochs, the time
    of its scoring is unknown and does not enter the mean.

    Args:
        trials: Trials of a study.
    """
    timed = [t for t in trials if t.state == "complete" and t.epochs and all(_stages(epoch) for epoch in t.epochs)]
    if not timed:
        return {}
    means = {stage: mean(sum(_stages(epoch).get(stage, 0.0) for epoch in t.epochs) for t in timed) for stage in STAGES}
    rests = [t.seconds - sum(float(epoch["seconds"]) for epoch in t.epochs) for t in timed]
    means[SCORING] = mean([rest for rest in rests if rest >= 0] or [0.0])
    return {stage: round(seconds, 4) for stage, seconds in means.items()}


def _stages(epoch: object) -> dict[str, float]:
    """Returns the seconds of the stages of a stored epoch; {} if it has none, such as one of an earlier version."""
    stages = epoch.get("stages") if isinstance(epoch, dict) else None
    if not isinstance(stages, dict) or "seconds" not in epoch:  # type: ignore[operator]
        return {}
    return {name: value for name, value in stages.items() if isinstance(value, int | float)}
