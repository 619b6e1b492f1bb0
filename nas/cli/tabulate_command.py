"""`hardcell tabulate`: trains and measures many architectures of a space, for a table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nas.cli.progress import INTERRUPTED, progress_bar
from nas.cli.settings import load_settings, overrides_of, setting_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nas.pipeline.events import TableEvent
    from nas.tables.measurements import Measurement


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--architectures", type=click.IntRange(1), metavar="N", help="Number of architectures, drawn at random.")
@click.option("--all", "everything", is_flag=True, help="All architectures of the space that differ.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=1, metavar="K", help="Trainings of each.  [default: 1]")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the table.  [default: tables/NAME]")
@setting_options("executor", "workers", "address")
def tabulate(
    config: Path | None,
    architectures: int | None,
    everything: bool,
    seeds: int,
    out: Path | None,
    overrides: tuple[str, ...],
    **short: Any,
) -> None:
    """Train and measure many architectures, and write a table of them.

    CONFIG is as for `hardcell search`; its objective, sampler and number of trials have no effect. The errors are measured
    at evaluation.epsilon and evaluation.epsilons, after each epoch and at the end, on validation and test images. Given
    again, the command continues the table, also with more architectures or seeds. The table is a CSV file for
    `evaluator: {name: table}` and for pandas.
    """
    from nas.errors import ConfigError
    from nas.pipeline.tabulate import tabulate_events

    if everything == (architectures is not None):
        raise ConfigError(["give either --architectures N or --all"])
    settings = load_settings(config, [*overrides, *overrides_of(short)])
    folder = out or Path("tables") / (config.stem if config else settings.data.name)
    show_table(tabulate_events(settings, folder, architectures=architectures, seeds=seeds), folder)


def show_table(events: Iterator[TableEvent], folder: Path) -> None:
    """Prints the events of a table. If it is interrupted, prints how to continue it.

    Args:
        events: The events.
        folder: Folder of the table, for the message.
    """
    from nas.pipeline.events import MeasurementFinished, TableFinished, TableStarted

    try:
        with progress_bar() as report:
            for event in events:
                match event:
                    case TableStarted():
                        done = f", {event.finished:,} of them measured already" if event.finished else ""
                        rows = f"{event.rows:,} trainings of {event.architectures:,} architectures{done}"
                        click.echo(f"table {event.folder}\n{rows}, {event.source}")
                    case MeasurementFinished():
                        if report is None:
                            click.echo(f"{event.finished:,}/{event.rows:,}  {_line(event.measurement)}")
                        else:
                            report(_line(event.measurement), event.finished / event.rows)
                    case TableFinished():
                        click.echo(f"table: {event.table}, {event.rows:,} rows\ndata card: {event.card}")
    except KeyboardInterrupt:
        click.echo(
            f"\ninterrupted; only running trainings are lost; `hardcell resume {folder}` continues the table",
            err=True,
        )
        sys.exit(INTERRUPTED)


def _line(measurement: Measurement) -> str:
    name = f"{measurement.key} seed {measurement.seed}"
    if measurement.state != "complete":
        return f"{name}  {measurement.state}: {measurement.reason}"
    metrics = measurement.metrics
    errors = f"adversarial error {metrics['adversarial_error']:.3f}, clean {metrics['clean_error']:.3f}"
    return f"{name}  {errors}, {metrics['parameters']:,.0f} parameters, {measurement.seconds:.1f} s"
