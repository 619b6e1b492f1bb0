"""TRADES: cross-entropy on clean images, and a penalty on the change of the predictions in the ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
import torch.nn.functional as F

from evaluators.attacks.gradient_oracle import GradientOracle
from evaluators.attacks.gradient_steps import gradient_steps
from evaluators.norms import broadcast_per_image
from nas.training.recipes.adversarial import StepsRecipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.engine.noise import ImageNoise

# Standard deviation of the noise at the start. At the clean image itself the gradient of the divergence is zero.
START = 0.001


def divergence(clean: Tensor, logits: Tensor) -> Tensor:
    """Returns the Kullback-Leibler divergence of each image, (N,), from the predictions of `clean` to those of `logits`.

    Args:
        clean: Logits at the clean images, (N, K).
        logits: Logits at other points, (N, K).
    """
    return F.kl_div(logits.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)


@final
@dataclass(frozen=True, kw_only=True)
class Trades(StepsRecipe):
    """TRADES: cross-entropy on clean images plus `beta` times the divergence of the predictions in the ball.

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
        """Returns points of the ball where the predictions differ much from those at the clean images, shaped like x."""
        epsilon = self.radii(x)
        with torch.no_grad():
            clean = network(x.clone())
        target = GradientOracle(network, x, y, self.norm, epsilon, keep="nothing")
        start = (x + START * noise.normal(x)).clamp(0, 1)
        delta = gradient_steps(
            lambda points: target.gradient(points, lambda logits, _: divergence(clean, logits)),
            self.norm,
            x,
            start,
            broadcast_per_image(epsilon, x),
            steps=self.steps,
            step_size=self.step_size,
        )
        return x + delta

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the mean cross-entropy at the clean images plus beta times the mean divergence at the points."""
        clean = network(x)
        return self.cross_entropy(clean, y) + self.beta * divergence(clean, network(points)).mean()


def check_weight(name: str, value: float) -> None:
    """Checks that a weight of a loss is finite and not negative.

    Raises:
        ValueError: it is not.
    """
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number, at least 0, got {value:g}")
