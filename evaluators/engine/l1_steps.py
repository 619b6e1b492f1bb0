"""Steps and projections of L1 attacks, which have to respect the pixel range.

In L1, the ball of a usual epsilon reaches far beyond the pixel range along each axis. Clipping after a projection would
therefore waste most of the perturbation.

Source: Croce and Hein, "Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers", ICML 2021,
arXiv:2103.01208: proposition 2.1 for the projection, section 3.2 for the sparse steps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def shrink(delta: Tensor, room: Tensor, epsilon: Tensor) -> Tensor:
    """Returns the perturbations nearest to delta in L2, with L1 size at most epsilon and pixels of at most `room`, (N, ...).

    The solution has the closed form clip(|delta| - c, 0, room), with the sign of delta. The number c >= 0 is the smallest
    one for which the size is at most epsilon. The size is piecewise linear in c, so c is found by sorting the breakpoints.

    Args:
        delta: Perturbations, (N, ...).
        room: Largest absolute value of each pixel, at least 0, (N, ...); may be infinite.
        epsilon: Largest L1 size, one number per image, (N, 1, ...), or one number.
    """
    exact = delta.flatten(1) if delta.dtype in (torch.float32, torch.float64) else delta.flatten(1).float()
    first = (slice(None), *[slice(1)] * (delta.ndim - 1))
    budget = epsilon.expand_as(delta)[first].flatten(1).to(exact).contiguous()
    length, room = exact.abs(), room.flatten(1).to(exact)
    shrunk = torch.minimum((length - _threshold(length, room, budget)).clamp(min=0), room)
    # The threshold is rounded: this factor keeps the size from exceeding epsilon.
    factor = budget / shrunk.sum(1, keepdim=True).clamp(min=torch.finfo(exact.dtype).tiny)
    return (shrunk * factor.clamp(max=1) * exact.sign()).view_as(delta).to(delta.dtype)


def _threshold(length: Tensor, room: Tensor, budget: Tensor) -> Tensor:
    """Returns the smallest c >= 0 with sum(clip(length - c, 0, room)) <= budget for each row, (N, 1).

    Args:
        length: Absolute values, (N, D).
        room: Upper bounds, (N, D).
        budget: Largest sums, (N, 1).
    """
    # The number c falls from the largest breakpoint to 0. A pixel grows from the first breakpoint on, its length, to the
    # second one, where it reaches its upper bound. The sums near 0 are then exact, even if most pixels are cut to 0.
    ends = (length - room).clamp(min=0)
    breaks, order = torch.cat([length, ends], 1).sort(1, descending=True)
    change = torch.cat([torch.ones_like(length), -torch.ones_like(ends)], 1).gather(1, order)
    growing = change.cumsum(1)[:, :-1]  # Number of pixels that grow between two breakpoints.
    sums = (growing * -breaks.diff(dim=1)).cumsum(1)
    place = torch.searchsorted(sums, budget)  # The interval in which the budget is reached.
    last = sums.shape[1] - 1
    inside = place.clamp(max=last)
    before = torch.where(inside > 0, sums.gather(1, (inside - 1).clamp(min=0)), 0)
    cut = breaks.gather(1, inside) - (budget - before) / growing.gather(1, inside).clamp(min=1)
    return torch.where(place <= last, cut.clamp(min=0), 0)


def movable(points: Tensor, gradient: Tensor) -> Tensor:
    """Returns the gradient with 0 at pixels that cannot follow it, because they are at the border of [0, 1], (N, ...)."""
    return torch.where((points >= 1) & (gradient > 0) | (points <= 0) & (gradient < 0), 0, gradient)


def sparse_step(points: Tensor, gradient: Tensor, count: Tensor) -> Tensor:
    """Returns equal changes of the pixels with the largest gradients, of L1 size 1 in all, shaped like points (N, ...).

    Pixels at the border of [0, 1] that would leave it are not chosen. Where the gradient is zero, the step is zero.

    Args:
        points: Where the step starts, (N, ...), pixels in [0, 1].
        gradient: Gradient of the loss to maximise, shaped like points.
        count: Number of pixels that change, (N,) int64, at least 1. Fewer if fewer can move.
    """
    flat = gradient.flatten(1)
    free = movable(points, gradient).flatten(1)
    ranked = free.abs().sort(1, descending=True)
    chosen = torch.arange(flat.shape[1], device=flat.device) < count[:, None]
    signs = torch.where(chosen, free.gather(1, ranked.indices).sign(), 0)
    step = torch.zeros_like(flat).scatter(1, ranked.indices, signs)
    size = step.abs().sum(1, keepdim=True).clamp(min=1)
    return (step / size).view_as(points)


def greedy_radius(x: Tensor, gradient: Tensor, rise: Tensor) -> Tensor:
    """Returns the L1 size of the smallest perturbation in the pixel range that raises a linear function by `rise`, (N,).

    The pixels with the largest gradients move first, each one to the end of its range, as in a fractional knapsack. The size
    is infinite if all pixels together do not suffice.

    Args:
        x: Images, (N, ...), pixels in [0, 1].
        gradient: Gradient of the function, shaped like x.
        rise: The wanted rise of each image, (N,), at least 0.
    """
    slope, room, _ = _largest_first(x, gradient)
    start = slope.new_zeros(len(slope), 1)
    risen, moved = (torch.cat([start, part.cumsum(1)], 1) for part in (slope * room, room))
    wanted = rise.to(slope)[:, None].contiguous()
    number = torch.searchsorted(risen, wanted).clamp(min=1) - 1  # Pixels that move to the end of their range.
    last = number.clamp(max=slope.shape[1] - 1)
    missing = wanted - risen.gather(1, last)
    size = moved.gather(1, last) + missing / slope.gather(1, last).clamp(min=torch.finfo(slope.dtype).tiny)
    return torch.where(wanted <= 0, 0, torch.where(number > last, math.inf, size)).squeeze(1)


def greedy_step(points: Tensor, gradient: Tensor, rise: Tensor) -> Tensor:
    """Returns the smallest perturbations, in L1, that change a linear function by `rise` in the pixel range, (N, ...).

    As in `greedy_radius`, the pixels with the largest gradients move first. If all pixels together do not suffice, all move
    to the end of their ranges.

    Args:
        points: Where the step starts, (N, ...), pixels in [0, 1].
        gradient: Gradient of the function, shaped like points.
        rise: The wanted change of each image, (N,). Where it is negative, the function falls.
    """
    uphill = gradient.flatten(1) * rise.sign()[:, None].to(gradient)
    slope, room, order = _largest_first(points, uphill)
    left = rise.abs().to(slope)[:, None] - (slope * room).cumsum(1) + slope * room  # Before each pixel moves.
    length = (left / slope.clamp(min=torch.finfo(slope.dtype).tiny)).clamp(min=0).minimum(room)
    step = torch.zeros_like(slope).scatter(1, order, torch.where(slope > 0, length, 0)) * uphill.sign()
    return step.view_as(points)


def _largest_first(points: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the pixels' absolute gradients, the largest first, how far each can move, and their order, (N, P) each."""
    flat, place = gradient.flatten(1), points.flatten(1).to(gradient)
    slope, order = flat.abs().sort(1, descending=True)
    return slope, torch.where(flat > 0, 1 - place, place).gather(1, order), order
