"""Settings of the evaluators: training and attacks, or a table of measured architectures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from nas.config.metrics import CHEAP_METRICS, METRICS, is_metric, missing_epsilons


class EvaluatorConfig(ABC):
    """Settings of an evaluator. A subclass is a frozen dataclass."""

    @abstractmethod
    def check_metrics(self, metrics: Sequence[str], grid: Sequence[float]) -> list[tuple[str, str]]:
        """Returns the faults of a list of metrics.

        Args:
            metrics: Names of the metrics.
            grid: Epsilons of the evaluation, in pixel units.

        Returns:
            Pairs of metric and message. The first entry is '' if the name of the metric is valid and another setting is
            faulty.
        """


@final
@dataclass(frozen=True, kw_only=True)
class TrainEvaluatorConfig(EvaluatorConfig):
    """Trains and attacks every candidate."""

    def check_metrics(self, metrics: Sequence[str], grid: Sequence[float]) -> list[tuple[str, str]]:
        """Returns the unknown metrics, or else the metrics that need epsilons outside the grid."""
        faults = [
            (metric, f"must hold metrics ({', '.join(METRICS)}), got {metric!r}")
            for metric in metrics
            if not is_metric(metric)
        ]
        return faults or [("", fault) for fault in missing_epsilons(metrics, grid)]


@final
@dataclass(frozen=True, kw_only=True)
class TableEvaluatorConfig(EvaluatorConfig):
    """Looks candidates up in a table of measured architectures. A search takes seconds, which suits comparisons of samplers.

    Attributes:
        path: CSV file with a header and one architecture per row, gzipped if its name ends in .gz. Each choice has a column
            with the name of the choice. For cell201, a column arch may instead hold cells in the notation of NAS-Bench-201,
            |nor_conv_3x3~0|+|...|. With a column seed, an architecture may have several rows, and each trial draws one.
        columns: Metrics by name. Each is a column or a formula over columns, such as 1 - pgd_1.0 / 100 for an error from an
            accuracy in percent. Smaller is better. Early stopping also needs the columns with the number of the epoch after
            their name, such as pgd_1.0[1], which `hardcell tabulate` writes.
        image: Channels, height and width of an image. Used to count parameters and macs if `columns` lacks them.
        classes: Number of classes. Used like `image`.

    Raises:
        ValueError: path or columns is empty, a size in image is below 1, or classes is below 2.
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
        """Returns the metrics that are not in `columns`, except parameters and macs, which can be counted."""
        known = [*self.columns, *(name for name in CHEAP_METRICS if name not in self.columns)]
        return [
            (
                metric,
                f"must hold metrics of evaluator.columns ({', '.join(known)}), got {metric!r}; "
                "if it comes from a default, set objective.minimise, or objective.constraints: {}",
            )
            for metric in metrics
            if metric not in known
        ]


EVALUATORS: dict[str, type[EvaluatorConfig]] = {"train": TrainEvaluatorConfig, "table": TableEvaluatorConfig}
