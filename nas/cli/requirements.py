"""Options for requirements, shared by `hardcell profile`, `compare` and `verify`."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, final

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nas.analysis.requirements import Requirement, RequirementResult


@final
class RequirementArguments(TypedDict):
    """Unparsed options for requirements.

    Attributes:
        require: Requirements as text.
        point: Compare measured numbers instead of their intervals.
        junit: File of JUnit XML to write; None for none.
        sarif: File of SARIF to write; None for none.
    """

    require: tuple[str, ...]
    point: bool
    junit: Path | None
    sarif: Path | None


def requirement_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options --require, --point, --junit and --sarif to a command, which gets them as its argument `required`."""

    @functools.wraps(command)
    def with_requirements(
        require: tuple[str, ...], point: bool, junit: Path | None, sarif: Path | None, **others: Any
    ) -> None:
        command(required=RequirementArguments(require=require, point=point, junit=junit, sarif=sarif), **others)

    path, decorated = click.Path(path_type=Path), with_requirements
    for option in (
        click.option("--sarif", type=path, metavar="FILE", help="Write unmet requirements as SARIF."),
        click.option("--junit", type=path, metavar="FILE", help="Write the results of the requirements as JUnit XML."),
        click.option(
            "--point", is_flag=True, help="Compare the measured numbers with the requirements, not their 95 % intervals."
        ),
        click.option(
            "--require",
            multiple=True,
            metavar="REQUIREMENT",
            help="Exit 1 unless a measured number meets a bound, such as 'adversarial_error@8/255 <= 0.5'; repeatable. The "
            "whole 95 % interval of an error must meet the bound. Metrics: clean_error, adversarial_error@E (@E:l2 for L2, "
            "@E:l1 for L1), failed_checks, parameters and macs.",
        ),
    ):
        decorated = option(decorated)
    return decorated


def open_requirements(
    options: RequirementArguments, out: Path | None = None, *, counts: bool = True
) -> tuple[Requirement, ...]:
    """Returns the requirements of a command. Removes earlier reports, and so checks that reports can be written.

    Args:
        options: Options of the command.
        out: Folder that the command will create; None for none. Reports may be written into it.
        counts: Whether the command measures failed_checks, parameters and macs.

    Raises:
        ConfigError: a requirement is not valid, or an option needs --require.
        RunError: a report cannot be written.
    """
    from nas.analysis.requirements import parse_requirements
    from nas.cli.output_folder import writing
    from nas.errors import ConfigError, RunError

    reports: dict[str, Path | None] = {"--junit": options["junit"], "--sarif": options["sarif"]}
    if not options["require"]:
        given = [name for name, value in (*reports.items(), ("--point", options["point"])) if value]
        if given:
            raise ConfigError([f"{name} needs --require" for name in given])
    requirements = parse_requirements(options["require"], point=options["point"], counts=counts)
    files = {name: file.absolute() for name, file in reports.items() if file is not None}
    if len(set(files.values())) < len(files):
        raise ConfigError(["--junit and --sarif must name different files"])
    for name, file in files.items():
        if out is not None and file.parent == out.absolute() and not file.exists():
            continue
        if file.is_dir() or not file.parent.is_dir():
            reason = "is a folder" if file.is_dir() else f"there is no folder {Path(reports[name] or file).parent}"
            raise RunError(f"{name} {reports[name]}: {reason}; name a file in an existing folder")
        # After an error, the report of an earlier run would look like one of this run.
        with writing(file):
            file.write_text("", encoding="utf-8")
            file.unlink()
    return requirements


def finish(
    results: Sequence[RequirementResult], options: RequirementArguments, places: Mapping[str, str], *, to_stderr: bool
) -> None:
    """Writes the reports, prints a table of the results, and exits with 1 if a requirement is not met.

    Args:
        results: Results of the requirements; if there are none, nothing is done.
        options: Options of the command.
        places: Path or full name of each network, by name.
        to_stderr: Print the table to the standard error stream.

    Raises:
        RunError: a report cannot be written.
    """
    if not results:
        return
    from nas.analysis.requirement_reports import junit, sarif
    from nas.cli.output_folder import writing
    from nas.cli.tables import print_requirements

    print_requirements(results, point=options["point"], to_stderr=to_stderr)
    if (file := options["junit"]) is not None:
        with writing(file):
            file.write_text(junit(results), encoding="utf-8")
    if (file := options["sarif"]) is not None:
        with writing(file):
            file.write_text(sarif(results, places), encoding="utf-8")
    if not all(result.met for result in results):
        sys.exit(1)
