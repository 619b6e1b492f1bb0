"""Adversarial images that an image file can hold: pixels are multiples of 1/255.

Other attacks return any numbers between 0 and 1. Rounded to the 256 values of a file, such an image may no longer fool the
network, most of all at an epsilon of few multiples of 1/255.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from evaluators.attacks.base import Attack
from evaluators.attacks.eight_bit_rounding import check_eight_bit, rounded
from evaluators.attacks.pgd import PGD
from evaluators.norms import Norm

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle, Keep
    from evaluators.engine.noise import ImageNoise


@final
@dataclass(frozen=True, kw_only=True)
class EightBit(Attack):
    """Runs another attack, and evaluates the network only at images whose pixels are multiples of 1/255.

    An image counts as fooled only if its rounded adversarial image, inside the ball, fools the network. The attack itself
    moves freely, so its steps may be shorter than 1/255. `radii` runs the attack at each epsilon of the grid, even if it is
    a minimum-norm attack or an ensemble.

    Attributes:
        attack: The attack.
        norm: Shape of the ball. It is the norm of the inner attack and is not an argument.

    Raises:
        TypeError: attack is not an attack.
    """

    attack: Attack = field(default_factory=PGD)
    norm: Norm = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.attack, Attack):
            raise TypeError(f"attack must be an Attack, got {type(self.attack).__name__}")
        object.__setattr__(self, "norm", self.attack.norm)

    def supports(self, x: Tensor) -> bool:
        """Returns whether the inner attack works on images shaped like x (N, ...)."""
        return self.attack.supports(x)

    def recorded(self, *, stop_when_fooled: bool) -> Keep:
        """Returns which misclassified points are recorded, as for the inner attack."""
        return self.attack.recorded(stop_when_fooled=stop_when_fooled)

    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the perturbation of the inner attack, rounded.

        Raises:
            ValueError: a clean pixel is not a multiple of 1/255.
        """
        check_eight_bit(x)

        def round_inside(points: Tensor) -> Tensor:
            return rounded(x, points, self.norm, epsilon.flatten())

        with target.replacing_points(round_inside):
            delta = self.attack.perturb(target, x, epsilon, noise)
        return round_inside(self.norm.inside(x, delta, epsilon)) - x
