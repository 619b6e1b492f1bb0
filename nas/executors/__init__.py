"""Executors: where trials run. To add one: a frozen dataclass with a `run`, named in `EXECUTORS`."""

from nas.executors.base import EpochResult, Evaluate, Executor, Job, Outcome
from nas.executors.local import Local

EXECUTORS: dict[str, type[Executor]] = {"local": Local}

__all__ = ["EXECUTORS", "EpochResult", "Evaluate", "Executor", "Job", "Local", "Outcome"]
