"""Executors: where trials run. To add one: a frozen dataclass with a `run`, named in `EXECUTORS`."""

from nas.executors.base import Evaluate, Executor, Job, News, Outcome, Started, Work
from nas.executors.local import Local
from nas.executors.ray_tune.executor import Ray
from nas.training.epoch import EpochResult

EXECUTORS: dict[str, type[Executor]] = {"local": Local, "ray": Ray}

__all__ = ["EXECUTORS", "EpochResult", "Evaluate", "Executor", "Job", "Local", "News", "Outcome", "Ray", "Started", "Work"]
