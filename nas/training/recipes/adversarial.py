"""Training on the adversarial images of an attack on the current network."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from evaluators.attacks import PGD, Attack
from evaluators.norms import Linf, Norm
from nas.training.recipes.base import BallRecipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.engine.noise import ImageNoise


@dataclass(frozen=True, kw_only=True)
class AttackRecipe(BallRecipe):
    """A recipe that trains on the adversarial images of an attack."""

    @abstractmethod
    def adversary(self) -> Attack:
        """Returns the attack that generates the images."""

    @property
    def shape(self) -> Norm:
        """Shape of the ball."""
        return self.adversary().norm

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns adversarial images, shaped like x."""
        return self.adversary().generate(network, x, y, self.radii(x), noise, stop_when_fooled=False)[0]


@final
@dataclass(frozen=True, kw_only=True)
class Adversarial(AttackRecipe):
    """Cross-entropy on the adversarial images of any attack.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv:1706.06083.

    Attributes:
        attack: Attack that generates the images. pgd with steps 1 and step_size 1.25 is FGSM from a random start.
    """

    attack: Attack = PGD(steps=1, step_size=1.25)

    def adversary(self) -> Attack:
        """Returns the attack that generates the images."""
        return self.attack


@final
@dataclass(frozen=True, kw_only=True)
class Fast(AttackRecipe):
    """FGSM from a random start in the ball. Pitfall: in long trainings it can collapse, so that it resists only FGSM.

    Source: Wong, Rice and Kolter, "Fast is better than free", ICLR 2020, arXiv:2001.03994.

    Attributes:
        norm: Shape of the ball.
        step_size: Length of the step, as a fraction of epsilon.

    Raises:
        ValueError: step_size is not positive and finite, or as for `BallRecipe`.
    """

    norm: Norm = Linf()
    step_size: float = 1.25

    def adversary(self) -> Attack:
        """Returns PGD with one step."""
        return PGD(norm=self.norm, steps=1, step_size=self.step_size)


@dataclass(frozen=True, kw_only=True)
class StepsRecipe(AttackRecipe):
    """A recipe whose adversarial images come from gradient steps in the ball: by default, from PGD.

    Attributes:
        norm: Shape of the ball.
        steps: Number of gradient steps.
        step_size: Length of one step, as a fraction of epsilon.

    Raises:
        ValueError: steps is below 1, step_size is not positive and finite, or as for `BallRecipe`.
    """

    norm: Norm = Linf()
    steps: int = 10
    step_size: float = 0.25

    def adversary(self) -> Attack:
        """Returns PGD with the steps of the recipe."""
        return PGD(norm=self.norm, steps=self.steps, step_size=self.step_size)


@final
@dataclass(frozen=True, kw_only=True)
class MultiStep(StepsRecipe):
    """Cross-entropy on the adversarial images of PGD from a random start.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv:1706.06083.
    """
