"""Settings of the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from nas.validation import bounded, check_bounds, raise_if_invalid


@final
@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images and their splits.

    A folder has one subfolder of images per class, or the subfolders train, validation and test (the last two are optional)
    with one subfolder per class each. An .npz file has the arrays x and y, or x_train, y_train, x_test, y_test and, if it
    has a validation split, x_val and y_val. Its images are (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or floating point
    in [0, 1]. Its labels are (N,) integers.

    Attributes:
        name: Source of the images: digits, mnist, fashion_mnist, cifar10, folder (one subfolder per class) or npz.
        path: The folder or .npz file; ~ is expanded. For mnist, fashion_mnist and cifar10 it is the download folder; null
            for ~/.cache/hardcell.
        test: Share of the images in the test split, 0.01 to 0.9. Used only for sources without a test split.
        validation: Share of the remaining images in the validation split, 0.01 to 0.9. Used only for sources without a
            validation split. The validation images score trials.
        limit: Maximum number of training and validation images together, at least 20, drawn at random; null for all. If the
            source has a validation split, the limit applies to training and validation images separately.
        split_seed: Seed of the splits. It is separate from `seed`, so that runs with different seeds share the test split.

    Raises:
        ValueError: a value is out of range, the name or the user in ~USER is unknown, or a path is needed and not given.
    """

    name: str = "digits"
    path: str | None = None
    test: float = bounded(0.25, 0.01, 0.9)
    validation: float = bounded(0.25, 0.01, 0.9)
    limit: int | None = bounded(None, 20)
    split_seed: int = bounded(0, 0)

    def __post_init__(self) -> None:
        from nas.data.sources import SOURCES

        faults = check_bounds(self)
        if self.name not in SOURCES:
            faults.append(("name", f"must be one of {', '.join(SOURCES)}, got {self.name!r}"))
        if self.name in ("folder", "npz") and self.path is None:
            faults.append(("path", f"must be given for {self.name}"))
        if self.path is not None:
            try:
                object.__setattr__(self, "path", str(Path(self.path).expanduser()))
            except RuntimeError as error:  # The user in ~USER is unknown, or has no home folder.
                faults.append(("path", f"cannot be read, got {self.path!r}: {error}"))
        raise_if_invalid(faults)
