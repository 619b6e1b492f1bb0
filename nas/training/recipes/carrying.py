"""Recipes whose training points depend on earlier batches."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from nas.training.recipes.base import BallRecipe, Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from evaluators.engine.noise import ImageNoise


@final
class CarriedRows:
    """Carried tensors of the images of one pass, by name, each shaped like the images (N, C, H, W).

    Reading gives the values before the batch, and writing sets those after it. Therefore a batch can be repeated after
    the memory runs out.
    """

    def __init__(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor], index: Tensor | slice) -> None:
        self._before, self._after, self._index = before, after, index

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> CarriedRows:
        """Returns rows with these values before the batch, and the same after it until they are written."""
        return cls(tensors, {name: value.clone() for name, value in tensors.items()}, slice(None))

    def read(self, name: str) -> Tensor:
        """Returns the values before the batch, (N, C, H, W)."""
        return self._before[name][self._index]

    def write(self, name: str, value: Tensor) -> None:
        """Sets the values after the batch, (N, C, H, W)."""
        after = self._after[name]
        after[self._index] = value.detach().to(after.dtype)

    def select(self, index: Tensor | slice) -> CarriedRows:
        """Returns the rows of some images of the batch, by their index in the batch. `after` sees what they write."""
        return CarriedRows(self._before, self._after, index)

    def after(self) -> Mapping[str, Tensor]:
        """Returns the values of all images of the batch after it."""
        return self._after


@dataclass(frozen=True, kw_only=True)
class CarryingRecipe(BallRecipe):
    """A recipe that carries tensors from batch to batch.

    The recipe itself is frozen. The training holds the tensors, gives their rows to `points_from` and `loss_from`, and
    writes them into its checkpoints. `points` and `loss` are those without earlier batches.
    """

    @property
    @abstractmethod
    def per_image(self) -> bool:
        """Whether a row belongs to an image, and is shifted and mirrored with it.

        Otherwise, a row belongs to a place in the batch.
        """

    @property
    @abstractmethod
    def replays(self) -> int:
        """Number of updates in a row on one batch, at least 1. The passes over the images are divided by it."""

    @abstractmethod
    def initial(self, x: Tensor, noise: ImageNoise) -> dict[str, Tensor]:
        """Returns the tensors before the first batch by name, each shaped like x (N, C, H, W)."""

    @abstractmethod
    def points_from(self, rows: CarriedRows, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Returns the points to train on, as `points`."""

    @abstractmethod
    def loss_from(self, rows: CarriedRows, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the loss, as `loss`."""


@final
class BatchRecipe(Recipe):
    """A carrying recipe with the rows of one batch, or of a part of it."""

    def __init__(self, recipe: CarryingRecipe, rows: CarriedRows) -> None:
        self.rows, self._recipe = rows, recipe

    def select(self, index: Tensor | slice) -> BatchRecipe:
        """Returns the recipe of a part of the batch."""
        return BatchRecipe(self._recipe, self.rows.select(index))

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the points of the recipe, shaped like x."""
        return self._recipe.points_from(self.rows, network, x, y)

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the loss of the recipe."""
        return self._recipe.loss_from(self.rows, network, x, points, y)
