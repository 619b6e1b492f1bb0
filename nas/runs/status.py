"""How far a run is: plain data, for the command line and for other programs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nas.config.evaluators import TableEvaluatorConfig
from nas.config.metrics import STANDARD_METRICS
from nas.runs.folder import is_locked
from nas.runs.run import read_run
from nas.study.finalists import choose_finalists
from nas.study.ranking import ranked
from nas.study.trial import ENDED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nas.study.trial import Trial

SHOWN = 5
# The speed of a search is that of its last so many trials.
RECENT = 30


def speed_of(trials: Sequence[Trial], since: float = 0.0) -> float | None:
    """Returns how many trials end in a minute, from the last that have ended since some time; None before two have."""
    ended = sorted(
        (t.ended, max(t.started, since)) for t in trials if t.ended is not None and t.started is not None and t.ended > since
    )[-RECENT:]
    seconds = ended[-1][0] - min(started for _, started in ended) if ended else 0.0
    return 60 * len(ended) / seconds if len(ended) > 1 and seconds > 0 else None


def status_of(path: Path | str) -> dict[str, Any]:
    """Returns the state of a run: counts, speed, workers, its best candidates, its bundles and those that are damaged.

    `state` is running, finished, or interrupted: not finished, and no process is working on it.

    Raises:
        HardcellError: there is no run in the folder, or its config or study is damaged.
    """
    run = read_run(path)
    counts = {name: sum(t.state == name for t in run.trials) for name in (*ENDED, "running")}
    count = 0 if isinstance(run.config.evaluator, TableEvaluatorConfig) else run.config.finalists.count
    wanted = {candidate.name for candidate in choose_finalists(run.trials, run.config, count)}
    made = {bundle.name for bundle in run.bundles} | {bundle.folder.name for bundle in run.damaged}
    ended = len(run.trials) - counts["running"] >= run.config.search.trials
    finished = ended and made >= wanted and run.folder.report.exists()
    failures = [trial for trial in run.trials if trial.state == "failed"]
    state = "running" if is_locked(run.folder) else "finished" if finished and (made or not count) else "interrupted"
    speed, left = speed_of(run.trials, run.session or 0.0), run.config.search.trials - sum(counts[name] for name in ENDED)
    # A trial that a killed process left running has no worker until it is started again.
    at_work = [t for t in run.trials if t.state == "running" and t.worker] if state == "running" else []
    return {
        "run": str(run.folder.path),
        "state": state,
        "trials": {"total": run.config.search.trials, **counts},
        "trials_per_minute": None if speed is None else round(speed, 2),
        "seconds_left": round(60 * left / speed) if speed and state == "running" else None,
        "workers": [
            {
                "worker": trial.worker,
                "trial": trial.number,
                "seconds": None if trial.started is None else round(time.time() - max(trial.started, run.session or 0.0)),
                "rungs": [rung["epoch"] for rung in trial.rungs],
            }
            for trial in at_work
        ],
        "duplicates": sum(trial.duplicate_of is not None for trial in run.trials),
        "last_failure": failures[-1].reason if failures else None,
        "shown": list(dict.fromkeys([*run.config.objective.metrics(), *STANDARD_METRICS])),
        "best": [
            {
                "rank": rank,
                "trial": trial.number,
                "architecture": trial.key,
                "metrics": dict(trial.metrics),
                "feasible": trial.violation == 0,
            }
            for rank, trial in enumerate(ranked(run.trials, run.config.objective)[:SHOWN], start=1)
        ],
        "bundles": [
            {
                "name": bundle.name,
                "role": bundle.role,
                "folder": str(bundle.folder),
                "clean_error": bundle.profile.record["clean_error"],
                "adversarial_error": bundle.profile.error_at(run.config.evaluation.epsilon, run.config.norm),
                "failed_checks": bundle.profile.failed_checks(),
            }
            for bundle in run.bundles
        ],
        "damaged": [{"folder": str(bundle.folder), "reason": bundle.reason} for bundle in run.damaged],
        "report": str(run.folder.report) if run.folder.report.exists() else None,
    }
