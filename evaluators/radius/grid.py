"""The epsilons at which radii are measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from evaluators.engine.input_checks import as_grid, check_increasing

# Relative tolerance for rounding: a point that is at most this far outside a ball of the grid counts as inside.
SLACK = 1e-5
# Largest number of attempts that refine a radius. Where every smaller perturbation fools the network, a relative precision
# is never reached.
MOST_ROUNDS = 40


@final
@dataclass(frozen=True, kw_only=True)
class EpsilonGrid:
    """The epsilons at which radii are measured, and the tolerance of the bisection between them.

    Attributes:
        epsilons: Epsilons in pixel units, strictly increasing.
        tolerance: Relative precision of the radii, between 0 and 1 (0.01 for 1 %); None to round radii up to the grid.
            With a tolerance, a bisection between the points of the grid refines each radius. The radius is then the size of
            the smallest perturbation found that fools the network. Minimum-norm attacks are not bisected: their radius is
            the size of their perturbation. Some ensembles search downwards from such a radius (`AttackEnsemble.downwards`).

    Raises:
        TypeError: epsilons is not a sequence of numbers.
        ValueError: epsilons is empty or not strictly increasing, or tolerance is not between 0 and 1.
    """

    epsilons: Sequence[float]
    tolerance: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilons", tuple(as_grid(self.epsilons)))
        check_increasing(self.epsilons)
        check_tolerance(self.tolerance)


def as_epsilon_grid(epsilons: Sequence[float] | EpsilonGrid) -> EpsilonGrid:
    """Returns a grid, or a sequence of epsilons as a grid without a tolerance."""
    return epsilons if isinstance(epsilons, EpsilonGrid) else EpsilonGrid(epsilons=epsilons)


def check_tolerance(tolerance: float | None) -> None:
    """Checks the tolerance of a bisection.

    Raises:
        ValueError: tolerance is neither None nor between 0 and 1.
    """
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be between 0 and 1, a share of the radius, got {tolerance:g}")


def rounded_up(sizes: Tensor, edges: Tensor) -> Tensor:
    """Returns sizes rounded up to the epsilons `edges`, (E,); infinite above them. Rounding errors are allowed for."""
    return torch.cat([edges, edges.new_tensor([math.inf])])[torch.searchsorted(edges, sizes / (1 + SLACK))]
