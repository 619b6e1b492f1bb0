"""Text output of `hardcell compare`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table

from evaluators import Comparison, error_curve, median_radius
from evaluators.transferability.rates import asymmetry, transfer_rates
from evaluators.transferability.universal import universal_transfer
from nas.analysis.compare.result import NoTransfer, universal_sentence
from nas.cli.tables import cell, law_cell, open_console
from nas.formatting import format_epsilon
from nas.plots.style import NORM_NAMES
from nas.reports.statistics_text import exponents_sentence

if TYPE_CHECKING:
    from rich.console import Console

    from evaluators.transferability.matrix import TransferMatrix
    from evaluators.transferability.universal import TransferGroup
    from nas.analysis.compare.result import NetworkComparison, PairTest


def print_comparison(comparison: NetworkComparison) -> None:
    """Prints error curves, paired tests, transferability for each attack, and disagreement."""
    out = open_console()
    _print_errors(out, comparison)
    _print_tests(out, comparison)
    for attack, matrix in comparison.transfers.items():
        if isinstance(matrix, NoTransfer):
            line = f"transfer by {attack}: not measured: {matrix.reason}"
            out.print(line, markup=False, highlight=False, soft_wrap=True)
            continue
        _print_matrix(out, attack, matrix)
        _print_asymmetry(out, attack, matrix)
        _print_reach(out, attack, matrix)
    _print_disagreement(out, comparison)


def _print_errors(out: Console, comparison: NetworkComparison) -> None:
    norm = NORM_NAMES.get(comparison.norm, comparison.norm)
    table = Table(
        "network",
        "clean error",
        *(f"error at {format_epsilon(epsilon)}" for epsilon in comparison.epsilons),
        "median radius",
        "exponent of the power law",
        title=f"{norm}, worst case over {cell(', '.join(comparison.attacks))}, {comparison.n} images of "
        f"{cell(comparison.data)}, 95 % intervals",
        title_justify="left",
    )
    for name, radii in comparison.radii.items():
        curve = error_curve(radii, [0.0, *comparison.epsilons])
        cells = [_interval(e, low, high) for e, (low, high) in zip(curve.error, curve.error_interval, strict=True)]
        median = median_radius(radii)
        end = f"{median:.3g}" if math.isfinite(median) else f"above {comparison.grid[-1]:.3g}"
        table.add_row(cell(name), *cells, end, law_cell(comparison.laws[name]))
    out.print(table)
    if (exponents := exponents_sentence(comparison.laws)) is not None:
        out.print(exponents, markup=False, highlight=False, soft_wrap=True)


def _print_tests(out: Console, comparison: NetworkComparison) -> None:
    """Prints the paired tests; those over all epsilons come last."""
    title = "paired tests on the same images, p-values corrected for the number of tests (Holm), 95 % intervals"
    table = Table("first", "second", "epsilon", "difference", "p", "the first is", title=title, title_justify="left")
    for one in (*comparison.at_epsilon, *comparison.over_all):
        epsilon = "all" if one.epsilon is None else format_epsilon(one.epsilon)
        table.add_row(cell(one.first), cell(one.second), epsilon, _difference(one), f"{one.corrected:.2g}", one.verdict)
    out.print(table)
    out.print(
        "difference at one epsilon: error of the first network minus error of the second; over all epsilons: share of "
        "images with the larger radius on the first network, minus share with the larger radius on the second",
        highlight=False,
        soft_wrap=True,
    )


def _difference(one: PairTest) -> str:
    difference = one.test.difference if isinstance(one.test, Comparison) else one.test.effect
    return _interval(difference, *one.test.interval, sign="+")


def _print_matrix(out: Console, attack: str, matrix: TransferMatrix) -> None:
    """Prints a table of fooled networks for each epsilon. Counts in brackets are among the images that fool the source."""
    plain, among = transfer_rates(matrix), transfer_rates(matrix, conditional=True)
    out.print(
        f"transfer by {attack}: number and share of images that fool each network, among the {matrix.n} of {matrix.given} "
        "images that all networks classify correctly, with 95 % intervals; in brackets, the number among those that fool "
        "the source",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for e, epsilon in enumerate(matrix.epsilons):
        table = Table(
            "crafted on",
            *(f"fools {cell(name)}" for name in matrix.names),
            title=f"{cell(attack)} at {format_epsilon(epsilon)}",
            title_justify="left",
        )
        for s, name in enumerate(matrix.names):
            cells = []
            for t in range(len(matrix.names)):
                of_all = f"{plain.counts[e, s, t]}: {_interval(plain.share[e, s, t], *plain.interval[e, s, t])}"
                own = f"({among.counts[e, s, t]} of {among.of[e, s, t]})"
                cells.append(of_all if s == t else f"{of_all} {own}")
            table.add_row(cell(name), *cells)
        out.print(table)


def _print_asymmetry(out: Console, attack: str, matrix: TransferMatrix) -> None:
    title = f"asymmetry, {cell(attack)}: transfer rate from first to second, minus the rate from second to first"
    table = Table("first", "second", "epsilon", "difference", "p (Holm)", title=title, title_justify="left")
    for one in asymmetry(matrix):
        difference = _interval(one.difference, *one.interval, sign="+")
        table.add_row(cell(one.first), cell(one.second), format_epsilon(one.epsilon), difference, f"{one.corrected:.2g}")
    out.print(table)


def _print_reach(out: Console, attack: str, matrix: TransferMatrix) -> None:
    title = f"transfer by {cell(attack)} to several networks: do images that fool the source fool all others, some, or none?"
    columns = ("source", "epsilon", "fool the source", "all others", "all others by chance", "some", "none")
    table = Table(*columns, title=title, title_justify="left")
    transfers = universal_transfer(matrix)
    for one in transfers:
        chance = "" if one.fooled == 0 else f"{one.to_all.chance:.3f}"
        parts = _part(one.to_all), chance, _part(one.to_some), _part(one.to_none)
        table.add_row(cell(one.source), format_epsilon(one.epsilon), str(one.fooled), *parts)
    out.print(table)
    for epsilon in matrix.epsilons:
        out.print(universal_sentence([one for one in transfers if one.epsilon == epsilon]), highlight=False, soft_wrap=True)


def _print_disagreement(out: Console, comparison: NetworkComparison) -> None:
    one, norm = comparison.disagreement, NORM_NAMES.get(comparison.norm, comparison.norm)
    out.print(
        f"disagreement: share of points to which the networks assign different classes, and entropy of the networks' "
        f"votes, with 95 % intervals; {one.samples} random points in each {norm} ball around {len(one.counts)} clean images",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    table = Table("epsilon", "share", "vote entropy, nats")
    for epsilon, share, of_share, entropy, of_entropy in zip(
        one.epsilons, one.mean_share, one.mean_share_interval, one.mean_entropy, one.mean_entropy_interval, strict=True
    ):
        table.add_row(format_epsilon(epsilon), _interval(share, *of_share), _interval(entropy, *of_entropy))
    out.print(table)


def _part(group: TransferGroup) -> str:
    return "" if math.isnan(group.share) else f"{len(group.images)}: {_interval(group.share, *group.interval)}"


def _interval(value: float, low: float, high: float, *, sign: str = "") -> str:
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"
