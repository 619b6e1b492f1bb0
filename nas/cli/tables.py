"""What the commands print in tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.bundle.verify import Verification


def print_status(found: dict[str, Any]) -> None:
    """Prints the state of a run."""
    console = open_console()
    trials = found["trials"]
    ended = trials["complete"] + trials["rejected"] + trials["failed"]
    console.print(f"{found['run']}: {found['state']}", soft_wrap=True, markup=False)
    console.print(
        f"{ended} of {trials['total']} trials: {trials['complete']} complete ({found['duplicates']} from the cache), "
        f"{trials['rejected']} rejected, {trials['failed']} failed, {trials['running']} running"
    )
    if found["last_failure"]:
        console.print(f"last failure: {found['last_failure']}", markup=False)
    if found["best"]:
        table = Table("rank", "trial", "architecture", "clean error", "adversarial error", "parameters", title="validation")
        for row in found["best"]:
            metrics = row["metrics"]
            mark = "" if row["feasible"] else " (outside the constraints)"
            table.add_row(
                str(row["rank"]),
                str(row["trial"]),
                row["architecture"],
                f"{metrics['clean_error']:.3f}",
                f"{metrics['adversarial_error']:.3f}{mark}",
                f"{metrics['parameters']:,.0f}",
            )
        console.print(table)
    if found["bundles"]:
        table = Table("bundle", "role", "clean error", "adversarial error", "checks", title="test")
        for row in found["bundles"]:
            checks = ", ".join(row["failed_checks"]) + " failed" if row["failed_checks"] else "all passed"
            table.add_row(row["name"], row["role"], f"{row['clean_error']:.3f}", f"{row['adversarial_error']:.3f}", checks)
        console.print(table)
    for bundle in found["damaged"]:
        console.print(f"damaged bundle: {bundle['reason']}", soft_wrap=True, markup=False)
    if found["report"]:
        console.print(f"report: {found['report']}", soft_wrap=True, markup=False)


def print_verifications(outcomes: Sequence[Verification]) -> None:
    """Prints what was verified of a bundle, a line each."""
    console = open_console()
    words = {True: "[green]passed[/]", False: "[red]FAILED[/]", None: "[yellow]not tried[/]"}
    for outcome in outcomes:
        console.print(words[outcome.passed], end=" ")
        console.print(f"{outcome.name}: {outcome.detail}", markup=False, highlight=False, soft_wrap=True)


def open_console() -> Console:
    """Returns the console: as wide as the terminal, or where there is none as wide as what is printed."""
    console = Console()
    return console if console.is_terminal else Console(width=100_000)
