"""The command line. Heavy modules are imported inside the commands, so that `--help` is fast."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nas.cli.compare_command import compare
from nas.cli.profile_command import check_table, profile
from nas.cli.progress import INTERRUPTED
from nas.cli.requirements import finish, open_requirements, requirement_options
from nas.cli.settings import load_settings, overrides_of, setting_options
from nas.cli.space_command import space
from nas.cli.surface_command import surface
from nas.cli.tabulate_command import show_table, tabulate
from nas.cli.trust import trust_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nas.cli.requirements import RequirementArguments
    from nas.pipeline.events import Event


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> None:
    """Runs a command. For an expected error, prints the message without a traceback and exits with the error's code."""
    try:
        commands.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("\ninterrupted", err=True)
        sys.exit(INTERRUPTED)
    except OSError as error:
        _fail(_system_message(error), 2)
    except Exception as error:
        from nas.errors import HardcellError, HeadLostError

        if not isinstance(error, HardcellError):
            raise
        if isinstance(error, HeadLostError):
            click.echo(f"hardcell: {error}", err=True)
            sys.stdout.flush()
            os._exit(error.exit_code)  # Ray's functions at exit would wait for the head node.
        _fail(str(error), error.exit_code)


def _fail(message: str, code: int) -> None:
    from nas.errors import printable

    click.echo(printable(f"hardcell: {message}" if "\n" not in message else message), err=True)
    sys.exit(code)


