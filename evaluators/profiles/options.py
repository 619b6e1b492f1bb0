"""The settings of a robustness profile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import final

from evaluators.engine.batches import Batches
from evaluators.engine.input_checks import as_grid
from evaluators.radius import check_tolerance
from evaluators.smoothing import Smoothing, check_smoothing


@final
@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """What a robustness profile holds besides the error curves of its attacks, and how those are measured.

    Attributes:
        include: Epsilons by norm that the grid must hold besides, for comparisons at one epsilon.
        tolerance: Bisects between the grid's points until each radius is known within this share of itself.
        corruptions: Measure the errors under common corruptions, too; images need one or three channels.
        smoothing: Certify L2 radii by randomised smoothing, too; None to leave it.
        dataset: Name of the images' data set, for the record.
        split: Name of their split, for the record.
        batch_size: Images in one pass; found from the memory that one image needs if None.
    """

    include: Mapping[str, Iterable[float]] = field(default_factory=dict)
    tolerance: float | None = None
    corruptions: bool = False
    smoothing: Smoothing | None = None
    dataset: str = "unnamed"
    split: str = "test"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_by_norm("include", self.include)
        object.__setattr__(self, "include", {norm: tuple(as_grid(e)) for norm, e in self.include.items()})
        check_tolerance(self.tolerance)
        if self.smoothing is not None:
            check_smoothing(self.smoothing)
        if self.batch_size is not None:
            Batches(self.batch_size)  # Checks it.


def check_by_norm(name: str, epsilons: Mapping[str, Iterable[float]]) -> None:
    """Checks that epsilons are given by norm.

    Raises:
        TypeError: they are no mapping.
    """
    if not isinstance(epsilons, Mapping):
        raise TypeError(f"{name} must be a mapping such as {{'linf': [8 / 255]}}, got {type(epsilons).__name__}")
