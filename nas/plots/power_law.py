"""Line and label of a power law in a picture of flip rates. A law whose fit is rejected is dashed and marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.formatting import format_p_value

if TYPE_CHECKING:
    from evaluators import PowerLaw


def law_line(law: PowerLaw) -> dict[str, Any]:
    """Returns the style of the line of a law."""
    return {"linewidth": 3.5, "alpha": 0.3, "linestyle": "-" if law.fit == "accepted" else (0, (1.5, 0.8))}


def exponent_label(law: PowerLaw, *, interval: bool = False) -> str:
    """Returns the exponent of a law for a legend, with its interval if `interval`, and with p if the fit is rejected."""
    low, high = law.exponent_interval
    text = f"exponent {law.exponent:.2f}" + (f" [{low:.2f}, {high:.2f}]" if interval else "")
    return text if law.fit == "accepted" else f"{text} (fit rejected, {format_p_value(law.p_value)})"
