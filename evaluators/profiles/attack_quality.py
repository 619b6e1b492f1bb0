"""How good the attacks of a profile are, compared with the best curve known for the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaluators.curves.optimality import optimality

if TYPE_CHECKING:
    from evaluators.profiles.record import RobustnessProfile


def attack_quality(profile: RobustnessProfile, norm: str) -> dict[str, float]:
    """Returns the optimality of each attack of one norm, by name. The best curve known is the worst case over these attacks.

    Returns an empty dict if there is only one attack, or if no image is fooled.
    """
    names = [name for name, entry in profile.record["attacks"].items() if entry["config"]["norm"] == norm]
    if len(names) < 2:
        return {}
    best, largest = profile.worst_case(norm), profile.epsilons(norm)[-1]
    shares = {name: optimality(profile.radii[name], best, largest) for name in names}
    return {name: share for name, share in shares.items() if share is not None}


def quality_sentence(profile: RobustnessProfile, norm: str) -> str | None:
    """Returns a sentence with the optimality of each attack of one norm; None if `attack_quality` is empty."""
    shares = attack_quality(profile, norm)
    if not shares:
        return None
    named = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
    return f"Share of the best curve known (the worst case over these attacks) that each attack reaches: {named}."
