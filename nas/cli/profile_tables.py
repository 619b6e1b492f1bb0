"""Text output of `hardcell profile` and `hardcell check-table`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.table import Table

from evaluators import error_curve
from evaluators.checks import CheckResult, explain
from evaluators.curves.local_exponent import NoLocalExponent
from evaluators.curves.power_law import NoPowerLaw, PowerLaw
from evaluators.profiles.attack_quality import quality_sentence
from evaluators.profiles.attack_rows import attack_rows, prefactor_text
from evaluators.profiles.law_case import law_case
from evaluators.profiles.law_entries import worst_case_law
from evaluators.profiles.summary import summary_line
from nas.bundle.union_text import union_text
from nas.cli.tables import cell, law_cell, local_cell, open_console
from nas.formatting import format_epsilon
from nas.plots.style import NORM_NAMES
from nas.reports.statistics_text import nearest_sentence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from evaluators import RobustnessProfile
    from evaluators.curves.error_curves import Floats
    from evaluators.profiles.attack_rows import AttackRow

# Number of epsilons of a grid that a table shows.
SHOWN = 3


def print_profile(profile: RobustnessProfile, claimed: Mapping[str, Sequence[float]]) -> None:
    """Prints a profile: summary line, a table for each norm, further measurements, and the failed checks.

    Args:
        profile: The profile.
        claimed: Epsilons to show, in pixel units, by norm. A norm without an entry shows a few epsilons of its grid.
    """
    out = open_console()
    out.print(
        summary_line(profile, {norm: max(epsilons) for norm, epsilons in claimed.items()}),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for norm in dict.fromkeys(entry["config"]["norm"] for entry in profile.record["attacks"].values()):
        _print_errors(out, profile, norm, claimed.get(norm, ()))
    _print_union(out, profile.record)
    if (nearest := nearest_sentence(profile.record["margins"])) is not None:
        out.print(nearest, markup=False, highlight=False, soft_wrap=True)
    _print_corruptions(out, profile.record)
    _print_certificates(out, profile.record)
    print_checks([CheckResult(check["name"], check["passed"], check["evidence"]) for check in profile.record["checks"]])


def _print_errors(out: Console, profile: RobustnessProfile, norm: str, wanted: Sequence[float]) -> None:
    """Prints the table of one norm: a row for each attack and the worst case.

    Then prints why exponents are missing, and sentences on the worst case.
    """
    record = profile.record
    grid = profile.epsilons(norm)
    rows = [row for row in attack_rows(profile) if row.norm == norm]
    shown = [epsilon for epsilon in grid if epsilon in wanted] or _spread(grid)
    table = Table(
        "attack",
        *(f"error at {format_epsilon(epsilon)}" for epsilon in shown),
        "median radius",
        "exponent of the power law",
        "exponent at small epsilon",
        title=f"{NORM_NAMES.get(norm, norm)}, {record['n']} images, 95 % intervals",
        title_justify="left",
    )
    for row in rows:
        table.add_row(
            cell(row.name), *_cells(row.radii, shown), _median(row, grid), law_cell(row.law), local_cell(row.local)
        )
    out.print(table)
    laws = [f"{row.name} {prefactor_text(row.law)}" for row in rows if isinstance(row.law, PowerLaw)]
    lines = [f"prefactor of the power law, its flip rate at epsilon 1: {', '.join(laws)}"] if laws else []
    lines += [f"no power law for {row.name}: {row.law.reason}" for row in rows if isinstance(row.law, NoPowerLaw)]
    lines += [
        f"no exponent at small epsilon for {row.name}: {row.local.reason}"
        for row in rows
        if isinstance(row.local, NoLocalExponent)
    ]
    if (quality := quality_sentence(profile, norm)) is not None:
        lines.append(quality)
    lines += [law_case(record["clean_error"], worst_case_law(profile, norm)), _theory(record["margins"], norm)]
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _theory(margins: dict[str, Any], norm: str) -> str:
    """Returns a line on the clean images: margins, gradients, and the first epsilon at which first-order theory fails."""
    lines = [f"clean images: median margin {margins['median']:.3g}, mean entropy {margins['mean_entropy']:.3g} nats"]
    if norm not in margins["first_order"]:
        return f"{lines[0]}, no first-order prediction, because the network has no gradients"
    agreement = margins["first_order"][norm]
    if agreement["median_gradient"] is not None:
        lines.append(f"median gradient norm of the margin {agreement['median_gradient']:.3g}")
    if agreement["median_radius"] is not None:
        lines.append(f"median first-order radius {agreement['median_radius']:.3g}")
    parting = agreement["parting_epsilon"]
    lines.append(
        "the error does not differ significantly from the first-order prediction"
        if parting is None
        else f"the error first differs significantly from the first-order prediction at epsilon {parting:.3g}"
    )
    return ", ".join(lines)


def _spread(grid: Sequence[float]) -> list[float]:
    """Returns a few epsilons that are spread evenly over the grid and include the largest."""
    count = min(SHOWN, len(grid))
    return [grid[math.ceil((i + 1) * len(grid) / count) - 1] for i in range(count)]


def _cells(radii: Floats, epsilons: Sequence[float]) -> list[str]:
    curve = error_curve(radii, epsilons)
    return [f"{e:.3f} [{low:.3f}, {high:.3f}]" for e, (low, high) in zip(curve.error, curve.error_interval, strict=True)]


def _median(row: AttackRow, grid: Sequence[float]) -> str:
    return f"{row.median_radius:.3g}" if math.isfinite(row.median_radius) else f"above {grid[-1]:.3g}"


def _print_union(out: Console, record: dict[str, Any]) -> None:
    if "union" not in record:
        return
    union, (low, high) = record["union"], record["union"]["interval"]
    balls = union_text(union["epsilons"])
    text = f"adversarial error over the union of {balls}: {union['error']:.3f} [{low:.3f}, {high:.3f}]"
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def _print_corruptions(out: Console, record: dict[str, Any]) -> None:
    if "corruptions" not in record:
        return
    corruptions = record["corruptions"]
    title = f"error under common corruptions, mean {corruptions['mean']:.3f} (clean error {corruptions['clean']:.3f})"
    table = Table("corruption", *(f"severity {severity}" for severity in range(1, 6)), title=title, title_justify="left")
    for name, errors in corruptions["errors"].items():
        table.add_row(cell(name), *(f"{error:.3f}" for error in errors))
    out.print(table)


def _print_certificates(out: Console, record: dict[str, Any]) -> None:
    if "certificates" not in record:
        return
    certificates = record["certificates"]
    out.print(
        f"certified under noise of {certificates['sigma']:g}: median L2 radius {certificates['median_radius']:.3g}; the "
        f"smoothed network abstains on {certificates['abstained']:.1%} of the images, and its error, abstentions included, "
        f"is {certificates['certified_error'][0]:.1%}",
        highlight=False,
        soft_wrap=True,
    )


def print_checks(checks: Sequence[CheckResult], *, all_of_them: bool = False) -> None:
    """Prints a sentence for each failed check, then the number of passed checks or, with `all_of_them`, their sentences."""
    out = open_console()
    failed = [check for check in checks if not check.passed]
    passed = [check for check in checks if check.passed]
    for check in [*failed, *(passed if all_of_them else [])]:
        out.print("[green]passed[/]" if check.passed else "[red]FAILED[/]", end=" ")
        out.print(f"{check.name}: {explain(check)}", markup=False, highlight=False, soft_wrap=True)
    if not all_of_them:
        out.print(f"{len(passed)} of {len(checks)} checks passed", highlight=False)
