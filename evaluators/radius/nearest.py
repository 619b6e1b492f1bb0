"""Radii under minimum-norm attacks, which need no epsilon."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from evaluators.engine.noise import ImageNoise
from evaluators.radius.grid import SLACK, rounded_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from evaluators.attacks.base import MinimumNorm
    from evaluators.engine.prepared import PreparedNetwork
    from evaluators.radius.progress import Progress


def search_nearest(
    prepared: PreparedNetwork,
    attack: MinimumNorm,
    grid: Sequence[float],
    image_radii: Tensor,
    seed: int,
    report: Progress,
    *,
    snap: bool,
) -> Tensor:
    """Returns the radii under a minimum-norm attack, which runs once. Radii are rounded up to the grid if `snap`."""
    if not grid:
        return image_radii
    open_ = (image_radii > grid[0] if snap else image_radii > 0).nonzero().squeeze(1)
    largest = attack.norm.largest(prepared.x[0].numel())

    def work(batch: Tensor) -> Tensor:
        x, y = prepared.x[batch], prepared.y[batch]
        size = torch.full((len(batch),), largest, dtype=x.dtype, device=x.device)
        noise = ImageNoise.of(seed, batch + prepared.first)
        points, fooled = attack.generate(
            prepared.network, x, y, size, noise, stop_when_fooled=True, one_pass=prepared.batches.size
        )
        return torch.where(fooled, attack.norm.size(points - x), math.inf)

    edges = torch.tensor(grid, dtype=torch.float64)
    for batch, sizes in prepared.batches.over(open_.to(prepared.x.device), work, loops=True, progress=report):
        radius = sizes.double().cpu()
        inside = radius / (1 + SLACK) <= grid[-1]
        radius = rounded_up(radius, edges) if snap else torch.where(inside, radius, math.inf)
        images = batch.cpu()
        image_radii[images] = torch.minimum(image_radii[images], radius)
    return image_radii
