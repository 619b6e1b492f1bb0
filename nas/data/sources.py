"""Sources of images. A source is a function from a path to raw arrays.

To add one, write a function `(path, part) -> RawImages` and add it to `SOURCES`.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from nas.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable


Part = Literal["train", "test"]
CACHE = Path("~/.cache/hardcell")


@final
@dataclass(frozen=True)
class RawImages:
    """Images and labels of a source, before the split.

    Attributes:
        x: Images, (N, C, H, W): uint8, or floating point in [0, 1].
        y: Class indices, (N,) int64.
        classes: Names of the classes.
        whole: Whether these are all images of the source, because it has no test split.
    """

    x: NDArray[Any]
    y: NDArray[np.int64]
    classes: tuple[str, ...]
    whole: bool


def digits(path: Path | None, part: Part) -> RawImages:
    """Returns scikit-learn's handwritten digits: 1,797 real images, 8 x 8, 10 classes, no download."""
    from sklearn.datasets import load_digits

    dataset = load_digits()
    x = (dataset.images / 16).astype(np.float32)[:, None]
    return RawImages(x, dataset.target.astype(np.int64), tuple(str(c) for c in range(10)), whole=True)


def mnist(path: Path | None, part: Part) -> RawImages:
    """Returns MNIST, 28 x 28, 10 classes, downloaded on first use."""
    return _torchvision("MNIST", path, part)


def fashion_mnist(path: Path | None, part: Part) -> RawImages:
    """Returns Fashion-MNIST, 28 x 28, 10 classes, downloaded on first use."""
    return _torchvision("FashionMNIST", path, part)


def cifar10(path: Path | None, part: Part) -> RawImages:
    """Returns CIFAR-10, 32 x 32 in colour, 10 classes, downloaded on first use."""
    return _torchvision("CIFAR10", path, part)


def _torchvision(name: str, path: Path | None, part: Part) -> RawImages:
    from torchvision import datasets

    kind, root = getattr(datasets, name), str((path or CACHE).expanduser())
    try:
        # Without download first: a read-only folder may already hold the files.
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


def folder(path: Path | None, part: Part) -> RawImages:
    """Returns the images of a folder: PATH/CLASS/IMAGE, or PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE.

    All images must have the most common size of the training images. They are grey if all training images are grey.

    Raises:
        DataError: the folder is missing, an image is unreadable or of another size, or train and test differ in classes.
    """
    assert path is not None
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; data.path must hold one folder of images per class")
    split = (path / "train").is_dir() and (path / "test").is_dir()
    # The training images define the size, the colour mode and the class indices.
    first = _listing(path / "train" if split else path)
    # Checked for both parts, so that a search does not end with an error in the test images.
    test = _listing(path / "test") if split else first
    if odd := sorted({*first.classes} ^ {*test.classes}):
        raise DataError(
            f"{path / 'test'}: must hold the classes of {path / 'train'}; only one of them holds {', '.join(odd)}"
        )
    listing = test if part == "test" else first
    size = Counter(_header(Path(file))[0] for file, _ in first.samples).most_common(1)[0][0]
    mode = "L" if all(_header(Path(file))[1] in _GREY for file, _ in first.samples) else "RGB"
    x = np.stack([_read_image(Path(file), size, mode) for file, _ in listing.samples])
    y = np.array([label for _, label in listing.samples], dtype=np.int64)
    return RawImages(x, y, tuple(first.classes), whole=not split)


_GREY = ("1", "L", "I", "I;16", "I;16B")


def _listing(root: Path) -> Any:
    """Returns torchvision's `ImageFolder` of a folder with one subfolder per class."""
    from torchvision.datasets import ImageFolder

    try:
        listing = ImageFolder(str(root))
    except (FileNotFoundError, RuntimeError) as error:
        raise DataError(f"{root}: must hold one folder of images per class: {' '.join(str(error).split())}") from error
    if len(listing.classes) < 2:
        raise DataError(f"{root}: must hold at least 2 classes, found {len(listing.classes)}: {', '.join(listing.classes)}")
    return listing


@functools.lru_cache(maxsize=1_000_000)
def _header(file: Path) -> tuple[tuple[int, int], str]:
    """Returns the size (width, height) and the mode of an image, without reading its pixels."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.size, image.mode
    except Exception as error:  # Pillow raises various errors for damaged images.
        raise DataError(f"{file}: cannot be read as an image: {error}") from error


def _read_image(file: Path, size: tuple[int, int], mode: str) -> NDArray[np.uint8]:
    """Returns one image, (1, H, W) in mode L, (3, H, W) in mode RGB."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.size != size:
                raise DataError(
                    f"{file}: must be {size[0]} x {size[1]} like most training images, "
                    f"got {image.size[0]} x {image.size[1]}; resize the images to one size"
                )
            if image.mode.startswith("I"):  # 16 bits: Pillow would clip the values to 255.
                grey = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
                pixels = np.asarray(grey.convert(mode))
            else:
                pixels = np.asarray(image.convert(mode))
    except DataError:
        raise
    except Exception as error:  # Pillow raises various errors for damaged images.
        raise DataError(f"{file}: cannot be read as an image: {error}") from error
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def npz(path: Path | None, part: Part) -> RawImages:
    """Returns the images of an .npz file with arrays x and y, or x_train, y_train, x_test and y_test.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or floating point in [0, 1]. Labels are integers, (N,).

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
            names = (f"x_{part}", f"y_{part}", "y_train") if split else ("x", "y", "y")
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
    if y.max() >= count:
        raise DataError(f"{path}: test labels must be classes of the training images, 0 to {count - 1}, got {y.max()}")
    return RawImages(_channels_first(x, path), y.astype(np.int64), tuple(str(c) for c in range(count)), whole=not split)


def _channels_first(x: NDArray[Any], path: Path) -> NDArray[Any]:
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise DataError(f"{path}: images must be (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, got {x.shape}")
    return x


SOURCES: dict[str, Callable[[Path | None, Part], RawImages]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "folder": folder,
    "npz": npz,
}
