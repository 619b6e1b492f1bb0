"""The share of a profile's work that is done, as a share of the total time of this run.

The seconds that are left are estimated. A stage that was measured on some images takes as long for each further image. A
stage that was not measured takes its estimated passes, each as long as the passes so far.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable

    from evaluators.radius.progress import Progress


@final
@dataclass
class Stage:
    """One stage of the work.

    Attributes:
        label: Name of the stage for the user. Several stages may share one.
        images: Number of images.
        passes: Estimated passes through the network for each image.
        done: Number of images that are done.
        seconds: Seconds that they took.
    """

    label: str
    images: int
    passes: float
    done: int = 0
    seconds: float = 0.0


@final
class Workload:
    """Measures the stages of a profile and reports the share of the work that is done.

    Attributes:
        stages: The stages by key, in the order in which they run.
    """

    def __init__(
        self,
        stages: dict[str, Stage],
        report: Callable[[str, float], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.stages = stages
        self._report, self._clock = report, clock
        self._started, self._reported, self._stored = clock(), 0.0, 0.0

    def start(self, key: str, images: int | None = None) -> Progress:
        """Starts a part of a stage, and returns a function that takes its completed fraction. `add` ends the part.

        Args:
            key: Key of the stage.
            images: Number of images of the part; None for all images of the stage.
        """
        images = self.stages[key].images if images is None else images
        self._started = self._clock()

        def progress(fraction: float) -> None:
            self._show(key, fraction * images, fraction, self._clock() - self._started)

        progress(0.0)
        return progress

    def add(self, key: str, images: int | None = None, seconds: float | None = None) -> float:
        """Adds a part that is done, and returns its seconds.

        Args:
            key: Key of the stage.
            images: Number of images of the part; None for all images of the stage.
            seconds: Seconds that the part took; None for those since the last `start`.
        """
        stage = self.stages[key]
        seconds = self._clock() - self._started if seconds is None else seconds
        stage.done += stage.images if images is None else images
        stage.seconds += seconds
        self._show(key, 0, 0, 0)
        return seconds

    def restore(self, key: str, images: int, seconds: float) -> None:
        """Adds a part that an interrupted profile has measured. Its seconds are not part of the share of this run.

        Args:
            key: Key of the stage.
            images: Number of images of the part.
            seconds: Seconds that the part took.
        """
        self._stored += seconds
        self._reported = 0.0  # The share so far was estimated without these seconds.
        self.add(key, images, seconds)

    def seconds_left(self, key: str | None = None, done: float = 0, fraction: float = 0, seconds: float = 0) -> float:
        """Returns the estimated seconds of the work that is left; 0 if nothing was measured.

        Args:
            key: Stage of the current part; None if there is none.
            done: Number of images of the current part that are done.
            fraction: Completed fraction of the current part.
            seconds: Seconds of the current part.
        """
        passes = sum(stage.done * stage.passes for stage in self.stages.values())
        passes += done * self.stages[key].passes if key is not None else 0
        measured = sum(stage.seconds for stage in self.stages.values()) + seconds
        pass_seconds = measured / passes if passes else 0.0
        left = 0.0
        for name, stage in self.stages.items():
            expected = stage.passes * pass_seconds
            images = stage.images - stage.done
            if stage.done:
                expected = stage.seconds / stage.done
            elif name == key and fraction:
                # The fractions of the first part are rough. So the measured rate replaces the estimate bit by bit.
                expected = (1 - fraction) * expected + fraction * seconds / done
            left += (images - (done if name == key else 0)) * expected
        return left

    def _show(self, key: str, done: float, fraction: float, seconds: float) -> None:
        if self._report is None:
            return
        elapsed = sum(stage.seconds for stage in self.stages.values()) - self._stored + seconds
        left = self.seconds_left(key, done, fraction, seconds)
        # The share does not fall, even if the estimate of what is left rises.
        share = elapsed / (elapsed + left) if left > 0 else float(all(s.done >= s.images for s in self.stages.values()))
        self._reported = max(self._reported, share)
        self._report(self.stages[key].label, self._reported)
