"""Rows of a table of attacks, for cards, reports and commands: each attack, and the worst case over several attacks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from evaluators.curves.error_curves import Floats
from evaluators.curves.local_exponent import LocalExponent, NoLocalExponent
from evaluators.curves.power_law import NoPowerLaw, PowerLaw
from evaluators.curves.scalars import error_at, median_radius
from evaluators.profiles.law_entries import attack_local, worst_case_law, worst_case_local
from evaluators.profiles.record import fitted

if TYPE_CHECKING:
    from evaluators.profiles.record import RobustnessProfile


@final
@dataclass(frozen=True)
class AttackRow:
    """A row for an attack, or for the worst case over the attacks of one norm.

    Attributes:
        name: Name of the attack, or "worst case".
        norm: Name of the norm.
        radii: Radius of each image, (N,), in pixel units.
        error: Error at the largest epsilon of the grid.
        median_radius: Median radius, in pixel units; infinite if fewer than half of the images are fooled.
        law: Power law of the flip rate, or the reason why there is none.
        local: Exponent at small epsilon, or the reason why there is none.
    """

    name: str
    norm: str
    radii: Floats = field(repr=False)
    error: float
    median_radius: float
    law: PowerLaw | NoPowerLaw
    local: LocalExponent | NoLocalExponent


def attack_rows(profile: RobustnessProfile) -> list[AttackRow]:
    """Returns a row for each attack, then a row for the worst case of each norm that has several attacks."""
    attacks = profile.record["attacks"]
    rows = [
        _row(
            profile,
            (name, entry["config"]["norm"]),
            profile.radii[name],
            fitted(entry) or NoPowerLaw(entry["power_law"]["reason"]),
            attack_local(profile, name),
        )
        for name, entry in attacks.items()
    ]
    norms = [row.norm for row in rows]
    worst = [
        _row(
            profile,
            ("worst case", norm),
            profile.worst_case(norm),
            worst_case_law(profile, norm),
            worst_case_local(profile, norm),
        )
        for norm in dict.fromkeys(norms)
        if norms.count(norm) > 1
    ]
    return rows + worst


def prefactor_text(law: PowerLaw) -> str:
    """Returns the prefactor of a law, and its 95 % interval if it is known (profiles of older versions lack it)."""
    known = law.prefactor_interval
    return f"{law.prefactor:.3g}" if known is None else f"{law.prefactor:.3g} [{known[0]:.3g}, {known[1]:.3g}]"


def _row(
    profile: RobustnessProfile,
    place: tuple[str, str],
    radii: Floats,
    law: PowerLaw | NoPowerLaw,
    local: LocalExponent | NoLocalExponent,
) -> AttackRow:
    """Returns the row of radii; `place` holds the name of the row and its norm."""
    name, norm = place
    return AttackRow(name, norm, radii, error_at(radii, profile.epsilons(norm)[-1]), median_radius(radii), law, local)
