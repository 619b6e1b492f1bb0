"""Uniform random noise, a baseline: an attack that is not better than noise is broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from evaluators.attacks.base import Attack
from evaluators.norms import Linf, Norm

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise


@final
@dataclass(frozen=True, kw_only=True)
class UniformNoise(Attack):
    """Uniform noise: moves each image to a random point of the ball. It does not use the network.

    Attributes:
        norm: Shape of the ball.
    """

    norm: Norm = Linf()

    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns one random perturbation per image, uniform in the ball."""
        return self.norm.sample(x, epsilon, noise)
