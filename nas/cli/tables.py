"""Tables that commands print, and formats of their cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evaluators import NoPowerLaw
from evaluators.curves.local_exponent import LocalExponent
from nas.config.metrics import CHEAP_METRICS
from nas.errors import printable
from nas.formatting import format_p_value
from nas.study.trial import ENDED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evaluators import PowerLaw
    from evaluators.curves.local_exponent import NoLocalExponent
    from nas.analysis.requirements import RequirementResult
    from nas.bundle.verify import CheckResult
    from nas.runs.status import RunStatus


def print_status(status: RunStatus, console: Console | None = None) -> None:
    """Prints the state of a run."""
    console = console or open_console()
    trials = status.trials
    ended = sum(trials[name] for name in ENDED)
    console.print(f"{status.run}: {status.state}", soft_wrap=True, markup=False)
    console.print(
        f"{ended} of {trials['total']} trials: {trials['complete']} complete ({status.duplicates} duplicates), "
        f"{trials['infeasible']} infeasible, {trials['pruned']} pruned, {trials['failed']} failed, "
        f"{trials['running']} running"
    )
    if status.trials_per_minute is not None:
        left = status.seconds_left
        rest = "" if left is None else f", about {duration(left)} left"
        console.print(f"{status.trials_per_minute:g} trials a minute{rest}")
    if status.stage_seconds:
        console.print(format_stages(status.stage_seconds))
    if status.last_failure:
        console.print(f"last failure: {printable(status.last_failure)}", markup=False)
    if status.workers:
        table = Table("worker", "trial", "running for", "rungs passed", title="running trials")
        for worker in status.workers:
            seconds = "" if worker.seconds is None else duration(worker.seconds)
            rungs = ", ".join(f"epoch {epoch}" for epoch in worker.rungs)
            table.add_row(cell(worker.worker), str(worker.trial), seconds, rungs)
        console.print(table)
    if status.best:
        metrics = list(
            dict.fromkeys(name for candidate in status.best for name in candidate.metrics if name in status.shown)
        )
        names = [cell(name.replace("_", " ")) for name in metrics]
        table = Table("rank", "trial", "architecture", *names, title="validation")
        for candidate in status.best:
            cells = [format_metric(name, candidate.metrics[name]) if name in candidate.metrics else "" for name in metrics]
            mark = "" if candidate.feasible else " (outside the constraints)"
            table.add_row(str(candidate.rank), str(candidate.trial), cell(candidate.architecture) + mark, *cells)
        console.print(table)
    if status.bundles:
        table = Table("bundle", "role", "clean error", "adversarial error", "checks", title="test")
        for bundle in status.bundles:
            checks = ", ".join(bundle.failed_checks) + " failed" if bundle.failed_checks else "all passed"
            table.add_row(
                cell(bundle.name), cell(bundle.role), f"{bundle.clean_error:.3f}", f"{bundle.adversarial_error:.3f}", checks
            )
        console.print(table)
    for damaged in status.damaged:
        console.print(f"damaged bundle: {printable(damaged.reason)}", soft_wrap=True, markup=False)
    if status.report:
        console.print(f"report: {status.report}", soft_wrap=True, markup=False)


def format_stages(seconds: Mapping[str, float]) -> str:
    """Returns one line with the time of a trial and the share of each stage, the longest stage first."""
    total = sum(seconds.values())
    shares = sorted(seconds.items(), key=lambda item: -item[1])
    return f"a trial takes {f'{total:.1f} s' if total < 10 else duration(total)}: " + ", ".join(
        f"{name} {value / (total or 1):.0%}" for name, value in shares
    )


def print_stages(seconds: Mapping[str, float]) -> None:
    """Prints a table of the mean time that each stage of a complete trial took."""
    if not seconds:
        open_console().print("no trial was timed")
        return
    total = sum(seconds.values()) or 1.0
    table = Table("stage", "seconds", "share", title="time of a trial (mean)")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.2f}", f"{value / total:.0%}")
    table.add_row("total", f"{total:.2f}", "100%")
    open_console().print(table)


def cell(text: str) -> str:
    """Returns text as the cell of a table: markup is escaped, and control characters are replaced."""
    return escape(printable(text))


def format_metric(name: str, value: float) -> str:
    """Returns the value of a metric as text: parameters and macs as integers, other metrics with three decimals."""
    return f"{value:,.0f}" if name in CHEAP_METRICS else f"{value:.3f}"


def law_cell(law: PowerLaw | NoPowerLaw) -> str:
    """Returns the table cell of a power law: exponent, 95 % interval, end of its window, saturation and a rejected fit."""
    if isinstance(law, NoPowerLaw):
        return "none"
    low, high = law.exponent_interval
    rejected = f", fit rejected, {format_p_value(law.p_value)}" if law.fit == "rejected" else ""
    return f"{law.exponent:.2f} [{low:.2f}, {high:.2f}] up to {law.window[1]:.3g}{', saturated' * law.saturated}{rejected}"


def local_cell(local: LocalExponent | NoLocalExponent) -> str:
    """Returns the table cell of a local exponent: exponent, 95 % interval and end of its window."""
    if not isinstance(local, LocalExponent):
        return "none"
    low, high = local.interval
    return f"{local.exponent:.2f} [{low:.2f}, {high:.2f}] up to {local.window[1]:.3g}"


def duration(seconds: float) -> str:
    """Returns a duration as text: 45 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def print_verifications(outcomes: Sequence[CheckResult]) -> None:
    """Prints a line for each check of a bundle."""
    console = open_console()
    words = {True: "[green]passed[/]", False: "[red]FAILED[/]", None: "[yellow]not run[/]"}
    for outcome in outcomes:
        console.print(words[outcome.passed], end=" ")
        console.print(printable(f"{outcome.name}: {outcome.detail}"), markup=False, highlight=False, soft_wrap=True)


def print_requirements(results: Sequence[RequirementResult], *, point: bool, to_stderr: bool) -> None:
    """Prints a table of requirements: those that are not met come first.

    Args:
        results: Results of the requirements.
        point: Whether the measured numbers were compared instead of their intervals.
        to_stderr: Print to the standard error stream.
    """
    compared = "the measured number must meet the bound" if point else "the whole 95 % interval must meet the bound"
    table = Table("network", "required", "measured", "result", title=f"requirements: {compared}", title_justify="left")
    for result in sorted(results, key=lambda result: result.met):
        word = "[green]met[/]" if result.met else "[red]NOT MET[/]"
        table.add_row(cell(result.network), cell(result.requirement.text), cell(result.measured), word)
    open_console(stderr=to_stderr).print(table)


def open_console(*, stderr: bool = False) -> Console:
    """Returns a console of the terminal's width; without a terminal, it is wide enough that no line wraps."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(width=100_000, stderr=stderr)
