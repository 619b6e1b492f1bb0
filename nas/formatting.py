"""Formatting of epsilons and p-values."""

from __future__ import annotations


def format_epsilon(epsilon: float) -> str:
    """Returns an epsilon as k/255, such as 8/255, if k is a multiple of 1/4, and with three significant digits otherwise.

    A number with at most three significant digits is not converted: 0.2 equals 51/255, but is usually written 0.2.
    """
    short, steps = f"{epsilon:.3g}", 255 * epsilon
    if float(short) == epsilon or abs(4 * steps - round(4 * steps)) > 1e-4:
        return short
    return f"{round(steps, 2):g}/255"


def format_p_value(p: float) -> str:
    """Returns a p-value of a test with 1,000 resamples as text: p = 0.048, or p < 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
