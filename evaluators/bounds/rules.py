"""How a bound on a value inside a network becomes one on what a step makes of it: the rules, by kind of step.

A bound says two things of a value: between what numbers each of its entries lies (interval bound propagation), and by how
much all of it changes at most, per unit of change of the image (a Lipschitz constant: the product of the operator norms of
the steps). Where the ball is Euclidean, each row of an affine step turns the latter into an interval, too, and the narrower
of the two counts.

Source: Gowal et al., "On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust Models",
arXiv:1810.12715; Szegedy et al., "Intriguing properties of neural networks", arXiv:1312.6199, for the product of norms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

# What rounding in double precision may add to a norm.
ABOVE = 1 + 1e-9
Map = Callable[[Tensor], Tensor]


class NoRuleError(Exception):
    """Raised where a layer has no rule; the message says which."""


@final
@dataclass(frozen=True)
class Bound:
    """What is known of one value of the network on the balls around N images.

    Attributes:
        centre: The value at the images themselves, (N, ...).
        lower: What no entry falls below, (N, ...).
        upper: What no entry exceeds, (N, ...).
        reach: Lipschitz constant of the value as a function of the image, in the ball's norm on either side.
    """

    centre: Tensor
    lower: Tensor
    upper: Tensor
    reach: float


@final
@dataclass(frozen=True)
class Balls:
    """The balls in which images move.

    Attributes:
        euclidean: They are L2 balls, not Linf ones.
        radius: Of each image's, (N,).
        gains: Operator norms by the name of the step, filled in on the way: they depend on no image and no radius.
    """

    euclidean: bool
    radius: Tensor
    gains: dict[str, float]

    def gain(self, step: str, find: Callable[[], float]) -> float:
        """Returns the operator norm of a step, found once."""
        if step not in self.gains:
            self.gains[step] = find()
        return self.gains[step]


def affine(f: Map, absolute: Map, rows: Tensor, gain: Callable[[], float], bound: Bound, balls: Balls, step: str) -> Bound:
    """Returns the bound on f of a value, for affine f.

    Args:
        f: The map.
        absolute: The linear map whose entries are the absolute values of those of f.
        rows: Euclidean norm of each row of f, broadcast against its output.
        gain: Finds the operator norm of f.
        bound: On the value.
        balls: Where the images are.
        step: The name of the step.
    """
    centre, middle = f(bound.centre), f((bound.upper + bound.lower) / 2)
    half = absolute((bound.upper - bound.lower) / 2)
    lower, upper = middle - half, middle + half
    if balls.euclidean:
        near = bound.reach * rows * balls.radius.view(-1, *[1] * (centre.ndim - 1))
        lower, upper = torch.maximum(lower, centre - near), torch.minimum(upper, centre + near)
    return Bound(centre, lower, upper, bound.reach * balls.gain(step, gain))


def averaging(f: Map, bound: Bound, balls: Balls, step: str) -> Bound:
    """Returns the bound on f of a value, for a linear f without negative entries: means, sums, and what picks entries."""

    def gain() -> float:
        probe = torch.ones_like(bound.centre)
        zero = f(torch.zeros_like(probe))
        rows, columns = sums(f, probe)
        if bool(zero.any()) or bool((f(-probe) > 0).any()):
            raise NoRuleError(f"{step} is no average of its input's entries")
        return ABOVE * (math.sqrt(rows * columns) if balls.euclidean else rows)

    reach = bound.reach * balls.gain(step, gain)
    return Bound(f(bound.centre), f(bound.lower), f(bound.upper), reach)


def rising(f: Map, bound: Bound) -> Bound:
    """Returns the bound on f of a value, for an f that takes each entry by itself, never falls, and rises at most by 1."""
    return Bound(f(bound.centre), f(bound.lower), f(bound.upper), bound.reach)


def shifted(bound: Bound, shift: Tensor | float, sign: int = 1) -> Bound:
    """Returns the bound on a value plus a constant, or minus it."""
    result = rising(lambda value: value + sign * shift, bound)
    return _same_shape(result, bound)


def scaled(bound: Bound, factor: Tensor | float, balls: Balls, step: str) -> Bound:
    """Returns the bound on a value times a constant, entry by entry."""
    scale = torch.as_tensor(factor, dtype=bound.centre.dtype, device=bound.centre.device)
    return _same_shape(
        affine(
            lambda v: v * scale, lambda v: v * scale.abs(), scale.abs(), lambda: float(scale.abs().max()), bound, balls, step
        ),
        bound,
    )


def added(first: Bound, second: Bound, sign: int = 1) -> Bound:
    """Returns the bound on the sum of two values, or on their difference."""
    low, high = (second.lower, second.upper) if sign > 0 else (-second.upper, -second.lower)
    centre = first.centre + sign * second.centre
    total = Bound(centre, first.lower + low, first.upper + high, first.reach + second.reach)
    return _same_shape(_same_shape(total, first), second)


def concatenated(bounds: list[Bound], dim: int, balls: Balls) -> Bound:
    """Returns the bound on values put side by side."""
    reaches = [bound.reach for bound in bounds]
    return Bound(
        centre=torch.cat([bound.centre for bound in bounds], dim),
        lower=torch.cat([bound.lower for bound in bounds], dim),
        upper=torch.cat([bound.upper for bound in bounds], dim),
        reach=math.hypot(*reaches) if balls.euclidean else max(reaches),
    )


def _same_shape(result: Bound, bound: Bound) -> Bound:
    # Entries that are repeated to fit would count several times in a norm.
    if result.centre.shape != bound.centre.shape:
        raise NoRuleError(
            f"shapes {tuple(bound.centre.shape[1:])} and {tuple(result.centre.shape[1:])} do not match in a sum"
        )
    return result


def sums(f: Map, probe: Tensor) -> tuple[float, float]:
    """Returns the largest sum of a row and of a column of a linear map without negative entries."""
    probe = probe.detach().requires_grad_()
    with torch.enable_grad():
        rows = f(probe)
        if not rows.requires_grad:  # Zeros, whatever comes in.
            return float(rows.max()), 0.0
        (columns,) = torch.autograd.grad(rows.sum(), probe)
    return float(rows.detach().max()), float(columns.max())
