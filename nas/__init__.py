"""Hardcell: architecture search for adversarial robustness, from a config to exported networks with measured profiles.

Most commands of the command line have a function here. Names are imported at first use, so that `import nas` is fast.
Progress goes to the logger `hardcell`, which is silent unless your program configures it.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.analysis.compare.compare import compare_networks as compare
    from nas.analysis.compare.config import CompareConfig
    from nas.analysis.networks.options import NetworkOptions
    from nas.analysis.profile import ProfileConfig
    from nas.analysis.profile import profile_network as profile
    from nas.analysis.surface.config import SurfaceConfig
    from nas.analysis.surface.surface import image_surfaces as surface
    from nas.bundle.load import load
    from nas.bundle.verify import verify
    from nas.config.files import load_config, parse_config
    from nas.config.schema import Config
    from nas.data.config import DataConfig
    from nas.pipeline.search import export, resume, resume_events, search, search_events
    from nas.pipeline.tabulate import tabulate
    from nas.reports.page import report
    from nas.runs.run import Run, read_run
    from nas.runs.status import RunStatus
    from nas.runs.status import run_status as status
    from nas.spaces.build import build
    from nas.training.train_network import train_network as train

# Module and attribute of each exported name.
_EXPORTS = {
    "CompareConfig": ("nas.analysis.compare.config", "CompareConfig"),
    "Config": ("nas.config.schema", "Config"),
    "DataConfig": ("nas.data.config", "DataConfig"),
    "NetworkOptions": ("nas.analysis.networks.options", "NetworkOptions"),
    "ProfileConfig": ("nas.analysis.profile", "ProfileConfig"),
    "Run": ("nas.runs.run", "Run"),
    "RunStatus": ("nas.runs.status", "RunStatus"),
    "SurfaceConfig": ("nas.analysis.surface.config", "SurfaceConfig"),
    "build": ("nas.spaces.build", "build"),
    "compare": ("nas.analysis.compare.compare", "compare_networks"),
    "export": ("nas.pipeline.search", "export"),
    "load": ("nas.bundle.load", "load"),
    "load_config": ("nas.config.files", "load_config"),
    "parse_config": ("nas.config.files", "parse_config"),
    "profile": ("nas.analysis.profile", "profile_network"),
    "read_run": ("nas.runs.run", "read_run"),
    "report": ("nas.reports.page", "report"),
    "resume": ("nas.pipeline.search", "resume"),
    "resume_events": ("nas.pipeline.search", "resume_events"),
    "search": ("nas.pipeline.search", "search"),
    "search_events": ("nas.pipeline.search", "search_events"),
    "status": ("nas.runs.status", "run_status"),
    "surface": ("nas.analysis.surface.surface", "image_surfaces"),
    "tabulate": ("nas.pipeline.tabulate", "tabulate"),
    "train": ("nas.training.train_network", "train_network"),
    "verify": ("nas.bundle.verify", "verify"),
}

__all__ = [
    "CompareConfig",
    "Config",
    "DataConfig",
    "NetworkOptions",
    "ProfileConfig",
    "Run",
    "RunStatus",
    "SurfaceConfig",
    "build",
    "compare",
    "export",
    "load",
    "load_config",
    "parse_config",
    "profile",
    "read_run",
    "report",
    "resume",
    "resume_events",
    "search",
    "search_events",
    "status",
    "surface",
    "tabulate",
    "train",
    "verify",
]

logging.getLogger("hardcell").addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    """Imports an exported name at first use."""
    if name in _EXPORTS:
        module, attribute = _EXPORTS[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'nas' has no attribute {name!r}")
