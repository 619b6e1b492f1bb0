"""What answers the trials of a search: training, or a table of architectures that others have measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from nas.config.metrics import CHEAP_METRICS, METRICS, is_metric, missing_epsilons


class EvaluatorConfig(ABC):
    """Says what answers trials. A subclass is a frozen dataclass of settings."""

    @abstractmethod
    def check_metrics(self, metrics: Sequence[str], grid: Sequence[float]) -> list[tuple[str, str]]:
        """Returns what is wrong with asking for metrics, given the epsilons of the evaluation: metric and message."""


@final
@dataclass(frozen=True, kw_only=True)
class TrainEvaluatorConfig(EvaluatorConfig):
    """Trains every candidate and attacks it."""

    def check_metrics(self, metrics: Sequence[str], grid: Sequence[float]) -> list[tuple[str, str]]:
        """Returns the metrics that there are not, and those that need other epsilons."""
        faults = [
            (metric, f"must hold metrics ({', '.join(METRICS)}), got {metric!r}")
            for metric in metrics
            if not is_metric(metric)
        ]
        return faults or [("", fault) for fault in missing_epsilons(metrics, grid)]


@final
@dataclass(frozen=True, kw_only=True)
class TableEvaluatorConfig(EvaluatorConfig):
    """Looks candidates up in a table of measured architectures: searches in seconds, to compare samplers on real numbers.

    Attributes:
        path: CSV file with a header, one architecture a row; gzipped where its name ends in .gz. A column of each choice's
            name holds its value; or, for cell201, a column arch holds cells as NAS-Bench-201 writes them,
            |nor_conv_3x3~0|+|...|.
        columns: Metrics by name, each a column or what is computed from columns, such as 1 - pgd_1.0 / 100 for an error from
            an accuracy in percent; all are better when smaller.
        image: Channels, height and width of an image, for parameters and macs, which are counted where no column holds them.
        classes: Number of classes, likewise.
    """

    path: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    image: tuple[int, int, int] = (3, 32, 32)
    classes: int = 10

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path must name a CSV file")
        if not self.columns:
            raise ValueError("columns must hold at least one metric, such as adversarial_error: 1 - pgd_1.0 / 100")
        if min(self.image) < 1 or self.classes < 2:
            raise ValueError("image must hold sizes of at least 1, and classes must be at least 2")

    def check_metrics(self, metrics: Sequence[str], grid: Sequence[float]) -> list[tuple[str, str]]:
        """Returns the metrics that neither the columns nor counting can tell."""
        known = [*self.columns, *(name for name in CHEAP_METRICS if name not in self.columns)]
        return [
            (
                metric,
                f"must hold metrics of evaluator.columns ({', '.join(known)}), got {metric!r}; "
                "where that is a default, write others, or constraints: {}",
            )
            for metric in metrics
            if metric not in known
        ]


EVALUATORS: dict[str, type[EvaluatorConfig]] = {"train": TrainEvaluatorConfig, "table": TableEvaluatorConfig}
