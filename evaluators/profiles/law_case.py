"""Sentences that compare a network with those on which exponents of flip rates were measured.

`examples/papers/universality.py` measures 99 curves. If the clean error is at least 0.1, most intervals of the exponent
contain 1, the exponent of a finite density of margins at zero. If it is lower, the exponents are above 1.
"""

from __future__ import annotations

from evaluators.curves.power_law import NoPowerLaw, PowerLaw

# Clean error from which on most measured networks have exponents near 1.
MANY_ERRORS = 0.1


def law_case(clean_error: float, law: PowerLaw | NoPowerLaw) -> str:
    """Returns sentences on the clean error, the interval of the exponent and 1, and whether other networks are like this.

    Args:
        clean_error: Clean error of the network, between 0 and 1.
        law: Power law of the worst case over the attacks of one norm.
    """
    many = clean_error >= MANY_ERRORS
    shown = f"{clean_error:.1%}" if many or clean_error < 0.0995 else f"{clean_error:.2%}"
    error = f"The clean error, {shown}, is {'at least' if many else 'below'} {MANY_ERRORS:.0%}"
    if isinstance(law, NoPowerLaw):
        return f"{error}. The worst case has no power law, so there is no exponent to compare with 1."
    low, high = law.exponent_interval
    place = "lies above 1" if low > 1 else "lies below 1" if high < 1 else "contains 1"
    compared = f"{error}. The interval of the worst case's exponent, {low:.2f} to {high:.2f}, {place}."
    if many and low <= 1 <= high:
        return f"{compared} This is usual for networks with many errors: margins have a finite density at zero."
    if not many and low > 1:
        return f"{compared} This is usual for networks with few errors: few images have a margin near zero."
    return (
        f"{compared} This differs from most measured networks. There, exponents near 1 occur with clean errors of at least "
        f"{MANY_ERRORS:.0%}, and larger exponents with lower errors."
    )
