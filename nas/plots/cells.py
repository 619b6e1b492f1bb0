"""Drawings of architectures, as SVG or PNG bytes."""

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
    """Returns the drawing of an architecture as the bytes of a file, deterministic; None if the space has no `draw`.

    Raises:
        RunError: the space's `draw` raises an error, or returns no matplotlib figure or one that cannot be saved.
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
    except Exception as error:  # A custom `draw` may raise any error.
        raise RunError(f"{space.name} cannot be drawn: {format_error(error)}; fix the `draw` of its SearchSpace") from error
