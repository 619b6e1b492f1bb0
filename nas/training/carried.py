"""Tensors that a recipe carries between the batches of one training."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import torch

from evaluators.engine.noise import ImageNoise
from nas.training.augment import Placement
from nas.training.recipes.carrying import BatchRecipe, CarriedRows, CarryingRecipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from nas.training.recipes.base import Recipe

# Number of images for which initial values are drawn at once. The random numbers need several times the memory of images.
DRAWN = 1024


@final
class Carried:
    """The carried tensors of one training: one row for each image of the data, or for each place in the batch.

    Rows of images are stored without the shift and the mirroring of the augmentation.

    Args:
        recipe: The recipe of the training. If it carries nothing, there are no tensors.
        x: Training images, (N, C, H, W).
        batch: Number of images in a batch.
        seed: Seed of the initial values.
    """

    def __init__(self, recipe: Recipe, x: Tensor, batch: int, seed: int) -> None:
        self._tensors: dict[str, Tensor] = {}
        self._device, self._places = x.device, torch.arange(batch, device=x.device)
        self._per_image = isinstance(recipe, CarryingRecipe) and recipe.per_image
        if isinstance(recipe, CarryingRecipe):
            _check(recipe, x)
            parts = torch.arange(len(x) if self._per_image else batch, device=x.device).split(DRAWN)
            drawn = [recipe.initial(x[index], ImageNoise.of(seed, index)) for index in parts]
            self._tensors = {name: torch.cat([values[name] for values in drawn]) for name in drawn[0]}

    @contextmanager
    def batch(self, recipe: Recipe, images: Tensor, placement: Placement) -> Iterator[Recipe]:
        """Gives the recipe of one batch, and stores its rows at the end. A recipe that carries nothing is given unchanged.

        Rows are shifted and mirrored as their images are. Where the shift removes a pixel from the image, rows keep their
        values.

        Args:
            recipe: The recipe, with the radius of the epoch.
            images: Indices of the batch's images in the data, (N,).
            placement: Their shifts and mirroring.
        """
        if not isinstance(recipe, CarryingRecipe):
            yield recipe
            return
        if not self._per_image:
            images, placement = self._places, Placement()
        rows = CarriedRows.of({name: placement.apply(values[images]) for name, values in self._tensors.items()})
        yield BatchRecipe(recipe, rows)
        for name, after in rows.after().items():
            visible = placement.undo(torch.ones_like(after)) > 0
            self._tensors[name][images] = torch.where(visible, placement.undo(after), self._tensors[name][images])

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the tensors by name."""
        return self._tensors

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Returns whether a state has the names and the shapes of these tensors, or the recipe carries nothing."""
        if not self._tensors:
            return True
        shapes = [{name: value.shape for name, value in tensors.items()} for tensors in (state, self._tensors)]
        return shapes[0] == shapes[1]

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replaces the tensors by those of a state."""
        self._tensors = {name: value.to(self._device) for name, value in state.items()}

    def clear(self) -> None:
        """Drops the tensors, for the rest of a training with a recipe that carries nothing."""
        self._tensors = {}


def _check(recipe: CarryingRecipe, x: Tensor) -> None:
    """Checks what a carrying recipe returns, with the first images of x (N, C, H, W).

    Raises:
        TypeError: it has the wrong type.
        ValueError: a tensor does not have the shape of the images, or replays is below 1.
    """
    kind = type(recipe).__name__
    if not isinstance(recipe.replays, int) or recipe.replays < 1:
        raise ValueError(f"{kind}.replays must be an int, at least 1, got {recipe.replays!r}")
    if isinstance(recipe.remedy(), CarryingRecipe):
        raise TypeError(f"{kind}.remedy must return a recipe that carries nothing, such as PGDRecipe(steps=3)")
    first = x[:2]
    tensors = recipe.initial(first, ImageNoise.of(0, torch.arange(len(first), device=x.device)))
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise TypeError(f"{kind}.initial must return a dict of tensors by name, got {type(tensors).__name__}")
    for name, value in tensors.items():
        if value.shape != first.shape:
            raise ValueError(
                f"{kind}.initial must return tensors shaped like the images, {tuple(first.shape)}, got {name} with "
                f"shape {tuple(value.shape)}"
            )
