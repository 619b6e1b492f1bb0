"""Settings of a run: schema, YAML reader and writer, names of metrics."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.config.files import load_config, parse_config
    from nas.config.schema import Config
    from nas.data.config import DataConfig

# Modules of the exported names, which are imported at first use.
_EXPORTS = {
    "Config": "nas.config.schema",
    "DataConfig": "nas.data.config",
    "load_config": "nas.config.files",
    "parse_config": "nas.config.files",
}

__all__ = ["Config", "DataConfig", "load_config", "parse_config"]


def __getattr__(name: str) -> object:
    """Imports an exported name at first use."""
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'nas.config' has no attribute {name!r}")
