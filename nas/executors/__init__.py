"""Executors run the trials of a search.

To add one, write a frozen dataclass with the method `run`, and add it to `EXECUTORS`.
"""

from nas.executors.base import Evaluate, ExecutionContext, Executor, Job, JobEvent, JobStarted, Precheck, TrialResult
from nas.executors.local import Local
from nas.executors.ray_tune.executor import Ray
from nas.training.epoch import EpochResult

EXECUTORS: dict[str, type[Executor]] = {"local": Local, "ray": Ray}

__all__ = [
    "EXECUTORS",
    "EpochResult",
    "Evaluate",
    "ExecutionContext",
    "Executor",
    "Job",
    "JobEvent",
    "JobStarted",
    "Local",
    "Precheck",
    "Ray",
    "TrialResult",
]
