"""What the commands print in tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from evaluators import NoPowerLaw
from nas.config.metrics import CHEAP_METRICS
from nas.study.trial import ENDED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evaluators import PowerLaw
    from nas.bundle.verify import CheckResult


def print_status(found: dict[str, Any], console: Console | None = None) -> None:
    """Prints the state of a run."""
    console = console or open_console()
    trials = found["trials"]
    ended = sum(trials[name] for name in ENDED)
    console.print(f"{found['run']}: {found['state']}", soft_wrap=True, markup=False)
    console.print(
        f"{ended} of {trials['total']} trials: {trials['complete']} complete ({found['duplicates']} from the cache), "
        f"{trials['infeasible']} infeasible, {trials['pruned']} pruned, {trials['failed']} failed, "
        f"{trials['running']} running"
    )
    if found["trials_per_minute"] is not None:
        left = found["seconds_left"]
        rest = "" if left is None else f", about {duration(left)} left"
        console.print(f"{found['trials_per_minute']:g} trials a minute{rest}")
    if found["last_failure"]:
        console.print(f"last failure: {found['last_failure']}", markup=False)
    if found["workers"]:
        table = Table("worker", "trial", "for", "rungs passed", title="at work")
        for row in found["workers"]:
            seconds = "" if row["seconds"] is None else duration(row["seconds"])
            rungs = ", ".join(f"epoch {epoch}" for epoch in row["rungs"])
            table.add_row(row["worker"], str(row["trial"]), seconds, rungs)
        console.print(table)
    if found["best"]:
        metrics = list(dict.fromkeys(name for row in found["best"] for name in row["metrics"] if name in found["shown"]))
        table = Table("rank", "trial", "architecture", *(name.replace("_", " ") for name in metrics), title="validation")
        for row in found["best"]:
            told = [told_metric(name, row["metrics"][name]) if name in row["metrics"] else "" for name in metrics]
            mark = "" if row["feasible"] else " (outside the constraints)"
            table.add_row(str(row["rank"]), str(row["trial"]), row["architecture"] + mark, *told)
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


def told_metric(name: str, value: float) -> str:
    """Returns the value of a metric as people read it: counts whole, shares in three decimals."""
    return f"{value:,.0f}" if name in CHEAP_METRICS else f"{value:.3f}"


def law_cell(law: PowerLaw | NoPowerLaw) -> str:
    """Returns the exponent of a power law with its 95 % interval, as a table shows it."""
    if isinstance(law, NoPowerLaw):
        return "none"
    low, high = law.exponent_interval
    return f"{law.exponent:.2f} [{low:.2f}, {high:.2f}] up to {law.window[1]:.3g}{', saturated' * law.saturated}"


def duration(seconds: float) -> str:
    """Returns seconds as people say them: 45 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def print_verifications(outcomes: Sequence[CheckResult]) -> None:
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
