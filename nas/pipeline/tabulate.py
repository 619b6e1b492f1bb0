"""Public functions that train and measure the architectures of a space for a table, and the generator of their events."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.config.files import load_config
from nas.config.metrics import CHEAP_METRICS
from nas.data import open_test
from nas.errors import RunError, SearchFailedError, format_error
from nas.evaluation.train_and_attack import TrainAndAttack
from nas.evaluation.train_and_tabulate import TrainAndTabulate
from nas.executors import Job, Precheck, TrialResult
from nas.pipeline.events import MeasurementFinished, TableFinished, TableStarted
from nas.pipeline.prechecks import COMPARED, Prechecks, context_of
from nas.pipeline.prepare import check_same_images, prepare, with_faster_precision
from nas.runs.environment import environment
from nas.runs.folder import locked, write_environment
from nas.tables.card import write_card
from nas.tables.folder import TableFolder, is_table, open_folder, read_plan
from nas.tables.measurements import Measurement, append_measurement, read_measurements
from nas.tables.plan import TablePlan, planned_architectures, planned_jobs, seed_number
from nas.tables.write import is_reserved, write_table
from nas.training.checkpoints import trial_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from nas.config.schema import Config
    from nas.pipeline.events import TableEvent
    from search_spaces import Architecture


def tabulate(
    config: Config,
    folder: Path | str,
    *,
    architectures: int | None = None,
    seeds: int = 1,
    on_event: Callable[[TableEvent], object] | None = None,
) -> Path:
    """Trains and measures architectures of a search space, and returns the path of the table, a gzipped CSV file.

    Each is trained as in a search with this config, but without objective, constraints and early stopping. Given again for
    the same folder, the function measures what is missing or has failed, also for more architectures or seeds.

    Args:
        config: Settings of data, space, training, evaluation and executor. The errors are measured at all its epsilons.
        folder: Folder of the table: new, empty, or that of a table with the same settings.
        architectures: Number of architectures, drawn at random from those that differ; None for all.
        seeds: Number of trainings of each architecture.
        on_event: Called with each event, in the caller's thread.

    Raises:
        HardcellError: the config, the data, the device or the folder is unusable, or nothing could be measured.

    Example:
        >>> import nas
        >>> config = nas.load_config("digits.yaml", ["training.epochs=1"])
        >>> nas.tabulate(config, "tables/digits", architectures=2).name
        'table.csv.gz'
    """
    path = TableFolder(Path(folder).expanduser().resolve()).table
    for event in tabulate_events(config, folder, architectures=architectures, seeds=seeds):
        if on_event is not None:
            on_event(event)
    return path


def tabulate_events(
    config: Config, folder: Path | str, *, architectures: int | None = None, seeds: int = 1
) -> Iterator[TableEvent]:
    """Starts or continues a table and returns a generator of its events. Everything is checked before the first event.

    Args:
        config: As for `tabulate`.
        folder: As for `tabulate`.
        architectures: As for `tabulate`.
        seeds: As for `tabulate`.

    Raises:
        HardcellError: as for `tabulate`.
        ValueError: architectures or seeds is out of range.
    """
    plan, path = TablePlan(architectures, seeds), Path(folder).expanduser().resolve()
    config = replace(
        config,
        objective=replace(config.objective, minimise=("adversarial_error",), constraints={}),
        search=replace(config.search, stopping=None, first=()),
    )
    if TableFolder(path).run.config.exists() and is_table(path) and config.training.precision == "auto":
        # The precision was chosen when the table began.
        began = load_config(TableFolder(path).run.config, build_space=False)
        config = replace(config, training=replace(config.training, precision=began.training.precision))
    evaluate = prepare(config)
    if not isinstance(evaluate, TrainAndAttack):
        raise RunError("a table is made by training, so evaluator must be train")
    space = evaluate.space
    if taken := [name for name in space.choices if is_reserved(name)]:
        raise RunError(f"space {space.name}: its choice {taken[0]!r} has the name of another column of a table; rename it")
    planned = planned_architectures(space, plan, config.seed)
    with ExitStack() as stack:
        with Prechecks(evaluate) as checks:
            stack.enter_context(config.search.executor.started())
            checks.first_buildable(planned)
            _check_same_networks(path, evaluate, checks)
        config = with_faster_precision(evaluate).config
        tabulator = TrainAndTabulate(config, space, evaluate.data, open_test(config.data))
        check_same_images(TableFolder(path).run, tabulator)
        table = open_folder(path, config, plan)
        return _events(table, tabulator, planned, plan, stack.pop_all())


def resume_table_events(folder: Path | str, overrides: Sequence[str] = ()) -> Iterator[TableEvent]:
    """Continues a table with its stored plan, and returns a generator of its events.

    Args:
        folder: Folder of a table.
        overrides: Changed settings, as strings `section.key=value`. Those that the rows must share cannot change.

    Raises:
        HardcellError: as for `tabulate`, or the plan is damaged.
    """
    table = TableFolder(Path(folder).expanduser().resolve())
    plan = read_plan(table)
    config = load_config(table.run.config, overrides)
    return tabulate_events(config, table.path, architectures=plan.architectures, seeds=plan.seeds)


def _events(
    table: TableFolder, evaluate: TrainAndTabulate, planned: list[Architecture], plan: TablePlan, started: ExitStack
) -> Iterator[TableEvent]:
    """Runs the jobs that a table lacks or that failed before, and yields their events.

    Table and card are written at the end, and when the generator is closed or raises an error.
    """
    config, space, logger = evaluate.config, evaluate.space, logging.getLogger("hardcell")
    with started, locked(table.run):
        measured = {(m.key, m.seed): m for m in read_measurements(table.measurements)}
        ended = {place for place, m in measured.items() if m.state != "failed"}
        jobs = list(planned_jobs(space, planned, plan, config.seed))
        missing = [job for job in jobs if (space.key(job.architecture), seed_number(job)) not in ended]
        if missing:
            write_environment(table.run, environment(evaluate.device), evaluate.hashes)
        finished = len(jobs) - len(missing)
        yield TableStarted(table.path, len(jobs), finished, len(planned), evaluate.source)
        known: dict[int, Precheck] = {}
        try:
            context = context_of(config, evaluate, table.path, lambda job, epoch: False)
            for job, event in config.search.executor.run(iter(missing), context) if missing else ():
                if isinstance(event, Precheck):
                    known[job.number] = event
                elif isinstance(event, TrialResult):
                    measurement = _measurement(evaluate, job, known.pop(job.number, None), event)
                    append_measurement(table.measurements, measurement)
                    measured[measurement.key, measurement.seed] = measurement
                    trial_file(table.path, job.number).unlink(missing_ok=True)
                    finished += 1
                    logger.info(
                        "%s seed %d: %s", measurement.key, measurement.seed, measurement.reason or measurement.metrics
                    )
                    yield MeasurementFinished(measurement, finished, len(jobs))
        finally:
            rows = list(measured.values())
            if rows:
                write_table(table.table, rows, [space.key(architecture) for architecture in planned])
            if any(m.state == "complete" for m in rows):
                write_card(table, config, rows)
        if not any(m.state == "complete" for m in rows):
            reason = rows[-1].reason
            raise SearchFailedError(f"none of {len(rows)} trainings could be measured: {reason}; a resume tries them again")
        yield TableFinished(table.table, table.card, len(measured))


def _check_same_networks(path: Path, evaluate: TrainAndAttack, checks: Prechecks) -> None:
    """Checks that the space still builds the first networks of a table that is continued.

    Raises:
        RunError: the space has other choices or builds other networks.
    """
    measured = read_measurements(TableFolder(path).measurements)
    for m in [m for m in measured if m.state == "complete"][:COMPARED]:
        try:
            canonical = evaluate.space.canonical(evaluate.space.validate(m.architecture))
            change = "" if canonical == m.architecture else f"its canonical form is {canonical}"
        except Exception as error:  # A custom space may raise any error.
            change = format_error(error)
        if not change:
            known = checks.precheck(Job(-1, m.architecture, m.architecture, seed=0))
            counts = {name: m.metrics[name] for name in CHEAP_METRICS}
            if isinstance(known, str):
                change = known
            elif known.metrics != counts:
                change = f"its network has {known.metrics}, and had {counts}"
        if change:
            raise RunError(
                f"space {evaluate.space.name}: has changed since the table began, but all rows must come from one space: "
                f"architecture {m.key}: {change}; undo the change, or choose another folder"
            )


def _measurement(evaluate: TrainAndTabulate, job: Job, known: Precheck | None, result: TrialResult) -> Measurement:
    return Measurement.of(evaluate.space.key(job.architecture), seed_number(job), job.architecture, known, result)
