"""Settings of the search space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final


@final
@dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """The search space, by name, and its settings.

    Attributes:
        name: cell201, darts, nasnet, robnet, macro, mlp, cells (of operations that you list), or a space of your own:
            path/to/file.py:NAME or package.module:NAME.
        options: The settings of that space.
    """

    name: str = "cell201"
    options: Mapping[str, Any] = field(default_factory=lambda: {"channels": 8, "cells_per_stage": 1, "stages": 2})
