"""Settings of the search space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final


@final
@dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """Name and options of the search space.

    Attributes:
        name: cell201, darts, nasnet, robnet, macro, mlp, cells (of operations that you list), or a custom space,
            path/to/file.py:NAME or package.module:NAME.
        options: Options of the space, by name.
    """

    name: str = "cell201"
    options: Mapping[str, Any] = field(default_factory=lambda: {"channels": 8, "cells_per_stage": 1, "stages": 2})
