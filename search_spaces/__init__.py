"""Search spaces: choices, network builders, canonical forms and drawings.

To add a space of cells, call `cell_space` (see cell201.py), or write `space: {name: cells, ...}` in YAML. To add any other
space, write a table of choices and a `build` function (see mlp.py). Then add it to `SPACES`. A space in your own file needs
no entry in `SPACES`: refer to it in YAML as `path/to/file.py:NAME`.
"""

from collections.abc import Callable

from search_spaces.cells.cell_space import cell_space
from search_spaces.encodings import one_hot, one_hot_names, path_encoding
from search_spaces.graph import CellGraph
from search_spaces.operations import OPERATIONS, Operation
from search_spaces.space import Architecture, Choice, SearchSpace, Suggest, Value
from search_spaces.spaces.cell201 import cell201
from search_spaces.spaces.darts import darts
from search_spaces.spaces.macro import macro
from search_spaces.spaces.mlp import mlp
from search_spaces.spaces.nasnet import nasnet
from search_spaces.spaces.published import PUBLISHED, Published
from search_spaces.spaces.robnet import robnet

SPACES: dict[str, Callable[..., SearchSpace]] = {
    "cell201": cell201,
    "darts": darts,
    "nasnet": nasnet,
    "robnet": robnet,
    "macro": macro,
    "mlp": mlp,
    "cells": cell_space,
}

__all__ = [
    "OPERATIONS",
    "PUBLISHED",
    "SPACES",
    "Architecture",
    "CellGraph",
    "Choice",
    "Operation",
    "Published",
    "SearchSpace",
    "Suggest",
    "Value",
    "cell201",
    "cell_space",
    "darts",
    "macro",
    "mlp",
    "nasnet",
    "one_hot",
    "one_hot_names",
    "path_encoding",
    "robnet",
]
