"""Training on clean images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from nas.training.recipes.base import CrossEntropyRecipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.engine.noise import ImageNoise


@final
@dataclass(frozen=True, kw_only=True)
class Standard(CrossEntropyRecipe):
    """Cross-entropy on clean images."""

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the images x."""
        return x

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the mean cross-entropy at the images."""
        return self.cross_entropy(network(points), y)
