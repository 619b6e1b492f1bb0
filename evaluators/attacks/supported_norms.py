"""Check for attacks that do not work in L1."""

from __future__ import annotations

from evaluators.norms import L1, Norm


def check_not_l1(norm: Norm, attack: str) -> None:
    """Checks that the norm of an attack is not L1.

    Steps of steepest ascent in L1 change one pixel, which soon reaches the border of the pixel range. An attack that relies
    on them, or on a single step, would report radii that are far too large.

    Args:
        norm: The norm of the attack.
        attack: Name of the attack, for the message.

    Raises:
        ValueError: the norm is L1.
    """
    if isinstance(norm, L1):
        raise ValueError(f"norm must be linf or l2 for {attack}, got l1; FMN and APGD take every norm")
