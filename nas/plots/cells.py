"""Drawings of architectures, as the content of a file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

import matplotlib as mpl
from matplotlib.figure import Figure

from nas.errors import RunError, format_error
from nas.plots.style import STYLE, to_svg

if TYPE_CHECKING:
    from search_spaces import Architecture, SearchSpace


def draw(space: SearchSpace, architecture: Architecture, form: Literal["svg", "png"] = "svg") -> bytes | None:
    """Returns a drawing of an architecture, the same each time, or None where the space has none.

    Raises:
        RunError: the space's `draw` raises, or returns no figure, or one that cannot be drawn.
    """
    if space.draw is None:
        return None
    try:
        with mpl.rc_context(STYLE):
            figure = space.draw(dict(architecture))
            if not isinstance(figure, Figure):
                raise TypeError(f"draw must return a matplotlib Figure, got {type(figure).__name__}")
            if form == "svg":
                return to_svg(figure).encode()
            file = io.BytesIO()
            figure.savefig(file, format=form)
            return file.getvalue()
    except Exception as error:  # Of the user's code.
        raise RunError(f"{space.name} cannot be drawn: {format_error(error)}; mend the `draw` of its SearchSpace") from error
