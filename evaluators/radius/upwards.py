"""Radii under attacks that need an epsilon: the epsilons of the grid in ascending order, then a bisection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evaluators.engine.noise import stream_of
from evaluators.radius.attempt import fooled_sizes
from evaluators.radius.grid import MOST_ROUNDS
from evaluators.radius.progress import part_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from evaluators.radius.attempt import Attempt
    from evaluators.radius.progress import Progress


def search_upwards(
    attempt: Attempt, grid: Sequence[float], image_radii: Tensor, report: Progress, tolerance: float | None
) -> Tensor:
    """Returns the radii under an attack that needs an epsilon.

    The epsilons of the grid are tried in ascending order. With a tolerance, a bisection follows.
    """
    below = torch.zeros_like(image_radii)  # The largest epsilon at which each image was not fooled.
    for number, epsilon in enumerate(grid):
        open_ = (image_radii > epsilon).nonzero().squeeze(1)
        if len(open_) == 0:
            break
        sizes = torch.full((len(open_),), epsilon, dtype=torch.float64)
        fooled = fooled_sizes(attempt, open_, sizes, stream_of(epsilon), part_of(report, number, len(grid)))
        hit = torch.isfinite(fooled)
        image_radii[open_[hit]] = torch.minimum(fooled[hit], sizes[hit]) if tolerance is not None else epsilon
        below[open_[~hit]] = epsilon
    if tolerance is None:
        return image_radii
    for turn in range(MOST_ROUNDS):
        open_ = (
            (torch.isfinite(image_radii) & (image_radii > 0) & (below < image_radii / (1 + tolerance))).nonzero().squeeze(1)
        )
        if len(open_) == 0:
            break
        low, high = below[open_], image_radii[open_]
        sizes = torch.where(low > 0, (low * high).sqrt(), high / 4)
        fooled = fooled_sizes(attempt, open_, sizes, turn)
        hit = torch.isfinite(fooled)
        image_radii[open_[hit]] = torch.minimum(fooled[hit], sizes[hit])
        below[open_[~hit]] = sizes[~hit]
    return image_radii
