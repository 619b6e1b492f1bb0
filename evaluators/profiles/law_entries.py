"""Power laws and local exponents in a profile: of each attack, and of the worst case over the attacks of each norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evaluators.curves.local_exponent import LocalExponent, NoLocalExponent, local_exponent, local_record
from evaluators.curves.power_law import NoPowerLaw, fit_power_law, law_record
from evaluators.profiles.record import fitted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evaluators.curves.error_curves import Floats
    from evaluators.curves.power_law import PowerLaw
    from evaluators.profiles.record import RobustnessProfile


def law_entries(radii: Floats, epsilons: Sequence[float], *, exact: bool) -> dict[str, Any]:
    """Returns the power law and the local exponent of radii as plain data, with the keys `power_law` and `local_exponent`.

    Args:
        radii: Radius of each image, (N,), in pixel units.
        epsilons: Epsilons of the grid, in pixel units.
        exact: Whether the radii are exact, not only epsilons of the grid.
    """
    grid = None if exact else epsilons
    return {
        "power_law": law_record(fit_power_law(radii, grid)),
        "local_exponent": local_record(local_exponent(radii, grid)),
    }


def worst_case_law(profile: RobustnessProfile, norm: str) -> PowerLaw | NoPowerLaw:
    """Returns the power law of the worst case over the attacks of one norm, or the reason why there is none.

    It is computed from the radii if the profile lacks it, because an older version of Hardcell made the profile.

    Raises:
        ValueError: no attack of that norm was run.
    """
    entry = (profile.record.get("worst_case") or {}).get(norm)
    if entry is None:
        return fit_power_law(profile.worst_case(norm), _grid(profile, norm))
    return fitted(entry) or NoPowerLaw(entry["power_law"]["reason"])


def worst_case_local(profile: RobustnessProfile, norm: str) -> LocalExponent | NoLocalExponent:
    """Returns the local exponent of the worst case over the attacks of one norm, or the reason why there is none.

    Raises:
        ValueError: no attack of that norm was run.
    """
    return _local((profile.record.get("worst_case") or {}).get(norm), profile.worst_case(norm), _grid(profile, norm))


def attack_local(profile: RobustnessProfile, name: str) -> LocalExponent | NoLocalExponent:
    """Returns the local exponent of one attack, by its name in the profile, or the reason why there is none.

    Raises:
        KeyError: the profile has no attack of that name.
    """
    entry = profile.record["attacks"][name]
    return _local(entry, profile.radii[name], _grid(profile, entry["config"]["norm"]))


def _local(entry: Mapping[str, Any] | None, radii: Floats, grid: Sequence[float] | None) -> LocalExponent | NoLocalExponent:
    """Returns the local exponent of an entry, or of radii if the entry lacks it."""
    stored = None if entry is None else entry.get("local_exponent")
    if stored is None:
        return local_exponent(radii, grid)
    if "reason" in stored:
        return NoLocalExponent(stored["reason"])
    (low, high), (lowest, top) = stored["interval"], stored["window"]
    return LocalExponent(stored["exponent"], (low, high), (lowest, top), stored["n"], stored["flip_rate"])


def _grid(profile: RobustnessProfile, norm: str) -> list[float] | None:
    """Returns the grid of the radii of one norm; None if they are exact."""
    return profile.epsilons(norm) if profile.record["tolerance"] is None else None
