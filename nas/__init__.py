"""Hardcell: architecture search for adversarial robustness, from a config to exported networks with measured profiles.

What users call is here; it is imported at first use, so that the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.bundle.load import load
    from nas.bundle.verify import verify
    from nas.config.files import load_config, parse_config
    from nas.config.schema import Config
    from nas.pipeline.search import resume, search
    from nas.runs.run import Run, read_run

_PLACES = {
    "Config": "nas.config.schema",
    "Run": "nas.runs.run",
    "load": "nas.bundle.load",
    "load_config": "nas.config.files",
    "parse_config": "nas.config.files",
    "read_run": "nas.runs.run",
    "resume": "nas.pipeline.search",
    "search": "nas.pipeline.search",
    "verify": "nas.bundle.verify",
}

__all__ = ["Config", "Run", "load", "load_config", "parse_config", "read_run", "resume", "search", "verify"]


def __getattr__(name: str) -> object:
    """Imports what is asked for."""
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'nas' has no attribute {name!r}")
