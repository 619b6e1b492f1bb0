"""Base classes of training recipes.

The entropy penalty adds `entropy_penalty` times the mean entropy of the predictions, in nats, to the loss. A positive weight
favours confident predictions, so the logit differences grow. A negative weight favours uncertain predictions.

Pitfall: larger logit differences alone do not make a network robust, because the gradients of the logits grow with them.
Larger differences also shrink the gradient of the cross-entropy, which weakens attacks on this loss. A gain of robustness is
real only if it also holds under attacks on the margin, gradient-free attacks and transfer attacks.

Sources: Cubuk et al., "Intriguing Properties of Adversarial Examples", arXiv:1711.02846; for negative weights, Pereyra et
al., "Regularizing Neural Networks by Penalizing Confident Output Distributions", arXiv:1701.06548; for label smoothing,
Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, arXiv:1512.00567.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar, final

import torch
import torch.nn.functional as F

from evaluators.attacks import PGD, Attack
from evaluators.attacks.base import SingleStep, check_attack
from evaluators.attacks.gradient_steps import check_steps
from evaluators.norms import Linf, Norm, check_norm

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.engine.noise import ImageNoise


R = TypeVar("R", bound="Recipe")


class Recipe(ABC):
    """Points to train on, and their loss. A subclass is a frozen dataclass.

    The training loop sets the mode of the network before each method. The methods must not change it.
    """

    @abstractmethod
    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the points to train on, shaped like x: adversarial images, or x itself.

        Args:
            network: The network in evaluation mode, so that the attack does not change the statistics of batch norm. Batch
                norm is folded into the convolutions before it, whose weights get no gradient here.
            x: Images, (N, C, H, W), pixels in [0, 1], augmented.
            y: Labels, (N,).
            noise: Random numbers for this batch.
        """

    def remedy(self) -> BallRecipe | None:
        """Returns the recipe of several gradient steps to continue with if training with this one collapses.

        Returns None if the recipe cannot collapse; the training is then not checked.
        """
        return None

    @abstractmethod
    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the mean loss of a batch, a scalar to be differentiated.

        With `training.weight_perturbation`, it is called twice for a batch: at the weights, and at the moved weights.

        Args:
            network: The network in training mode.
            x: Images, (N, C, H, W), pixels in [0, 1], augmented.
            points: Return value of `points`, shaped like x.
            y: Labels, (N,).
        """


@dataclass(frozen=True, kw_only=True)
class CrossEntropyRecipe(Recipe):
    """A recipe whose loss contains a cross-entropy.

    Attributes:
        label_smoothing: Share of each label that is spread evenly over all classes, from 0 to below 1.
        entropy_penalty: Weight of the entropy of the predictions in the loss, negative or positive; 0 for none.

    Raises:
        ValueError: label_smoothing is out of range, or entropy_penalty is not finite.
    """

    label_smoothing: float = 0.0
    entropy_penalty: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, got {self.label_smoothing:g}")
        if not math.isfinite(self.entropy_penalty):
            raise ValueError(f"entropy_penalty must be a finite number, got {self.entropy_penalty:g}")

    @final
    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Returns the mean cross-entropy of logits (N, K) and labels (N,), with label smoothing and the entropy penalty."""
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        if self.entropy_penalty == 0:
            return loss
        # From log-probabilities: the gradient of p log p in p is not finite at p = 0.
        logarithms = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
        return loss - self.entropy_penalty * (logarithms.exp() * logarithms).sum(1).mean()


