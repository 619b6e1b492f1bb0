"""Measurements of a table: one line of JSON for each ended training, appended as it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self, final

from nas.errors import RunError
from nas.files import check_regular

if TYPE_CHECKING:
    from pathlib import Path

    from nas.executors import Precheck, TrialResult

# Significant digits of the numbers. Errors are shares of at most thousands of images.
DIGITS = 6
# Numbers of every complete measurement.
REQUIRED = ("parameters", "macs", "clean_error", "adversarial_error", "test_clean_error", "test_adversarial_error")


@final
@dataclass(frozen=True)
class Measurement:
    """The result of one training.

    Attributes:
        key: Hash of the architecture's canonical form.
        seed: Number of the seed, from 0.
        architecture: The canonical architecture.
        state: complete, infeasible (no path from the image to the logits), or failed.
        reason: Reason why it is not complete; '' otherwise.
        seconds: Wall time of the training and of all measurements since the last start, in seconds. A killed training starts
            again from its last checkpoint.
        training_seconds: Wall time of all epochs without the measurements, in seconds.
        metrics: Parameters, macs and the final numbers, by name.
        epochs: Numbers measured after each epoch, by name, from the first epoch on.
    """

    key: str
    seed: int
    architecture: Mapping[str, Any]
    state: str
    reason: str
    seconds: float
    training_seconds: float
    metrics: Mapping[str, float]
    epochs: tuple[Mapping[str, float], ...] = field(default=(), repr=False)

    @classmethod
    def of(
        cls, key: str, seed: int, architecture: Mapping[str, Any], known: Precheck | None, result: TrialResult
    ) -> Measurement:
        """Returns the measurement of an ended job.

        Args:
            key: Hash of the architecture.
            seed: Number of the seed.
            architecture: The canonical architecture.
            known: Properties that need no training; None if the network could not be built.
            result: Result of the job.
        """
        cheap = known.metrics if known is not None else {}
        state = "complete" if not (result.reason or result.infeasible) else "infeasible" if result.infeasible else "failed"
        return cls(
            key=key,
            seed=seed,
            architecture=dict(architecture),
            state=state,
            reason=result.reason or result.infeasible or "",
            seconds=_rounded(result.seconds),
            training_seconds=_rounded(sum(epoch.seconds for epoch in result.epochs)),
            metrics={name: _rounded(value) for name, value in {**cheap, **result.metrics}.items()},
            epochs=tuple({name: _rounded(v) for name, v in epoch.measured.items()} for epoch in result.epochs),
        )

    @classmethod
    def read(cls, line: str) -> Self:
        """Returns the measurement of a line.

        Raises:
            ValueError: the line is not that of a measurement.
        """
        try:
            content = json.loads(line)
            content["epochs"] = tuple(content["epochs"])
            measurement = cls(**content)
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"is not a measurement: {error}") from error
        measurement._check()
        return measurement

    def _check(self) -> None:
        """Checks the types of the values, because others may have written the file.

        Raises:
            ValueError: a value has a wrong type, or a complete row lacks its errors.
        """
        types = {"key": str, "seed": int, "architecture": dict, "state": str, "reason": str, "metrics": dict}
        wrong = [name for name, kind in types.items() if not isinstance(getattr(self, name), kind)]
        if not wrong:
            wrong += ["metrics"] * (not _are_numbers(self.metrics))
            wrong += ["epochs"] * (not all(_are_numbers(epoch) for epoch in self.epochs))
            wrong += [name for name in REQUIRED if self.state == "complete" and name not in self.metrics]
            wrong += ["seconds"] * (not _are_numbers({"all": self.seconds, "training": self.training_seconds}))
        if wrong:
            raise ValueError(f"is not a measurement: {wrong[0]}")


def _are_numbers(values: object) -> bool:
    return isinstance(values, dict) and all(isinstance(value, int | float) for value in values.values())


def _rounded(value: float) -> float:
    """Returns a number with few digits. Whole numbers, such as macs, keep all of them."""
    return value if float(value).is_integer() else float(f"{value:.{DIGITS}g}")


def read_measurements(path: Path) -> list[Measurement]:
    """Returns the measurements of a file, in the order in which they ended; [] if the file does not exist.

    If a training was measured several times, because it failed before, the last time counts. A last line without its end,
    which a killed process may have left, is ignored.

    Raises:
        RunError: the file cannot be read, or another line is damaged.
    """
    try:
        check_regular(path)
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: {error}") from error
    measurements: dict[tuple[str, int], Measurement] = {}
    for number, line in enumerate(lines, start=1):
        try:
            measurement = Measurement.read(line)
        except ValueError as error:
            raise RunError(
                f"{path}, line {number}: damaged ({error}); without this line, the row is measured again"
            ) from error
        measurements[measurement.key, measurement.seed] = measurement
    return list(measurements.values())


def append_measurement(path: Path, measurement: Measurement) -> None:
    """Appends a measurement to a file, safe from a later loss of power. An incomplete last line is removed.

    Raises:
        OSError: the file cannot be written.
    """
    line = json.dumps(asdict(measurement), separators=(",", ":")) + "\n"
    with path.open("ab+") as file:
        _remove_partial_line(file)
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _remove_partial_line(file: Any) -> None:
    """Truncates a binary file after its last line break."""
    end = file.seek(0, os.SEEK_END)
    start = end
    while start > 0:
        begin = max(0, start - 2**16)
        file.seek(begin)
        position = file.read(start - begin).rfind(b"\n")
        if position >= 0:
            start = begin + position + 1
            break
        start = begin
    if start < end:
        file.truncate(start)
    file.seek(0, os.SEEK_END)
