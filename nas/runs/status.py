"""Status of a run: counts of trials, workers, best candidates and bundles."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from evaluators.profiles.union import error_over_union
from nas.bundle.load import DamagedBundle
from nas.config.evaluators import TableEvaluatorConfig
from nas.config.metrics import STANDARD_METRICS
from nas.errors import RunError
from nas.runs.folder import is_locked
from nas.runs.run import UNOPENED, read_run
from nas.runs.time_profile import stage_seconds
from nas.study.finalists import choose_finalists
from nas.study.ranking import ranked
from nas.study.trial import ENDED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.bundle.load import Bundle
    from nas.config.schema import Config
    from nas.runs.run import Run
    from nas.study.trial import Trial

# Number of best trials in a status.
SHOWN = 5
# Number of last trials from which the speed of a search is computed.
RECENT = 30


def speed_of(trials: Sequence[Trial], since: float = 0.0) -> float | None:
    """Returns the number of trials a minute, from the last trials that ended; None if fewer than two have ended.

    Args:
        trials: Trials of the study.
        since: Start of the measured period, in seconds since 1970. Trials that ended earlier are ignored. For a trial that
            started earlier, only the time from `since` counts.
    """
    ended = sorted(
        (t.ended, max(t.started, since)) for t in trials if t.ended is not None and t.started is not None and t.ended > since
    )[-RECENT:]
    seconds = ended[-1][0] - min(started for _, started in ended) if ended else 0.0
    return 60 * len(ended) / seconds if len(ended) > 1 and seconds > 0 else None


@final
@dataclass(frozen=True)
class WorkerStatus:
    """A worker and its trial.

    Attributes:
        worker: Name of the worker.
        trial: Number of the trial.
        seconds: Time since the trial began, or since the run was resumed if that is later; None if unknown.
        rungs: Epochs at which early stopping has compared the trial with others (rungs).
    """

    worker: str
    trial: int
    seconds: int | None
    rungs: tuple[int, ...]


@final
@dataclass(frozen=True)
class CandidateStatus:
    """One of the best trials.

    Attributes:
        rank: Rank, from 1.
        trial: Number of the trial.
        architecture: Key of the architecture.
        metrics: Metrics on the validation split, by name.
        feasible: Whether the constraints of the objective hold.
    """

    rank: int
    trial: int
    architecture: str
    metrics: Mapping[str, float]
    feasible: bool


@final
@dataclass(frozen=True)
class BundleStatus:
    """An exported bundle.

    Attributes:
        name: Name of the bundle: rank and hash of a finalist, role and hash of a reference.
        role: finalist, random or residual.
        folder: Folder of the bundle.
        clean_error: Clean error on the test split, in [0, 1].
        adversarial_error: Error on the test split at the search's epsilon, worst case over the attacks in the search's norm,
            or over its union of norms.
        failed_checks: Names of the failed checks of its profile.
    """

    name: str
    role: str
    folder: Path
    clean_error: float
    adversarial_error: float
    failed_checks: tuple[str, ...]


@final
@dataclass(frozen=True)
class RunStatus:
    """The state of a run.

    Attributes:
        run: Folder of the run.
        state: running, finished, or interrupted (not finished, and no process works on the run).
        trials: Numbers of trials: `total`, the number in the config, and the number in each state.
        trials_per_minute: Speed of the last trials; None until two have ended since the last start or resume.
        seconds_left: Estimated seconds for the remaining trials; None if the run is not running or the speed is unknown.
        workers: Workers with a running trial.
        duplicates: Number of trials with the metrics of an earlier trial of an equivalent architecture.
        last_failure: Reason of the last failed trial; None if no trial failed.
        stage_seconds: Mean seconds that each stage of a complete trial took, by name; {} if unknown.
        shown: Names of the metrics that a table of the status shows.
        best: The best trials, at most SHOWN.
        bundles: Finalists, best first, then references.
        damaged: Bundles that cannot be read.
        report: Path of the report; None before it is written.
    """

    run: Path
    state: Literal["running", "finished", "interrupted"]
    trials: Mapping[str, int]
    trials_per_minute: float | None
    seconds_left: int | None
    workers: tuple[WorkerStatus, ...]
    duplicates: int
    last_failure: str | None
    stage_seconds: Mapping[str, float]
    shown: tuple[str, ...]
    best: tuple[CandidateStatus, ...]
    bundles: tuple[BundleStatus, ...]
    damaged: tuple[DamagedBundle, ...]
    report: Path | None

    def as_record(self) -> dict[str, Any]:
        """Returns the status as plain data, as `hardcell status --json` prints it."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return plain


