"""Versions and machine properties that may affect results."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

_RECORDED = ("hardcell", "torch", "torchvision", "optuna", "numpy", "scipy", "onnx", "onnxruntime", "safetensors")


def environment(device: torch.device) -> dict[str, Any]:
    """Returns versions and machine properties that may affect results, as plain data."""
    versions = {}
    for name in _RECORDED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "versions": versions,
    }


def _processor() -> str:
    """Returns the name of the processor, or of its architecture if the name is unknown."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
