"""Warnings about training data: images that are too few or not used, and classes without images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.training.batches import SMALLEST
from nas.training.recipes.carrying import CarryingRecipe

if TYPE_CHECKING:
    from nas.data import Dataset
    from nas.training.config import TrainingConfig

# Largest number of classes that a warning names.
SHOWN_CLASSES = 5


def data_warnings(data: Dataset, config: TrainingConfig) -> list[str]:
    """Returns one text for each fault of the data that training survives.

    Args:
        data: Training and validation images.
        config: Settings of the training.
    """
    texts = []
    count = len(data.train.x)
    if count < (config.batch_size or SMALLEST):
        size = "" if config.batch_size is None else f"batch_size is {config.batch_size}, but "
        texts.append(f"{size}there are only {count} training images; each batch holds all of them")
    replays = config.recipe.replays if isinstance(config.recipe, CarryingRecipe) else 1
    if config.epochs < replays:
        texts.append(
            f"with {replays} replays, {config.epochs} epochs are no full pass over the training images; some are never used"
        )
    for name, split in (("training", data.train), ("validation", data.validation)):
        present = set(split.y.unique().tolist())
        lacking = [str(label) for index, label in enumerate(data.classes) if index not in present]
        if lacking:
            more = f" and {len(lacking) - SHOWN_CLASSES} more" if len(lacking) > SHOWN_CLASSES else ""
            listed = ", ".join(lacking[:SHOWN_CLASSES])
            classes = "class" if len(lacking) == 1 else "classes"
            texts.append(f"the {name} split has no image of {classes} {listed}{more}; use more images or another split")
    return texts
