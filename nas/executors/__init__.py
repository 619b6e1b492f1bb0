"""Executors: where trials run. To add one: a frozen dataclass with a `run`, named in `EXECUTORS`."""

from nas.executors.base import EpochResult, Evaluate, Executor, Job, News, Outcome, Started, Work
from nas.executors.local import Local
from nas.executors.ray_tune import Ray

EXECUTORS: dict[str, type[Executor]] = {"local": Local, "ray": Ray}

__all__ = ["EXECUTORS", "EpochResult", "Evaluate", "Executor", "Job", "Local", "News", "Outcome", "Ray", "Started", "Work"]
