"""Text that names the balls of a union of norms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.formatting import format_epsilon
from nas.plots.style import NORM_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping


def union_text(epsilons: Mapping[str, float]) -> str:
    """Returns the balls of a union, such as "L∞ 8/255, L2 0.5".

    Args:
        epsilons: Epsilon of each norm, in pixel units, by name of the norm.
    """
    return ", ".join(f"{NORM_NAMES.get(norm, norm)} {format_epsilon(epsilon)}" for norm, epsilon in epsilons.items())