def _system_message(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    if error.errno in _DISK_FULL:
        return f"{place}no space left to write; files already written are kept"
    return f"{place}{error.strerror or error}"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hardcell")
def commands() -> None:
    """Searches for neural networks that resist adversarial perturbations, and exports them with a measured profile."""


@commands.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--run", type=click.Path(path_type=Path), help="Folder of the run.  [default: runs/NAME-DATE-TIME]")
@click.option("--seed", type=int, help="Seed of all random numbers; the same as --set seed=N.")
@click.option("--profile-time", is_flag=True, help="At the end, also print where the seconds of a trial go.")
@setting_options("trials", "executor", "workers", "address")
def search(
    config: Path | None, run: Path | None, seed: int | None, profile_time: bool, overrides: tuple[str, ...], **short: Any
) -> None:
    """Run a search, export the best networks and write the report.

    CONFIG is a YAML file. The default config searches the space cell201 on the digits data.
    """
    from datetime import datetime

    from nas.pipeline.search import search_events

    settings = load_settings(config, [*overrides, *([f"seed={seed}"] if seed is not None else []), *overrides_of(short)])
    name = config.stem if config else settings.data.name
    folder = run or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    _show(search_events(settings, folder), folder)
    if profile_time:
        from nas.cli.tables import print_stages
        from nas.runs.run import read_run
        from nas.runs.time_profile import stage_seconds

        print_stages(stage_seconds(read_run(folder, trust=True).trials))


@commands.command()
@click.argument("run", type=click.Path(path_type=Path))
@setting_options("trials", "executor", "workers", "address")
def resume(run: Path, overrides: tuple[str, ...], **short: Any) -> None:
    """Resume the run or the table in folder RUN after an interruption.

    Options, or edits of config.yaml in the folder, can change settings such as the number of trials. Settings that all
    trials must share, such as the data, cannot change.
    """
    from nas.pipeline.search import resume_events
    from nas.pipeline.tabulate import resume_table_events
    from nas.tables.folder import is_table

    changes = [*overrides, *overrides_of(short)]
    if is_table(run):
        show_table(resume_table_events(run, changes), run)
    else:
        _show(resume_events(run, changes), run)


@commands.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--watch", is_flag=True, help="Refresh every few seconds until the run has ended.")
@click.option("--every", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Seconds between two refreshes.")
@trust_option
def status(run: Path, as_json: bool, watch: bool, every: float, trust: bool) -> None:
    """Show the progress of a run, finished or not.

    The output has the counts of trials, the workers, the best candidates and the bundles of the run in folder RUN.
    """
    from nas.cli.tables import print_status
    from nas.cli.watch import watch_status
    from nas.runs.status import run_status

    if watch:
        watch_status(run, every, as_json=as_json, trust=trust)
        return
    current = run_status(run, trust=trust)
    if as_json:
        click.echo(json.dumps(current.as_record(), indent=2))
    else:
        print_status(current)


@commands.command()
@click.argument("run", type=click.Path(path_type=Path))
@trust_option
def report(run: Path, trust: bool) -> None:
    """Write the report of a run, finished or not.

    The files are report.html and leaderboard.csv in the folder RUN.
    """
    from nas.reports.page import report as write

    click.echo(write(run, trust=trust))


@commands.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(1), default=1, show_default=True, help="Number of architectures.")
@trust_option
def export(run: Path, top: int, trust: bool) -> None:
    """Export the best architectures of a run.

    The best architectures of the run in folder RUN are retrained, profiled and written as bundles. The run need not be
    finished.
    """
    from nas.pipeline.search import export_events

    _show(export_events(run, top, trust=trust), run)


@commands.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--allow-skipped", is_flag=True, help="Exit 0 even if a check could not run.")
@click.option(
    "--data",
    metavar="PATH",
    help="Folder or file of the images.  [default: the path in the config of the bundle's run]",
)
@requirement_options
@trust_option
def verify(
    bundle: Path, as_json: bool, allow_skipped: bool, data: str | None, trust: bool, required: RequirementArguments
) -> None:
    """Verify a bundle.

    Checks the checksums of its files, compares its formats, and measures its error curves again. Exits 2 if a check fails or
    cannot run. Otherwise exits 1 if the stored profile does not meet a requirement of --require.
    """
    from dataclasses import asdict

    from nas.analysis.requirements import check_profile
    from nas.bundle.load import read_profile
    from nas.bundle.verify import verify as verify_bundle
    from nas.cli.tables import print_verifications

    requirements = open_requirements(required)
    # First, because the stored profile may lack an epsilon.
    results = check_profile(str(bundle), read_profile(bundle), requirements, point=required["point"]) if requirements else []
    outcomes = verify_bundle(bundle, data=data, trust=trust)
    failed = [outcome for outcome in outcomes if outcome.passed is False]
    skipped = [outcome for outcome in outcomes if outcome.passed is None]
    if as_json:
        content: dict[str, Any] = {
            "passed": not failed and (allow_skipped or not skipped),
            "checks": [asdict(outcome) for outcome in outcomes],
        }
        click.echo(json.dumps(content, indent=2))
    else:
        print_verifications(outcomes)
    if skipped and not allow_skipped:
        names = ", ".join(outcome.name for outcome in skipped)
        click.echo(f"hardcell: {bundle}: not checked: {names}; --allow-skipped accepts this", err=True)
    if failed or (skipped and not allow_skipped):
        sys.exit(2)
    finish(results, required, {str(bundle): str(bundle)}, to_stderr=as_json)


@commands.command()
def config() -> None:
    """Print the default config with comments.

    The output has every key and is a valid CONFIG for `hardcell search`.
    """
    from nas.config.schema import Config
    from nas.config.writer import commented_config

    click.echo(commented_config(Config()), nl=False)


commands.add_command(profile)
commands.add_command(compare)
commands.add_command(surface)
commands.add_command(check_table)
commands.add_command(space)
commands.add_command(tabulate)


def _show(events: Iterator[Event], run: Path) -> None:
    """Prints the events of a run. If the run is interrupted or the disk is full, prints how to resume the run."""
    from nas.cli.display import show

    try:
        show(events)
    except KeyboardInterrupt:
        click.echo(f"\ninterrupted; at most the running trials are lost; `hardcell resume {run}` resumes the run", err=True)
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        _fail(f"{_system_message(error)}: free space and run `hardcell resume {run}`", 2)
