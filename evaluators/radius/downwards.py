"""Radii under attacks that need an epsilon: from a known radius to smaller and smaller epsilons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evaluators.radius.attempt import fooled_sizes
from evaluators.radius.grid import MOST_ROUNDS, SLACK, rounded_up
from evaluators.radius.progress import half_of_the_rest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from evaluators.radius.attempt import Attempt
    from evaluators.radius.progress import Progress

# Largest factor by which one attempt divides a radius.
LARGEST_DIVISOR = 4.0


def search_downwards(
    attempt: Attempt, grid: Sequence[float], image_radii: Tensor, report: Progress, tolerance: float | None
) -> Tensor:
    """Returns the smaller of the known radii and those under an attack that needs an epsilon.

    Each image is attacked just below its known radius: at the next epsilon of the grid, or with a tolerance at the radius
    divided by 1 + tolerance. It is attacked at smaller and smaller epsilons as long as the attack succeeds. So an image
    without a smaller radius costs one attempt. Images without a finite radius start at the largest epsilon.
    """
    if not grid:
        return image_radii
    edges = torch.tensor(grid, dtype=torch.float64)
    below = torch.zeros_like(image_radii)  # The largest epsilon at which each image was not fooled.
    hits = torch.zeros_like(image_radii)  # Number of successes of each image.
    for turn in range(len(grid) if tolerance is None else MOST_ROUNDS):
        sizes = _next_below(image_radii, below, hits, edges, tolerance)
        open_ = sizes.nonzero().squeeze(1)
        if len(open_) == 0:
            break
        sizes = sizes[open_]
        fooled = fooled_sizes(attempt, open_, sizes, turn, half_of_the_rest(report, turn))
        hit = torch.isfinite(fooled)
        smaller = torch.minimum(fooled[hit], sizes[hit])
        image_radii[open_[hit]] = rounded_up(smaller, edges) if tolerance is None else smaller
        below[open_[~hit]] = sizes[~hit]
        hits[open_[hit]] += 1
    return image_radii


def _next_below(radius: Tensor, below: Tensor, hits: Tensor, edges: Tensor, tolerance: float | None) -> Tensor:
    """Returns the next epsilon at which `search_downwards` attacks each image, (N,); 0 where the search is over.

    Args:
        radius: Smallest known radius of each image, (N,); 0 for images that are misclassified.
        below: Largest epsilon at which each image was not fooled, (N,); 0 if there is none.
        hits: Number of successes of each image, (N,).
        edges: The epsilons of the grid, (E,).
        tolerance: Relative precision of the radii; None for radii on the grid.
    """
    shrunk = radius / (1 + SLACK)
    place = torch.searchsorted(edges, shrunk)  # The number of epsilons below each radius.
    on_grid = torch.where(place > 0, edges[(place - 1).clamp(min=0)], 0.0)
    if tolerance is None:
        return torch.where(on_grid > below, on_grid, 0.0)
    # The first steps are small, as the known radius is seldom much too large. Each one is twice as large as the one before.
    steps = radius / ((1 + tolerance) ** (2.0**hits)).clamp(max=LARGEST_DIVISOR)
    between = torch.where(below > 0, torch.maximum(steps, (below * radius).sqrt()), steps)
    between = torch.where(radius.isinf(), torch.where(below > 0, 0.0, edges[-1]), between)
    # The slack allows for rounding: a radius divided by 1 + tolerance is near enough.
    return torch.where(below * (1 + tolerance) * (1 + SLACK) < radius, between, 0.0)
