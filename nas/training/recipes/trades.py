"""TRADES: cross-entropy on clean images, and a penalty on the change of the predictions in the ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evaluators.attacks.gradient_oracle import GradientOracle
from evaluators.attacks.gradient_steps import gradient_steps
from evaluators.norms import broadcast_per_image
from nas.training.recipes.base import StepsRecipe, check_weight, divergence

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.engine.noise import ImageNoise

# Standard deviation of the noise at the start. At the clean image itself, the gradient of the divergence is zero.
START = 0.001


@final
@dataclass(frozen=True, kw_only=True)
class Trades(StepsRecipe):
    """TRADES: cross-entropy at the images plus `beta` times the divergence of the predictions at points of the ball.

    The gradient steps go to points with a large divergence from the predictions at the images.

    Source: Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", ICML 2019, arXiv:1901.08573.

    Attributes:
        beta: Weight of the divergence.

    Raises:
        ValueError: beta is negative or not finite, or as for `StepsRecipe`.
    """

    beta: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("beta", self.beta)

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns points of the ball where the predictions differ much from those at the images, shaped like x."""
        epsilon = self.radii(x)
        ball = broadcast_per_image(epsilon, x)
        with torch.no_grad():
            clean = network(x.clone())  # A copy, as the first layer may work in place.
        target = GradientOracle(network, x, y, self.norm, epsilon, keep="nothing")
        delta = gradient_steps(
            lambda points: target.gradient(points, lambda logits, _: divergence(clean, logits)),
            self.norm,
            x,
            self.norm.inside(x, START * noise.normal(x), ball),
            ball,
            steps=self.steps,
            step_size=self.step_size,
        )
        return x + delta

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the mean cross-entropy at the images plus beta times the mean divergence at the points."""
        clean = network(x)
        return self.cross_entropy(clean, y) + self.beta * divergence(clean, network(points)).mean()
