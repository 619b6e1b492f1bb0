"""N-FGSM: one gradient step from a noisy image, without a projection."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from evaluators.attacks import cross_entropy
from evaluators.attacks.gradient_oracle import GradientOracle
from evaluators.norms import Linf, Norm, broadcast_per_image
from nas.training.recipes.adversarial import several_steps
from nas.training.recipes.base import BallRecipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.engine.noise import ImageNoise


@final
@dataclass(frozen=True, kw_only=True)
class NFGSM(BallRecipe):
    """Cross-entropy on images of one gradient step from a noisy image. They may leave the ball, but not the pixel range.

    With noise of twice the radius and no projection onto the ball, the collapse of `Fast` is rare, at the same cost. This is
    a recipe and not an attack, because the images of an attack must stay in the ball.

    Pitfall: at a large radius, the noise hides the image. On 14 x 14 MNIST at radius 0.3, a small convolutional network
    learnt nothing. There, use less noise, or `Fast`.

    Source: de Jorge et al., "Make Some Noise: Reliable and Efficient Single-Step Adversarial Training", NeurIPS 2022,
    arXiv:2202.01181.

    Attributes:
        norm: Shape of the ball and of the noise.
        noise: Size of the noise, as a fraction of epsilon.
        step_size: Length of the step, as a fraction of epsilon.

    Raises:
        ValueError: noise is negative or not finite, or noise times epsilon is above 0.5 in linf, step_size is not positive
            and finite, or as for `BallRecipe`.
    """

    norm: Norm = Linf()
    noise: float = 2.0
    step_size: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise must be a finite number, at least 0, got {self.noise:g}")
        if self.norm.name == "linf" and self.noise * self.epsilon > 0.5:
            raise ValueError(
                f"noise times epsilon must be at most 0.5, half of the pixel range, got {self.noise * self.epsilon:g}: more "
                "noise hides the image; lower noise, or use the recipe fast"
            )
        if not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be a finite number above 0, got {self.step_size:g}")

    def remedy(self) -> BallRecipe:
        """Returns the recipe PGD with three steps."""
        return several_steps(self)

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the noisy images after the step, clipped to [0, 1], shaped like x."""
        epsilon = self.radii(x)
        ball = broadcast_per_image(epsilon, x)
        noisy = (x + self.norm.sample(x, self.noise * ball, noise)).clamp(0, 1)
        gradient = GradientOracle(network, x, y, self.norm, epsilon, keep="nothing").gradient(noisy, cross_entropy)
        return (noisy + self.step_size * ball * self.norm.step(noisy, gradient)).clamp(0, 1)

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the mean cross-entropy at the points."""
        return self.cross_entropy(network(points), y)
