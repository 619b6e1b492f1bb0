"""Bound propagation rules: from a bound on the input of a step to a bound on its output.

A step is one node of the traced network: a layer or an operation. A value is the tensor that a step returns.

A bound has two parts. The first is an interval for each entry of the value (interval bound propagation). The second is a
Lipschitz constant of the value as a function of the image: the product of the operator norms of the steps. For L2 balls,
an affine step also has a second interval for each entry, centred on the entry at the image. Its half-width is the product of
the Lipschitz constant of the step's input, the Euclidean norm of the entry's row of the matrix, and the radius. The
intersection of the two intervals is used.

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

# Factor that covers the rounding of a norm in double precision.
ABOVE = 1 + 1e-9
Map = Callable[[Tensor], Tensor]


class NoRuleError(Exception):
    """Raised if no bound can be computed, for example for a layer without a rule; the message gives the reason."""


@final
@dataclass(frozen=True)
class Bound:
    """Bound on one value of the network for all points of the balls around N images.

    Attributes:
        centre: Value at the images, (N, ...).
        lower: Lower bound of each entry, (N, ...).
        upper: Upper bound of each entry, (N, ...).
        reach: Lipschitz constant of the value as a function of the image. Both distances are in the norm of the ball.
    """

    centre: Tensor
    lower: Tensor
    upper: Tensor
    reach: float


@final
@dataclass(frozen=True)
class Balls:
    """Balls around N images.

    Attributes:
        euclidean: Whether they are L2 balls instead of Linf balls.
        radius: Radius of each ball, (N,), in pixel units.
        gains: Cache of operator norms by the name of the step. These norms do not depend on the images and radii.
    """

    euclidean: bool
    radius: Tensor
    gains: dict[str, float]

    def gain(self, step: str, find: Callable[[], float]) -> float:
        """Returns the operator norm of a step, computed once by `find`."""
        if step not in self.gains:
            self.gains[step] = find()
        return self.gains[step]


def affine(f: Map, absolute: Map, rows: Tensor, gain: Callable[[], float], bound: Bound, balls: Balls, step: str) -> Bound:
    """Returns the bound on f(value) for an affine map f.

    Args:
        f: Affine map.
        absolute: Linear map with the absolute values of the entries of f.
        rows: Euclidean norm of each row of the matrix of f, in a shape that broadcasts against the output of f.
        gain: Function that computes the operator norm of f, or an upper bound on it.
        bound: Bound on the value.
        balls: Balls around the images.
        step: Name of the step, the key of the operator norm in `balls.gains`.
    """
    centre, middle = f(bound.centre), f((bound.upper + bound.lower) / 2)
    half = absolute((bound.upper - bound.lower) / 2)
    lower, upper = middle - half, middle + half
    if balls.euclidean:
        near = bound.reach * rows * balls.radius.view(-1, *[1] * (centre.ndim - 1))
        lower, upper = torch.maximum(lower, centre - near), torch.minimum(upper, centre + near)
    return Bound(centre, lower, upper, bound.reach * balls.gain(step, gain))


def averaging(f: Map, bound: Bound, balls: Balls, step: str) -> Bound:
    """Returns the bound on f(value) for a linear map f without negative entries, such as means, sums and indexing.

    Raises:
        NoRuleError: f is not such a map.
    """

    def gain() -> float:
        probe = torch.ones_like(bound.centre)
        zero = f(torch.zeros_like(probe))
        rows, columns = sums(f, probe)
        if bool(zero.any()) or bool((f(-probe) > 0).any()):
            raise NoRuleError(f"{step} is not a linear map without negative entries")
        return ABOVE * (math.sqrt(rows * columns) if balls.euclidean else rows)

    reach = bound.reach * balls.gain(step, gain)
    return Bound(f(bound.centre), f(bound.lower), f(bound.upper), reach)


def rising(f: Map, bound: Bound) -> Bound:
    """Returns the bound on f(value) for an elementwise, non-decreasing f with a Lipschitz constant of at most 1."""
    return Bound(f(bound.centre), f(bound.lower), f(bound.upper), bound.reach)


def shifted(bound: Bound, shift: Tensor | float, sign: int = 1) -> Bound:
    """Returns the bound on a value plus `sign` times a constant."""
    result = rising(lambda value: value + sign * shift, bound)
    return _same_shape(result, bound)


def scaled(bound: Bound, factor: Tensor | float, balls: Balls, step: str) -> Bound:
    """Returns the bound on the elementwise product of a value and a constant."""
    scale = torch.as_tensor(factor, dtype=bound.centre.dtype, device=bound.centre.device)
    return _same_shape(
        affine(
            lambda v: v * scale, lambda v: v * scale.abs(), scale.abs(), lambda: float(scale.abs().max()), bound, balls, step
        ),
        bound,
    )


def added(first: Bound, second: Bound, sign: int = 1) -> Bound:
    """Returns the bound on the first value plus `sign` times the second."""
    low, high = (second.lower, second.upper) if sign > 0 else (-second.upper, -second.lower)
    centre = first.centre + sign * second.centre
    total = Bound(centre, first.lower + low, first.upper + high, first.reach + second.reach)
    return _same_shape(_same_shape(total, first), second)


def concatenated(bounds: list[Bound], dim: int, balls: Balls) -> Bound:
    """Returns the bound on the concatenation of values along dimension `dim`."""
    reaches = [bound.reach for bound in bounds]
    return Bound(
        centre=torch.cat([bound.centre for bound in bounds], dim),
        lower=torch.cat([bound.lower for bound in bounds], dim),
        upper=torch.cat([bound.upper for bound in bounds], dim),
        reach=math.hypot(*reaches) if balls.euclidean else max(reaches),
    )


def _same_shape(result: Bound, bound: Bound) -> Bound:
    # A broadcast repeats entries of the value. The Lipschitz constant does not count the repeats and would be too small.
    if result.centre.shape != bound.centre.shape:
        raise NoRuleError(
            f"shapes {tuple(bound.centre.shape[1:])} and {tuple(result.centre.shape[1:])} do not match in a sum or product"
        )
    return result


def sums(f: Map, probe: Tensor) -> tuple[float, float]:
    """Returns the largest row sum and the largest column sum of a linear map without negative entries."""
    probe = probe.detach().requires_grad_()
    with torch.enable_grad():
        rows = f(probe)
        if not rows.requires_grad:  # The map is constant.
            return float(rows.max()), 0.0
        (columns,) = torch.autograd.grad(rows.sum(), probe)
    return float(rows.detach().max()), float(columns.max())
