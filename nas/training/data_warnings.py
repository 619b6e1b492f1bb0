"""Warnings about training data: a batch larger than the data, and classes without images."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.data import Dataset

# Largest number of classes that a warning names.
SHOWN_CLASSES = 5


def data_warnings(data: Dataset, batch_size: int) -> list[str]:
    """Returns one text for each fault of the data that training survives.

    Args:
        data: Training and validation images.
        batch_size: Number of images in one step.
    """
    texts = []
    count = len(data.train.x)
    if count < batch_size:
        texts.append(f"batch_size is {batch_size}, but there are only {count} training images; each batch holds all of them")
    for name, split in (("training", data.train), ("validation", data.validation)):
        present = set(split.y.unique().tolist())
        lacking = [str(label) for index, label in enumerate(data.classes) if index not in present]
        if lacking:
            more = f" and {len(lacking) - SHOWN_CLASSES} more" if len(lacking) > SHOWN_CLASSES else ""
            listed = ", ".join(lacking[:SHOWN_CLASSES])
            classes = "class" if len(lacking) == 1 else "classes"
            texts.append(f"the {name} split has no image of {classes} {listed}{more}; use more images or another split")
    return texts
