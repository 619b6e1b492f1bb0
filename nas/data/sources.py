"""Sources of images. A source is a function that returns raw images and labels.

To add a source, write a function `(path, part) -> RawImages | None` and add it to `SOURCES`. If the source has no validation
split, the function returns None for the part validation. The validation split is then a share of the training images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from nas.data.image_folder import read_folder
from nas.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable


Part = Literal["train", "validation", "test"]
CACHE = Path("~/.cache/hardcell")


@final
@dataclass(frozen=True)
class RawImages:
    """Images and labels of a source, before the split.

    Attributes:
        x: Images, (N, C, H, W): uint8, or floating point in [0, 1].
        y: Class indices, (N,) int64.
        classes: Names of the classes.
        whole: Whether the source has no test split. If it has none, the test split is a share of these images.
    """

    x: NDArray[Any]
    y: NDArray[np.int64]
    classes: tuple[str, ...]
    whole: bool


def digits(path: Path | None, part: Part) -> RawImages | None:
    """Returns scikit-learn's handwritten digits: 1,797 real images, 8 x 8, 10 classes, no download."""
    from sklearn.datasets import load_digits

    if part == "validation":
        return None
    dataset = load_digits()
    x = (dataset.images / 16).astype(np.float32)[:, None]
    return RawImages(x, dataset.target.astype(np.int64), tuple(str(c) for c in range(10)), whole=True)


def mnist(path: Path | None, part: Part) -> RawImages | None:
    """Returns MNIST, 28 x 28, 10 classes, downloaded on first use."""
    return _torchvision("MNIST", path, part)


def fashion_mnist(path: Path | None, part: Part) -> RawImages | None:
    """Returns Fashion-MNIST, 28 x 28, 10 classes, downloaded on first use."""
    return _torchvision("FashionMNIST", path, part)


def cifar10(path: Path | None, part: Part) -> RawImages | None:
    """Returns CIFAR-10, 32 x 32 in colour, 10 classes, downloaded on first use."""
    return _torchvision("CIFAR10", path, part)


def _torchvision(name: str, path: Path | None, part: Part) -> RawImages | None:
    from torchvision import datasets

    if part == "validation":
        return None
    kind, root = getattr(datasets, name), str((path or CACHE).expanduser())
    if path is not None and not Path(root).is_dir():  # A path that comes with a bundle must not create folders.
        raise DataError(f"{root}: no such folder; create it, then {name} is downloaded into it, or leave data.path out")
    try:
        # The first try does not download: a download needs a writable folder, but a read-only one may hold the files.
        dataset = kind(root, train=part == "train", download=False)
    except RuntimeError:
        try:
            dataset = kind(root, train=part == "train", download=True)
        except Exception as error:
            raise DataError(
                f"{name} is not in {root} and cannot be downloaded ({type(error).__name__}: {error}); "
                "copy its files there, or set data.path to their folder"
            ) from error
    except Exception as error:
        raise DataError(
            f"{name} in {root} is damaged ({type(error).__name__}: {error}); delete it to download it again"
        ) from error
    x = np.asarray(dataset.data)
    x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
    return RawImages(x, np.asarray(dataset.targets, dtype=np.int64), tuple(str(c) for c in dataset.classes), whole=False)


def folder(path: Path | None, part: Part) -> RawImages | None:
    """Returns the images of a folder with one subfolder per class, as `read_folder` reads them."""
    assert path is not None
    found = read_folder(path, part)
    return None if found is None else RawImages(*found)


def npz(path: Path | None, part: Part) -> RawImages | None:
    """Returns the images of an .npz file with arrays x and y, or x_train, y_train, x_test and y_test.

    The arrays x_val and y_val, if present, are the validation split. Images are (N, H, W), (N, H, W, C) or (N, C, H, W),
    uint8 or floating point in [0, 1]. Labels are integers, (N,).

    Raises:
        DataError: the file is unreadable, or an array is missing or has a wrong shape, type or label.
    """
    assert path is not None
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: must be .npz with arrays x and y, found a single array")
            split = "x_train" in arrays
            if part == "validation" and not (split and "x_val" in arrays):
                return None
            place = {"validation": "val"}.get(part, part)
            names = (f"x_{place}", f"y_{place}", "y_train") if split else ("x", "y", "y")
            missing = [name for name in names if name not in arrays]
            if missing:
                raise DataError(f"{path}: must hold x and y, or x_train, y_train, x_test, y_test; found {', '.join(arrays)}")
            x, y, trained = (arrays[name] for name in names)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:  # numpy raises various errors for damaged archives.
        raise DataError(f"{path}: cannot be read as .npz: {error}") from error
    wanted = f"({len(x)},)" if x.ndim else "(N,)"
    for labels in (y, trained):
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) == 0:
            raise DataError(
                f"{path}: labels must be integers of shape {wanted}, one per image, "
                f"got {labels.dtype} of shape {labels.shape}"
            )
        if labels.min() < 0:
            raise DataError(f"{path}: labels must be 0 or more, got {labels.min()}")
    if x.ndim == 0 or len(x) != len(y):
        raise DataError(
            f"{path}: labels must be integers of shape {wanted}, one per image, got {y.dtype} of shape {y.shape}"
        )
    count = int(trained.max()) + 1
    used = np.unique(trained)
    if len(used) < count:
        gaps = np.setdiff1d(np.arange(min(count, len(used) + 5)), used)[:5]
        raise DataError(
            f"{path}: labels must be 0 to K - 1 for K classes, each with training images; the largest is {count - 1}, and "
            f"{count - len(used)} classes have no images, such as {', '.join(map(str, gaps))}"
        )
    if y.max() >= count:
        raise DataError(f"{path}: {part} labels must be classes of the training images, 0 to {count - 1}, got {y.max()}")
    return RawImages(_channels_first(x, path), y.astype(np.int64), tuple(str(c) for c in range(count)), whole=not split)


def _channels_first(x: NDArray[Any], path: Path) -> NDArray[Any]:
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise DataError(f"{path}: images must be (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, got {x.shape}")
    return x


SOURCES: dict[str, Callable[[Path | None, Part], RawImages | None]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "folder": folder,
    "npz": npz,
}
