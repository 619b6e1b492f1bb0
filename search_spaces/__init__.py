"""Spaces of architectures: what may vary, how an architecture becomes a network, canonical form, drawing.

To add a space: write a table of choices and a `build` (cell201.py is the model), and name it in `SPACES`. A space of your
own in a file of your own needs no entry here: YAML names it as `path/to/file.py:NAME`.
"""

from collections.abc import Callable

from search_spaces.cell201 import cell201
from search_spaces.macro import macro
from search_spaces.space import Architecture, Choice, SearchSpace, Suggest, Value

SPACES: dict[str, Callable[..., SearchSpace]] = {"cell201": cell201, "macro": macro}

__all__ = ["SPACES", "Architecture", "Choice", "SearchSpace", "Suggest", "Value", "cell201", "macro"]
