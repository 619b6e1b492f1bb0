"""Images in folders: PATH/CLASS/IMAGE, or PATH/SPLIT/CLASS/IMAGE.

All image formats and numbers of bits per pixel that Pillow supports are read. Transparent images are composited on white,
and EXIF orientation is applied.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from nas.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

# Names of subfolders that are splits, in lower case.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "holdout"), "test"),
}
# Pillow's modes of grey images, and its modes with more than 8 bits per pixel.
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
# Largest possible pixel values: of floats in [0, 1], and of integers with 8, 12, 16 and 32 bits.
_RANGES = (1.0, 255.0, 4095.0, 65535.0, 2.0**32 - 1)


def read_folder(path: Path, part: str) -> tuple[NDArray[Any], NDArray[np.int64], tuple[str, ...], bool] | None:
    """Returns images (N, C, H, W), labels (N,) and classes of one part of a folder, and whether there is no test split.

    Without a test split, the parts train and test are the same images, and the caller splits them. All images must have the
    most common size of the training images. Images are read as grey if all training images are grey, and as RGB otherwise.

    If all training images are grey, and at least one has more than 8 bits per pixel, the images are float32 in [0, 1]. All
    pixels are divided by the smallest of 1, 255, 4095, 65535 and 2**32 - 1 that no training pixel exceeds. Otherwise, the
    images are uint8. An image with more than 8 bits per pixel is then divided by the smallest of these numbers that none of
    its own pixels exceeds, and scaled to 0 to 255.

    Args:
        path: The folder.
        part: train, validation or test.

    Returns:
        None for the part validation if the folder has no such split.

    Raises:
        DataError: the folder is missing; its splits are ambiguous or differ in classes; an image is unreadable or of another
            size.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; data.path must hold one folder of images per class")
    splits = _splits(path)
    if part not in splits and part == "validation":
        return None
    # The training images define the size, the colour mode, the depth and the class indices.
    first = _listing(splits["train"])
    # All parts are checked, whichever part is read, so that a fault in the test split is found before a search.
    listings = {"train": first} | {name: _listing(place) for name, place in splits.items() if name != "train"}
    for name, listing in listings.items():
        if odd := sorted({*first.classes} ^ {*listing.classes}):
            raise DataError(
                f"{splits[name]}: must hold the same classes as {splits['train']}; only one of the two has {', '.join(odd)}"
            )
    headers = [_header(file) for file, _ in first.files]
    size = Counter(size for size, _ in headers).most_common(1)[0][0]
    mode = "L" if all(mode in _GREY for _, mode in headers) else "RGB"
    listing = listings.get(part, first)
    labels = np.array([label for _, label in listing.files], dtype=np.int64)
    whole = "test" not in splits
    if mode == "L" and any(kind in _DEEP for _, kind in headers):
        trained = _deep_images(first, size)
        x = (trained if listing is first else _deep_images(listing, size)) / _range_of(trained.max())
        return x.clip(0, 1).astype(np.float32), labels, first.classes, whole
    return np.stack([_read_image(file, size, mode) for file, _ in listing.files]), labels, first.classes, whole


def _splits(path: Path) -> dict[str, Path]:
    """Returns the folders of the splits by part; the folder itself is the part train if it has no splits.

    Raises:
        DataError: two folders are the same split, there is no training split, or other folders stand beside the splits.
    """
    folders = _subfolders(path)
    splits: dict[str, Path] = {}
    # A class may have the name of a split: its folder then holds images, and no folders.
    named = [place for place in folders if place.name.lower() in SPLITS and _subfolders(place)]
    if not named:
        return {"train": path}
    for place in named:
        part = SPLITS[place.name.lower()]
        if part in splits:
            raise DataError(f"{path}: must hold one {part} split, found {splits[part].name} and {place.name}")
        splits[part] = place
    if others := [place.name for place in folders if place not in named]:
        raise DataError(f"{path}: must hold splits or classes; beside the splits it holds {', '.join(others)}")
    if "train" not in splits:
        raise DataError(f"{path}: must hold a split named train, found only {', '.join(p.name for p in named)}")
    return splits


def _subfolders(path: Path) -> list[Path]:
    """Returns the folders in a folder that are not hidden, sorted."""
    return [place for place in sorted(path.iterdir()) if place.is_dir() and not place.name.startswith(".")]


