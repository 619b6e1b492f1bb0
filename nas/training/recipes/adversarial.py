"""Cross-entropy on the adversarial images of an attack on the current network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from evaluators.attacks import PGD
from evaluators.attacks.gradient_steps import check_steps
from evaluators.norms import Linf, Norm
from nas.training.recipes.base import AttackRecipe, BallRecipe, StepsRecipe, three_steps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.engine.noise import ImageNoise


def several_steps(recipe: BallRecipe) -> PGDRecipe:
    """Returns the recipe PGD with three steps and the settings of a recipe of one step, as its remedy after a collapse."""
    attack = three_steps(recipe.norm)
    return PGDRecipe(
        norm=attack.norm,
        epsilon=recipe.epsilon,
        warm_up=recipe.warm_up,
        label_smoothing=recipe.label_smoothing,
        entropy_penalty=recipe.entropy_penalty,
        steps=attack.steps,
        step_size=attack.step_size,
    )


@final
@dataclass(frozen=True, kw_only=True)
class Adversarial(AttackRecipe):
    """Cross-entropy on the adversarial images of any attack. With the default attack, it is the same as `Fast`.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv:1706.06083.
    """

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns adversarial images, shaped like x."""
        return self.attacked(self.attack, network, x, y, noise)

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the mean cross-entropy at the adversarial images."""
        return self.cross_entropy(network(points), y)


@final
@dataclass(frozen=True, kw_only=True)
class Fast(BallRecipe):
    """Cross-entropy on images of one FGSM step from a random point of the ball.

    Pitfall: in a long training, the network can suddenly lose its robustness to all attacks of more than one step.

    Source: Wong, Rice and Kolter, "Fast is better than free", ICLR 2020, arXiv:2001.03994.

    Attributes:
        norm: Shape of the ball.
        step_size: Length of the step, as a fraction of epsilon.

    Raises:
        ValueError: step_size is not positive and finite, or as for `BallRecipe`.
    """

    norm: Norm = Linf()
    step_size: float = 1.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(1, self.step_size)

    def remedy(self) -> PGDRecipe:
        """Returns the recipe PGD with three steps."""
        return several_steps(self)

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns adversarial images, shaped like x."""
        return self.attacked(PGD(norm=self.norm, steps=1, step_size=self.step_size), network, x, y, noise)

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the mean cross-entropy at the adversarial images."""
        return self.cross_entropy(network(points), y)


@final
@dataclass(frozen=True, kw_only=True)
class PGDRecipe(StepsRecipe):
    """Cross-entropy on the adversarial images of PGD from a random start.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv:1706.06083.
    """

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns adversarial images, shaped like x."""
        return self.attacked(self.pgd, network, x, y, noise)

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the mean cross-entropy at the adversarial images."""
        return self.cross_entropy(network(points), y)
