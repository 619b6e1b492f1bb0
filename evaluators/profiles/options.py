"""Settings of a robustness profile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from evaluators.engine.batches import Batches
from evaluators.engine.input_checks import as_grid
from evaluators.profiles.union import check_union
from evaluators.radius.grid import check_tolerance
from evaluators.smoothing import Smoothing, check_smoothing


@final
@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """Settings of a robustness profile: additional measurements and the measurement of radii.

    Attributes:
        include: Epsilons to add to the grids, in pixel units, by name of the norm.
        union: Epsilon of each norm, in pixel units, for the adversarial error over the union of their balls; None to leave
            it out. The epsilons are added to the grids.
        tolerance: Largest relative error of a radius, reached by bisection between grid points; None for radii on the grid.
        corruptions: Also measure the errors under common corruptions. The images need one or three channels.
        smoothing: Settings of randomized smoothing, to certify L2 radii too; None to leave it out.
        dataset: Name of the data set, for the record.
        split: Name of the split of the data set, for the record.
        batch_size: Images in one pass; None to choose it from the memory that one image needs.
        resume: Folder of the profile, in which the radii of each part of the images are stored at once.
            If it holds parts of the same profile, they are not measured again. `save_profile` removes the parts. None to
            store nothing.

    Raises:
        TypeError: include or union is not a mapping, or a setting has the wrong type.
        ValueError: a setting is out of range.
    """

    include: Mapping[str, Iterable[float]] = field(default_factory=dict)
    union: Mapping[str, float] | None = None
    tolerance: float | None = None
    corruptions: bool = False
    smoothing: Smoothing | None = None
    dataset: str = "unnamed"
    split: str = "test"
    batch_size: int | None = None
    resume: Path | None = None

    def __post_init__(self) -> None:
        check_by_norm("include", self.include)
        object.__setattr__(self, "include", {norm: tuple(as_grid(e)) for norm, e in self.include.items()})
        object.__setattr__(self, "resume", None if self.resume is None else Path(self.resume))
        check_union(self.union)
        check_tolerance(self.tolerance)
        if self.smoothing is not None:
            check_smoothing(self.smoothing)
        if self.batch_size is not None:
            Batches(self.batch_size)  # The constructor checks the size.


def check_by_norm(name: str, epsilons: Mapping[str, Iterable[float]]) -> None:
    """Checks that epsilons are a mapping by name of the norm.

    Raises:
        TypeError: epsilons is not a mapping.
    """
    if not isinstance(epsilons, Mapping):
        raise TypeError(f"{name} must be a mapping such as {{'linf': [8 / 255]}}, got {type(epsilons).__name__}")