@final
@dataclass(frozen=True)
class _Listing:
    """Files of a folder with one subfolder per class.

    Attributes:
        classes: Names of the classes, sorted.
        files: Image files with their class indices.
    """

    classes: tuple[str, ...]
    files: tuple[tuple[Path, int], ...]


def _listing(root: Path) -> _Listing:
    """Returns the images of a folder with one subfolder per class. Hidden files and folders are ignored.

    Raises:
        DataError: there are fewer than two classes, or a class has no images.
    """
    from PIL import Image

    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    folders = _subfolders(root)
    what = f"{root}: must hold one folder of images per class"
    if not folders:
        raise DataError(f"{what}: it holds no folder")
    files, left = [], []
    for label, place in enumerate(folders):
        inside = [file for file in sorted(place.rglob("*")) if file.is_file() and not file.name.startswith(".")]
        images = [file for file in inside if file.suffix.lower() in suffixes]
        left += [file for file in inside if file.suffix.lower() not in suffixes]
        if not images:
            raise DataError(
                f"{what}: {place.name} holds no image; image files end in {', '.join(_COMMON)} or another suffix of Pillow"
            )
        files += [(file, label) for file in images]
    if len(folders) < 2:
        raise DataError(f"{root}: must hold at least 2 classes, found {len(folders)}: {folders[0].name}")
    if left:
        names = ", ".join(sorted({file.name for file in left})[:3])
        warnings.warn(f"{root}: left out {len(left)} files that are not images, such as {names}", stacklevel=2)
    return _Listing(tuple(place.name for place in folders), tuple(files))


_COMMON = (".png", ".jpg", ".tif", ".bmp")


@functools.lru_cache(maxsize=1_000_000)
def _header(file: Path) -> tuple[tuple[int, int], str]:
    """Returns the size (width, height) after EXIF orientation, and the mode of an image, without reading its pixels."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            return (image.size[::-1] if turned else image.size), image.mode
    except Exception as error:  # Pillow raises various errors for damaged images.
        raise DataError(f"{file}: cannot be read as an image: {error}") from error


_ORIENTATION = 274


def _open(file: Path, size: tuple[int, int]) -> Image:
    """Returns an image with its EXIF orientation applied.

    Raises:
        DataError: the image is unreadable or has another size.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as source:
            image = ImageOps.exif_transpose(source)
            image.load()
    except Exception as error:  # Pillow raises various errors for damaged images.
        raise DataError(f"{file}: cannot be read as an image: {error}") from error
    if image.size != size:
        raise DataError(
            f"{file}: must be {size[0]} x {size[1]} like most training images, "
            f"got {image.size[0]} x {image.size[1]}; resize the images to one size"
        )
    return image


def _read_image(file: Path, size: tuple[int, int], mode: str) -> NDArray[np.uint8]:
    """Returns one image of 8 bits, (1, H, W) in mode L, (3, H, W) in mode RGB."""
    from PIL import Image

    image = _open(file, size)
    try:
        if image.mode in _DEEP:  # Pillow would clip the values of an image with more than 8 bits at 255.
            values = np.asarray(image, dtype=np.float64)
            image = Image.fromarray((255 * values / _range_of(values.max())).clip(0, 255).astype(np.uint8))
        elif image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        pixels = np.asarray(image.convert(mode))
    except Exception as error:
        raise DataError(f"{file}: cannot be read as an image: {error}") from error
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def _deep(file: Path, size: tuple[int, int]) -> NDArray[np.float64]:
    """Returns one grey image with any number of bits, (H, W), with the pixel values of the file."""
    image = _open(file, size)
    if image.mode not in _DEEP:
        grey: NDArray[np.float64] = _read_image(file, size, "L")[0].astype(np.float64)
        return grey
    values: NDArray[np.float64] = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all() or values.min() < 0:
        raise DataError(f"{file}: pixels must be finite and at least 0, got {values.min():.9g} to {values.max():.9g}")
    return values


def _deep_images(listing: _Listing, size: tuple[int, int]) -> NDArray[np.float64]:
    """Returns grey images with any number of bits, (N, 1, H, W), with the pixel values of the files."""
    return np.stack([_deep(file, size) for file, _ in listing.files])[:, None]


def _range_of(largest: float) -> float:
    return next((top for top in _RANGES if largest <= top), largest)
