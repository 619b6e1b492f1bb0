"""Splits of images, fixed by a seed and identified by a hash. The test split is opened separately."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from nas.data.sources import SOURCES, Part, RawImages
from nas.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nas.data.config import DataConfig


# Floating-point pixels may exceed [0, 1] by this much, for example after resampling; they are clipped.
ROUNDING = 1e-3


@final
@dataclass(frozen=True)
class Split:
    """Images and labels.

    Attributes:
        x: Images, (N, C, H, W) float32, pixels in [0, 1].
        y: Labels, (N,) int64.
        hash: Hash of the images and labels, 16 hexadecimal digits.
    """

    x: Tensor
    y: Tensor
    hash: str

    def __reduce__(self) -> tuple[Callable[[Any, Any, str], Split], tuple[Any, Any, str]]:
        """Pickles the tensors as arrays, which Ray shares without a copy. The unpickled split is on the CPU."""
        return _from_arrays, (self.x.numpy(force=True), self.y.numpy(force=True), self.hash)

    def to(self, device: torch.device | str) -> Split:
        """Returns the split on a device."""
        return Split(self.x.to(device), self.y.to(device), self.hash)

    def first(self, count: int) -> Split:
        """Returns the first images, at most count. Their order is random, so they are a random sample."""
        if count >= len(self.x):
            return self
        return _split(self.x[:count].numpy(force=True), self.y[:count].numpy(force=True)).to(self.x.device)


@final
@dataclass(frozen=True)
class Dataset:
    """The training and validation splits. Trials use no other images.

    Attributes:
        name: Name of the source.
        classes: Names of the classes.
        train: The training split.
        validation: The validation split.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train.x.shape[1:]
        return channels, height, width

    def to(self, device: torch.device | str) -> Dataset:
        """Returns the dataset on a device."""
        return Dataset(self.name, self.classes, self.train.to(device), self.validation.to(device))


def open_data(config: DataConfig) -> Dataset:
    """Returns the training and validation splits, on the CPU.

    Args:
        config: Source, shares and seed of the splits.

    Raises:
        DataError: the images are missing, unreadable, of different sizes, of one class, or too few, or their pixels have a
            wrong type or are out of range.
    """
    raw, pool, _ = _open(config, "train")
    path = None if config.path is None else Path(config.path)
    validation = SOURCES[config.name](path, "validation")
    if validation is not None:
        _check(validation, config)
        order = np.random.default_rng(config.split_seed).permutation(len(validation.y))[: config.limit]
        train = _select(raw, pool[: config.limit])
        return Dataset(config.name, raw.classes, train=train, validation=_select(validation, order))
    pool = pool[: config.limit]
    held = _count_held_out(len(pool), config.validation, f"{_where(config)}: ")
    return Dataset(config.name, raw.classes, train=_select(raw, pool[held:]), validation=_select(raw, pool[:held]))


def split_at_random(x: Tensor, y: Tensor, validation: float, seed: int) -> Dataset:
    """Returns images (N, C, H, W) and labels (N,) as a dataset with a random validation split, on the CPU.

    Args:
        x: Images, pixels in [0, 1].
        y: Labels, int64.
        validation: Share of the images in the validation split, above 0 and below 1.
        seed: Seed of the split.

    Raises:
        DataError: there are too few images for a training and a validation split.
    """
    order = np.random.default_rng(seed).permutation(len(x))
    held = _count_held_out(len(x), validation)
    images, labels = x.numpy(force=True).astype(np.float32), y.numpy(force=True)
    classes = tuple(str(label) for label in range(int(labels.max()) + 1))
    train, rest = (_split(images[index], labels[index]) for index in (order[held:], order[:held]))
    return Dataset("tensors", classes, train=train, validation=rest)


