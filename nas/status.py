"""How far a run is: plain data, for the command line and for other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.finalists import choose_finalists
from nas.run import read_run
from nas.run_folder import is_locked
from nas.study import ranked

if TYPE_CHECKING:
    from pathlib import Path

SHOWN = 5


def status_of(path: Path) -> dict[str, Any]:
    """Returns the state of a run, its counts, its best candidates, its bundles and those that are damaged.

    `state` is running, finished, or interrupted: not finished, and no process is working on it.

    Raises:
        HardcellError: there is no run in the folder, or its config or study is damaged.
    """
    run = read_run(path)
    counts = {name: sum(t.state == name for t in run.trials) for name in ("complete", "rejected", "failed", "running")}
    wanted = {candidate.name for candidate in choose_finalists(run.trials, run.config, run.config.finalists.count)}
    made = {bundle.name for bundle in run.bundles} | {bundle.folder.name for bundle in run.damaged}
    ended = len(run.trials) - counts["running"] >= run.config.search.trials
    finished = ended and made >= wanted and run.folder.report.exists()
    failures = [trial for trial in run.trials if trial.state == "failed"]
    state = "running" if is_locked(run.folder) else "finished" if finished and made else "interrupted"
    return {
        "run": str(run.folder.path),
        "state": state,
        "trials": {"total": run.config.search.trials, **counts},
        "duplicates": sum(trial.duplicate_of is not None for trial in run.trials),
        "last_failure": failures[-1].reason if failures else None,
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
