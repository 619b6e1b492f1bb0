"""Cache of losses and gradients at the clean images."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from evaluators.attacks.losses import Loss


@final
class CleanGradientCache:
    """Cache of losses and gradients at the clean images.

    Attacks that start at the clean image need the same first gradient at every epsilon of a curve.

    Attributes:
        x: All clean images, (N, ...).
        images: Indices in x of the images of the current batch, (M,).
    """

    def __init__(self, x: Tensor, images: Tensor, kept: dict[Loss, tuple[Tensor, Tensor, Tensor]] | None = None) -> None:
        self.x, self.images = x, images
        self._kept = {} if kept is None else kept

    def select(self, index: Tensor) -> CleanGradientCache:
        """Returns a view of the same cache for the images with the indices `index` in `x`, (M,)."""
        return CleanGradientCache(self.x, index, self._kept)

    def take(self, places: Tensor, loss: Loss, compute: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Returns the loss at some clean images, (P,), and its gradient, (P, ...).

        Args:
            places: Positions of the images in `images`, (P,).
            loss: Loss to differentiate.
            compute: Function from positions to losses and gradients. It is called for images that are not in the cache.
        """
        if loss not in self._kept:
            known = torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device)
            self._kept[loss] = self.x.new_zeros(len(self.x)), torch.zeros_like(self.x), known
        values, gradients, known = self._kept[loss]
        images = self.images[places]
        new = ~known[images]
        if bool(new.any()):
            losses, gradients[images[new]] = compute(places[new])
            values[images[new]] = losses.to(values.dtype)  # The logits may have another dtype than the images.
            known[images[new]] = True
        return values[images], gradients[images]