def _count_held_out(count: int, share: float, where: str = "") -> int:
    """Returns the number of images in a validation split that is a share of all images.

    Raises:
        DataError: fewer than two images would be left for training; the message begins with `where`.
    """
    held = max(1, round(count * share))
    if count - held < 2:
        raise DataError(f"{where}too few images for a training and a validation split, got {count}")
    return held


def open_test(config: DataConfig) -> Split:
    """Returns the test split, on the CPU. Trials must not use it.

    Raises:
        DataError: as for `open_data`.
    """
    raw, _, test = _open(config, "test")
    return _select(raw, test)


def _open(config: DataConfig, part: Part) -> tuple[RawImages, NDArray[np.int64], NDArray[np.int64]]:
    """Returns raw images, the shuffled indices for training and validation, and those for the test split.

    If the source has a test split, the raw images are those of the part, and both sets of indices cover all of them.
    """
    raw = SOURCES[config.name](None if config.path is None else Path(config.path), part)
    assert raw is not None, "every source has the parts train and test"
    _check(raw, config)
    order = np.random.default_rng(config.split_seed).permutation(len(raw.y))
    if not raw.whole:
        return raw, order, order
    held = max(1, round(len(order) * config.test))
    return raw, order[held:], order[:held]


def _check(raw: RawImages, config: DataConfig) -> None:
    """Checks the classes and the pixels of images.

    Raises:
        DataError: there are no images, fewer than two classes, or pixels of a wrong type or out of range.
    """
    labels = np.unique(raw.y)
    if len(labels) < 2:
        raise DataError(f"{_where(config)}: must hold at least 2 classes, found {len(labels)}")
    if np.issubdtype(raw.x.dtype, np.floating):
        low, high = float(raw.x.min()), float(raw.x.max())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise DataError(f"{_where(config)}: pixels must be in [0, 1] or uint8, got [{low:.9g}, {high:.9g}]")
    elif raw.x.dtype != np.uint8:
        raise DataError(f"{_where(config)}: pixels must be uint8, or floating point in [0, 1], got {raw.x.dtype}")
    elif int(raw.x.max()) - int(raw.x.min()) < 0.1 * 255:
        warnings.warn(f"{_where(config)}: pixels use only {raw.x.min()} to {raw.x.max()} of 0 to 255", stacklevel=2)


def check_test(config: DataConfig, input_shape: tuple[int, int, int]) -> None:
    """Checks the images of the test split before a search, which otherwise opens them only after all trials.

    Args:
        config: Source, shares and seed of the splits.
        input_shape: Channels, height and width of the training images.

    Raises:
        DataError: as for `open_data`, or the test images have another shape.
    """
    shape = tuple(open_test(config).x.shape[1:])
    if shape != input_shape:
        first, other = (" x ".join(map(str, sizes)) for sizes in (input_shape, shape))
        raise DataError(f"{_where(config)}: test images must be {first} like the training images, got {other}")


def class_names(config: DataConfig) -> tuple[str, ...]:
    """Returns the names of the classes of a source.

    Raises:
        DataError: as for `open_data`.
    """
    return _open(config, "test")[0].classes


def _from_arrays(x: NDArray[Any], y: NDArray[Any], digest: str) -> Split:
    """Returns a split that uses the arrays without a copy. Arrays shared by Ray are read-only: do not write to the split."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return Split(torch.from_numpy(x), torch.from_numpy(y), digest)


def _where(config: DataConfig) -> str:
    return config.path or config.name


def _select(raw: RawImages, index: NDArray[np.int64]) -> Split:
    x = raw.x[index]
    return _split(x.astype(np.float32) / 255 if x.dtype == np.uint8 else x.astype(np.float32).clip(0, 1), raw.y[index])


def _split(x: NDArray[Any], y: NDArray[Any]) -> Split:
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
    digest = hashlib.sha256(str(x.shape).encode())
    digest.update(x.data)
    digest.update(y.data)
    return Split(torch.from_numpy(x), torch.from_numpy(y), digest.hexdigest()[:16])
