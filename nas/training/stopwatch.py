"""Times the stages of an epoch, without waiting for the device inside the epoch."""

from __future__ import annotations

import time
from typing import Protocol, final

import torch

# Stages of an epoch: batches and augmentation; points of the recipe; loss and gradients of the weights; optimiser and
# averaged weights; check against collapse and choice of the weights.
STAGES = ("data", "attack", "gradient", "update", "judging")


class Stopwatch(Protocol):
    """Sums the seconds of stages."""

    def lap(self, stage: str) -> None:
        """Adds the time since the last lap, or since the start, to a stage."""

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of each stage."""


def start(device: torch.device) -> Stopwatch:
    """Returns a running stopwatch for work on a device."""
    return _EventStopwatch() if device.type == "cuda" else _ClockStopwatch()


@final
class _ClockStopwatch:
    """Stopwatch for devices that run each operation at once."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self._seconds[stage] += now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        return {stage: round(seconds, 4) for stage, seconds in self._seconds.items()}


@final
class _EventStopwatch:
    """Stopwatch for CUDA. It records events on the device, and waits for them only in `seconds`."""

    def __init__(self) -> None:
        self._events = [("", _event())]

    def lap(self, stage: str) -> None:
        self._events.append((stage, _event()))

    def seconds(self) -> dict[str, float]:
        self._events[-1][1].synchronize()
        spent = dict.fromkeys(STAGES, 0.0)
        for (_, before), (stage, after) in zip(self._events[:-1], self._events[1:], strict=True):
            spent[stage] += before.elapsed_time(after) / 1000
        return {stage: round(seconds, 4) for stage, seconds in spent.items()}


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
