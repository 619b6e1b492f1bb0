"""How an epsilon is told: as the field says it."""

from __future__ import annotations


def format_epsilon(epsilon: float) -> str:
    """Returns an epsilon as people write it: 8/255 where it is so many steps of an image of 8 bits, else to three digits.

    A number that three digits say in full is left as it is: 0.2 is 51/255, but nobody says so.
    """
    short, steps = f"{epsilon:.3g}", 255 * epsilon
    if float(short) == epsilon or abs(4 * steps - round(4 * steps)) > 1e-4:
        return short
    return f"{round(steps, 2):g}/255"