def run_status(path: Path | str, *, trust: bool = False) -> RunStatus:
    """Returns the status of a run: counts of trials, speed, workers, best candidates and bundles.

    Args:
        path: Folder of the run.
        trust: Import the code that the config refers to, and open its database.

    Raises:
        HardcellError: the folder holds no run, its config or study is damaged, or its study is in a database that is not
            trusted.

    Example:
        >>> import nas
        >>> status = nas.status("runs/digits")
        >>> status.state, status.trials["complete"]
        ('finished', 6)
    """
    run = read_run(path, trust=trust)
    if run.config.search.storage is not None and not trust:
        raise RunError(f"{path}: search.storage {UNOPENED}")
    counts = {name: sum(t.state == name for t in run.trials) for name in (*ENDED, "running")}
    ended = sum(counts[name] for name in ENDED)
    left = run.config.search.trials - ended
    state = _state(run, ended)
    speed = speed_of(run.trials, run.session or 0.0)
    failures = [trial for trial in run.trials if trial.state == "failed"]
    return RunStatus(
        run=run.folder.path,
        state=state,
        trials={"total": run.config.search.trials, **counts},
        trials_per_minute=None if speed is None else round(speed, 2),
        seconds_left=round(60 * left / speed) if speed and state == "running" else None,
        workers=_workers(run) if state == "running" else (),
        duplicates=sum(trial.duplicate_of is not None for trial in run.trials),
        last_failure=failures[-1].reason if failures else None,
        stage_seconds=stage_seconds(run.trials),
        shown=tuple(dict.fromkeys([*run.config.objective.metrics(), *STANDARD_METRICS])),
        best=tuple(
            CandidateStatus(rank, trial.number, trial.key, dict(trial.metrics), trial.violation == 0)
            for rank, trial in enumerate(ranked(run.trials, run.config.objective)[:SHOWN], start=1)
        ),
        bundles=tuple(_bundle(bundle, run.config) for bundle in run.bundles),
        damaged=run.damaged,
        report=run.folder.report if run.folder.report.exists() else None,
    )


def _state(run: Run, ended: int) -> Literal["running", "finished", "interrupted"]:
    if is_locked(run.folder) or run.leased:
        return "running"
    count = 0 if isinstance(run.config.evaluator, TableEvaluatorConfig) else run.config.finalists.count
    wanted = {candidate.name for candidate in choose_finalists(run.trials, run.config, count)}
    made = {bundle.name for bundle in run.bundles} | {bundle.folder.name for bundle in run.damaged}
    complete = ended >= run.config.search.trials and made >= wanted and run.folder.report.exists()
    return "finished" if complete and (made or not count) else "interrupted"


def _workers(run: Run) -> tuple[WorkerStatus, ...]:
    """Returns the workers with a running trial. If a process died, its trials have no worker until they restart."""
    now, session = time.time(), run.session or 0.0
    return tuple(
        WorkerStatus(
            worker=trial.worker,
            trial=trial.number,
            seconds=None if trial.started is None else round(now - max(trial.started, session)),
            rungs=tuple(rung["epoch"] for rung in trial.rungs),
        )
        for trial in run.trials
        if trial.state == "running" and trial.worker
    )


def _bundle(bundle: Bundle, config: Config) -> BundleStatus:
    return BundleStatus(
        name=bundle.name,
        role=bundle.role,
        folder=bundle.folder,
        clean_error=bundle.profile.record["clean_error"],
        adversarial_error=error_over_union(bundle.profile, config.evaluation.epsilon, config.norm),
        failed_checks=tuple(bundle.profile.failed_checks()),
    )
