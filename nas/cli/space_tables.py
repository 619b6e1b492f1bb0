"""Text output of `hardcell space`."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import yaml
from rich.table import Table

from nas.analysis.spaces import quartiles
from nas.cli.tables import cell, open_console

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nas.analysis.spaces import SpaceSummary
    from search_spaces import Architecture, Choice, SearchSpace
    from search_spaces.checks.run import CheckResult

# From LARGE on, the number of architectures is also given in scientific notation; from HUGE on, only in this notation.
LARGE, HUGE = 10**9, 10**24


def print_summary(space: SearchSpace, summary: SpaceSummary, shape: tuple[int, int, int], classes: int) -> None:
    """Prints the size of a space, its choices, and the cost of its sampled networks."""
    out = open_console()
    out.print(f"{space.name}: {format_size(space.size)}", markup=False, highlight=False, soft_wrap=True)
    choices = Table("choice", "values")
    for names, values in grouped(space.choices):
        choices.add_row(cell(names), cell(values))
    out.print(choices)
    whole = summary.architectures == space.size
    which = f"all {summary.architectures:,}" if whole else f"{summary.architectures:,} random"
    title = f"{which} architectures, images of {' x '.join(map(str, shape))}, {classes} classes"
    costs = Table("", "min", "25 %", "median", "75 %", "max", title=title)
    for name, measured in summary.costs.items():
        costs.add_row(
            name, *(f"{1000 * v:,.2f} ms" if name == "latency" else f"{v:,.0f}" for v in quartiles(measured).values())
        )
    out.print(costs)
    for count, what in (
        (summary.disconnected, "have no path from the image to the logits"),
        (summary.duplicates, "are equivalent to another sampled architecture, by the canonical form"),
    ):
        share = count / summary.architectures
        out.print(
            f"{count:,} of {summary.architectures:,} ({share:.0%}) {what}", markup=False, highlight=False, soft_wrap=True
        )


def summary_record(space: SearchSpace, summary: SpaceSummary) -> dict[str, Any]:
    """Returns the summary of a space as plain data."""
    return {
        "name": space.name,
        "size": space.size,
        "choices": {name: list(choice.values) for name, choice in space.choices.items()},
        "architectures": summary.architectures,
        "costs": {name: quartiles(values) for name, values in summary.costs.items()},
        "disconnected": summary.disconnected / summary.architectures,
        "duplicates": summary.duplicates / summary.architectures,
    }


def format_size(size: int) -> str:
    """Returns a number of architectures as text: 15,625 architectures."""
    noun = "architecture" if size == 1 else "architectures"
    if size < LARGE:
        return f"{size:,} {noun}"
    digits = f"{Decimal(size):.2e}".replace("e+", "e")  # The largest sizes overflow a float.
    return f"{digits} {noun}" if size >= HUGE else f"{size:,} {noun} ({digits})"


def grouped(choices: Mapping[str, Choice]) -> list[tuple[str, str]]:
    """Returns rows of (names of choices, values) as text; choices with the same values share a row."""
    groups: dict[str, list[str]] = {}
    for name, choice in choices.items():
        values = [_value(value) for value in choice.values]
        groups.setdefault(("; " if any("," in value for value in values) else ", ").join(values), []).append(name)
    return [(_names(names), text) for text, names in groups.items()]


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]} ({len(names)} choices)"


def _value(value: object) -> str:
    """Returns a value as YAML, such as true, null or 0.5. Text that looks like a number is quoted: '1'."""
    return str(yaml.safe_dump(value, default_flow_style=True, width=1000)).removesuffix("...\n").strip()


def print_checks(space: SearchSpace, outcomes: Sequence[CheckResult]) -> None:
    """Prints a table of checks. Then, for each failed check, prints an architecture that shows the fault, as YAML."""
    out = open_console()
    marks = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[yellow]-[/]"}
    table = Table("", "check", "result", title=cell(space.name))
    for outcome in outcomes:
        table.add_row(
            "[yellow]![/]" if outcome.hint else marks[outcome.passed],
            outcome.check.replace("_", " "),
            cell(outcome.message),
        )
    out.print(table)
    for outcome in outcomes:
        if outcome.passed is False and outcome.architecture is not None:
            out.print(f"\n{outcome.check.replace('_', ' ')} fails with this architecture:", highlight=False)
            out.print(_yaml(outcome.architecture), markup=False, highlight=False, soft_wrap=True)


def _yaml(architecture: Architecture) -> str:
    try:
        text = yaml.safe_dump(dict(architecture), sort_keys=False)
    except yaml.YAMLError:  # A custom space may have values that YAML cannot represent.
        text = "\n".join(f"{name}: {value!r}" for name, value in architecture.items())
    return "\n".join(f"  {line}" for line in text.splitlines())


def check_records(outcomes: Sequence[CheckResult]) -> list[dict[str, Any]]:
    """Returns check results as plain data."""
    return [
        {
            "check": outcome.check,
            "passed": outcome.passed,
            "message": outcome.message,
            "hint": outcome.hint,
            "architecture": None if outcome.architecture is None else dict(outcome.architecture),
        }
        for outcome in outcomes
    ]
