"""Table of all trials of a run, leaderboard.csv."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from nas.config.metrics import STANDARD_METRICS
from nas.files import write_atomic
from nas.study.ranking import front

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.config.schema import ObjectiveConfig
    from nas.runs.folder import RunFolder
    from nas.study.trial import Trial


def write_leaderboard(run: RunFolder, trials: Sequence[Trial], objective: ObjectiveConfig) -> None:
    """Writes leaderboard.csv: a row for each trial, by number; column `front` marks the Pareto front."""
    best = {trial.number for trial in front(trials, objective)}
    metrics = list(dict.fromkeys([*STANDARD_METRICS, *(name for trial in trials for name in trial.metrics)]))
    columns = ["number", "state", "architecture", *metrics, "seconds", "violation", "front", "duplicate_of", "random"]
    columns += ["rungs", "worker", "reason"]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(map(_text, columns))
    for trial in trials:
        table.writerow(
            [
                trial.number,
                trial.state,
                _text(trial.key),
                *(trial.metrics.get(name, "") for name in metrics),
                trial.seconds,
                trial.violation,
                trial.number in best,
                "" if trial.duplicate_of is None else trial.duplicate_of,
                trial.random,
                " ".join(str(rung["epoch"]) for rung in trial.rungs),
                _text(trial.worker),
                _text(trial.reason or ""),
            ]
        )
    write_atomic(run.leaderboard, text.getvalue())


def _text(value: str) -> str:
    """Returns text that a spreadsheet does not read as a formula."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
