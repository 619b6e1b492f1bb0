"""Public functions that start, resume and export a run, and the generators of its events."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from nas.bundle.load import open_bundles
from nas.bundle.manifest import is_bundle
from nas.config.changes import check_changes
from nas.config.evaluators import TableEvaluatorConfig
from nas.config.files import load_config
from nas.config.schema import Config
from nas.errors import ConfigError, RunError, SearchFailedError
from nas.evaluation.train_and_attack import TrainAndAttack
from nas.pipeline.controller import Controller, check_some_complete
from nas.pipeline.earlier_run import resolve_earlier_runs
from nas.pipeline.events import BundleDamaged, EpochFinished, FinalistsLacking, RunFinished, RunStarted
from nas.pipeline.prechecks import Prechecks, changed_choices, changed_networks, check_same_space
from nas.pipeline.prepare import check_same_images, prepare, with_faster_precision
from nas.pipeline.retrain import make_bundles, remove_checkpoints
from nas.reports.page import write_report
from nas.reports.verdict import verdicts
from nas.runs.environment import environment
from nas.runs.folder import RunFolder, check_unused, create_run, find_run, locked, write_config, write_environment
from nas.runs.leaderboard import write_leaderboard
from nas.runs.run import Run, read_run, study_location
from nas.spaces.options import open_space
from nas.study.finalists import choose_finalists, choose_references
from nas.study.lease import Lease
from nas.study.storage import StudyLocation, backup, check_database, close_storage, open_storage, storage_errors
from nas.study.study import config_changes, create_study, open_study, store_config
from nas.study.trial import read_trials

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nas.evaluation.base import Evaluator
    from nas.pipeline.events import Event


OnEvent = Callable[["Event"], object]
# Minimum seconds between two backups of the study.
BACKUP_SECONDS = 60.0


def search(config: Config | None = None, run: Path | str = "runs/search", *, on_event: OnEvent | None = None) -> Run:
    """Runs a search in a new folder and returns the finished run.

    Args:
        config: Settings of the search; None for the defaults.
        run: Folder of the run; it must be empty or must not exist.
        on_event: Called with each event of the run, in the caller's thread.

    Raises:
        HardcellError: the config, the data, the device or the folder is unusable, no trial is complete, or no finalist has a
            usable bundle.

    Example:
        >>> import nas
        >>> config = nas.load_config("digits.yaml", ["search.trials=2", "finalists.references=false"])
        >>> run = nas.search(config, "runs/example")
        >>> network = nas.load(run.bundles[0].folder)
    """
    _consume(search_events(config, run), on_event)
    return read_run(run, trust=True)


def resume(run: Path | str, overrides: Sequence[str] = (), *, on_event: OnEvent | None = None) -> Run:
    """Resumes a run and returns the finished run. For a finished run, only report and leaderboard are written again.

    Args:
        run: Folder of the run.
        overrides: Changed settings, as strings `section.key=value`. They are written to the run's config.
        on_event: Called with each event of the run, in the caller's thread.

    Raises:
        HardcellError: the folder holds no run that can be resumed, a setting cannot change in a run that has begun, no trial
            is complete, or no finalist has a usable bundle.

    Example:
        >>> import nas
        >>> run = nas.resume("runs/digits", ["search.trials=7"])
        >>> len(run.trials)
        7
    """
    _consume(resume_events(run, overrides), on_event)
    return read_run(run, trust=True)


def export(run: Path | str, top: int = 1, *, trust: bool = False, on_event: OnEvent | None = None) -> Run:
    """Retrains, profiles and exports the best architectures of a run, finished or not, and returns the run.

    Args:
        run: Folder of the run.
        top: Number of architectures, at least 1.
        trust: Import the code that the run's config refers to, such as a custom space.
        on_event: Called with each event, in the caller's thread.

    Raises:
        HardcellError: the folder holds no run, no trial is complete, the trials come from a table, or the config refers to
            code that is not trusted.
    """
    _consume(export_events(run, top, trust=trust), on_event)
    return read_run(run, trust=trust)


def _consume(events: Iterator[Event], on_event: OnEvent | None) -> None:
    """Consumes events and passes each to `on_event`."""
    for event in events:
        if on_event is not None:
            on_event(event)


def _logged(events: Iterator[Event]) -> Iterator[Event]:
    """Yields events and logs each. Passes the closing of this generator, and errors thrown into it, on to `events`."""
    logger = logging.getLogger("hardcell")
    for event in events:
        logger.log(logging.DEBUG if isinstance(event, EpochFinished) else logging.INFO, "%s", event)
        try:
            yield event
        except BaseException as error:
            if isinstance(events, Generator):
                events.throw(error)
            raise


def search_events(config: Config | None, run: Path | str) -> Iterator[Event]:
    """Starts a new run and returns a generator of its events, from the first trial to the report.

    Config, data, space, export and device are checked before the folder is created. The executor is already started. To stop
    it, iterate the generator to the end or delete it.

    Args:
        config: Settings of the search; None for the defaults.
        run: Folder of the run; it must be empty or must not exist.

    Raises:
        HardcellError: as for `search`.
    """
    config = resolve_earlier_runs(config or Config())
    check_unused(Path(run))
    evaluate = prepare(config)
    with ExitStack() as stack:
        with Prechecks(evaluate) as checks:
            stack.enter_context(config.search.executor.started())
            if isinstance(evaluate, TrainAndAttack):
                checks.check_exportable(checks.first_buildable(config.search.first_architectures))
        evaluate = with_faster_precision(evaluate)
        config = evaluate.config
        if config.search.storage is not None:
            check_database(config.search.storage)
        folder = create_run(Path(run), config)
        return _logged(_events(folder, evaluate, stack.pop_all()))


def resume_events(run: Path | str, overrides: Sequence[str] = ()) -> Iterator[Event]:
    """Resumes a run and returns a generator of its events. The executor is already started, as for `search_events`.

    Args:
        run: Folder of the run.
        overrides: As for `resume`.

    Raises:
        HardcellError: as for `resume`.
    """
    folder = find_run(Path(run))
    config = load_config(folder.config, overrides)
    with open_study(study_location(folder, config)) as study:
        changes = config_changes(study, config) if study is not None else {}
        trials = study.get_trials(deepcopy=False) if study is not None else []
    exported = any(is_bundle(path) for path in folder.bundles.glob("[!.]*"))
    check_changes(changes, str(folder.config), exported=exported)
    space = open_space(config.space, trust=True)
    check_same_space(space, changed_choices(trials, space))
    evaluate = prepare(config)
    check_same_images(folder, evaluate)
    finished = sum(trial.state.is_finished() for trial in trials) >= config.search.trials
    with ExitStack() as stack:
        with Prechecks(evaluate) as checks:
            if not finished:
                stack.enter_context(config.search.executor.started())
            if isinstance(evaluate, TrainAndAttack):
                checks.first_buildable()
            check_same_space(space, changed_networks(trials, evaluate, checks))
        return _logged(_events(folder, evaluate, stack.pop_all(), changed=bool(overrides)))


def export_events(run: Path | str, top: int, *, trust: bool = False) -> Iterator[Event]:
    """Exports the best architectures of a run, finished or not, and returns a generator of the events.

    Existing bundles are not changed.

    Raises:
        HardcellError: as for `export`, or top is not positive.
    """
    if top < 1:
        raise RunError(f"top must be at least 1, got {top}")
    stored = read_run(run, trust=trust)
    if stored.refused:
        raise ConfigError([f"{stored.folder.config}: {setting}" for setting in stored.refused])
    check_some_complete(list(stored.trials))
    if isinstance(stored.config.evaluator, TableEvaluatorConfig):
        raise RunError(f"{run}: its trials come from a table, so no network can be trained and exported")
    evaluate = prepare(stored.config, trust=trust)
    assert isinstance(evaluate, TrainAndAttack)
    with Prechecks(evaluate) as checks:
        checks.first_buildable()
    check_same_images(stored.folder, evaluate)
    candidates = choose_finalists(stored.trials, stored.config, top)
    lacking = [FinalistsLacking(top, len(candidates))] if len(candidates) < top else []
    return _logged(chain(lacking, make_bundles(stored.folder, candidates, evaluate)))


def _events(folder: RunFolder, evaluate: Evaluator, started: ExitStack, *, changed: bool = False) -> Iterator[Event]:
    """Runs the stages of a run and yields their events.

    Args:
        folder: Folder of the run.
        evaluate: The evaluator.
        started: Holds the started executor. It is closed after the trials.
        changed: Whether settings were changed, so that the config is written to the run's folder again.
    """
    config, location = evaluate.config, study_location(folder, evaluate.config)
    with started, locked(folder), storage_errors(location):
        backup(location)
        storage = open_storage(location, write=True)
        try:
            study = create_study(storage, location, config, evaluate.space, must_exist=folder.environment.exists())
            with Lease(study, location) if location.url is not None else nullcontext() as lease:
                store_config(study, config)
                if changed:
                    write_config(folder, config)
                write_environment(folder, environment(evaluate.device), evaluate.hashes)
                yield RunStarted(
                    folder=folder.path,
                    trials=config.search.trials,
                    finished=sum(trial.state != "running" for trial in read_trials(study)),
                    space_size=evaluate.space.size,
                    source=evaluate.source,
                )
                for bundle in open_bundles(folder.bundles)[1]:
                    yield BundleDamaged(bundle.folder, bundle.reason)
                remove_checkpoints(folder, read_trials(study))
                check = (lambda: None) if lease is None else lease.check
                try:
                    yield from Controller(study, storage, evaluate, folder.path, _regular_backup(location), check).trials()
                finally:
                    write_leaderboard(folder, read_trials(study), config.objective)
                started.close()
                trials = read_trials(study)
        finally:
            close_storage(storage)
        check_some_complete(trials)
        if isinstance(evaluate, TrainAndAttack):
            data = evaluate.data
            candidates = choose_finalists(trials, config, config.finalists.count)
            if config.finalists.references:
                candidates += choose_references(trials, config, data.input_shape, len(data.classes))
            yield from make_bundles(folder, candidates, evaluate)
        remove_checkpoints(folder, trials)
        finished = read_run(folder.path, trust=True)
        write_report(finished, trust=True)
        if isinstance(evaluate, TrainAndAttack) and not any(bundle.role == "finalist" for bundle in finished.bundles):
            raise SearchFailedError(f"none of the finalists has a usable bundle; {folder.report} shows the search")
        yield RunFinished(folder.report, tuple(str(v) for v in verdicts(finished)))


def _regular_backup(location: StudyLocation) -> Callable[[], None]:
    """Returns a function to call after each trial. It writes a backup of the study, but at most one a minute."""
    due = 0.0

    def write() -> None:
        nonlocal due
        started = time.monotonic()
        if started >= due:
            backup(location)
            # Backups of a large study take at most about 1 % of the time.
            due = time.monotonic() + max(BACKUP_SECONDS, 100 * (time.monotonic() - started))

    return write
