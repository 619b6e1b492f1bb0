"""Settings of the images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from nas.validation import bounded, check_bounds, raise_if_invalid


@final
@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images, and how they are split.

    Attributes:
        name: digits, mnist, fashion_mnist, cifar10, folder (of images, one folder a class) or npz.
        path: The folder or .npz file; for mnist, fashion_mnist and cifar10 where they are kept, ~/.cache/hardcell if null.
        test: Share of the images held out for the final profiles, where the source has no test split of its own.
        validation: Share of the other images held out to score trials.
        limit: At most this many images for training and validation together; null for all.
        split_seed: Seed of the splits, apart from the run's seed so that runs with other seeds share their test split.
    """

    name: str = "digits"
    path: str | None = None
    test: float = bounded(0.25, 0.01, 0.9)
    validation: float = bounded(0.25, 0.01, 0.9)
    limit: int | None = bounded(None, 20)
    split_seed: int = bounded(0, 0)

    def __post_init__(self) -> None:
        from nas.data.sources import SOURCES  # not at the top: sources import torch datasets lazily, config must not wait

        faults = check_bounds(self)
        if self.name not in SOURCES:
            faults.append(("name", f"must be one of {', '.join(SOURCES)}, got {self.name!r}"))
        if self.name in ("folder", "npz") and self.path is None:
            faults.append(("path", f"must be given for {self.name}"))
        raise_if_invalid(faults)