@dataclass(frozen=True, kw_only=True)
class BallRecipe(CrossEntropyRecipe):
    """A recipe that trains on points near each image, at a distance that epsilon sets.

    Attributes:
        epsilon: Radius of the ball around each image, in pixel units (pixels in [0, 1]).
        warm_up: Share of the epochs, at the start, in which the radius rises to epsilon; 0 for the full radius at once.

    Raises:
        TypeError: the norm is not a norm.
        ValueError: epsilon is not above 0, or is above 1 (linf) or 1e6 (l2, l1), warm_up is not between 0 and 1, or as for
            `CrossEntropyRecipe`.
    """

    epsilon: float = 0.12
    warm_up: float = 0.0

    @property
    @abstractmethod
    def norm(self) -> Norm:
        """Shape of the ball."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self.norm)
        # The L2 diameter of the pixel range depends on the image size, which is unknown here.
        largest = 1 if self.norm.name == "linf" else 1e6
        if not 0 < self.epsilon <= largest:
            raise ValueError(
                f"epsilon must be above 0 and at most {largest:g}, in pixel units (8/255, not 8), got {self.epsilon:g}"
            )
        if not 0 <= self.warm_up <= 1:
            raise ValueError(f"warm_up must be between 0 and 1, got {self.warm_up:g}")

    @final
    def epsilon_at(self, progress: float) -> float:
        """Returns the radius in an epoch, given its number from 1, divided by the number of epochs."""
        return self.epsilon * min(1.0, progress / self.warm_up) if self.warm_up else self.epsilon

    @final
    def radii(self, x: Tensor) -> Tensor:
        """Returns the radius of each image's ball, (N,)."""
        return torch.full((len(x),), self.epsilon, dtype=x.dtype, device=x.device)

    @final
    def attacked(self, attack: Attack, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the adversarial images of an attack in the balls, shaped like x."""
        return attack.generate(network, x, y, self.radii(x), noise, stop_when_fooled=False)[0]


@dataclass(frozen=True, kw_only=True)
class AttackRecipe(BallRecipe):
    """A recipe that trains on the adversarial images of an attack of the user's choice.

    Attributes:
        attack: Attack that generates the images. pgd with steps 1 and step_size 1.25 is FGSM from a random start.

    Raises:
        TypeError: the attack is not an attack.
        ValueError: as for `BallRecipe`.
    """

    attack: Attack = PGD(steps=1, step_size=1.25)

    @property
    @final
    def norm(self) -> Norm:
        """Shape of the ball."""
        return self.attack.norm

    def __post_init__(self) -> None:
        check_attack(self.attack)
        super().__post_init__()

    @final
    def remedy(self) -> BallRecipe | None:
        """Returns the recipe with three steps of PGD if the attack takes one gradient step, else None."""
        if isinstance(self.attack, SingleStep) or getattr(self.attack, "steps", None) == 1:
            return replace(self, attack=three_steps(self.norm))
        return None


@dataclass(frozen=True, kw_only=True)
class StepsRecipe(BallRecipe):
    """A recipe that takes several gradient steps in the ball.

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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps, self.step_size)

    @property
    @final
    def pgd(self) -> PGD:
        """PGD with the steps of the recipe."""
        return PGD(norm=self.norm, steps=self.steps, step_size=self.step_size)


def three_steps(norm: Norm) -> PGD:
    """Returns the attack of the check against collapse, and of the training after a collapse."""
    return PGD(norm=norm, steps=3, step_size=0.5)


def of_epoch(recipe: R, progress: float) -> R:
    """Returns a recipe with the radius of one epoch.

    Args:
        recipe: The recipe.
        progress: Number of the epoch, from 1, divided by the number of epochs.
    """
    return replace(recipe, epsilon=recipe.epsilon_at(progress)) if isinstance(recipe, BallRecipe) else recipe


def check_weight(name: str, value: float) -> None:
    """Checks that a weight of a loss is finite and not negative.

    Raises:
        ValueError: it is not.
    """
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number, at least 0, got {value:g}")


def divergence(clean: Tensor, logits: Tensor) -> Tensor:
    """Returns the Kullback-Leibler divergence of the predictions `logits` from the predictions `clean`, (N,).

    Args:
        clean: Logits at the clean images, (N, K).
        logits: Logits at other points, (N, K).
    """
    return F.kl_div(logits.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)
