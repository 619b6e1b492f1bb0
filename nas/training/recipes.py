"""Training recipes: points to train on, and their loss.

To add one, write a frozen dataclass with the methods `points` and `loss`, and add it to `RECIPES`.

The entropy penalty adds `entropy_penalty` times the mean entropy of the predictions, in nats, to the loss. A positive weight
favours confident predictions, so the logit differences grow. A negative weight favours uncertain predictions.

Pitfall: larger logit differences alone do not make a network robust, because the gradients of the logits grow with them.
Larger differences also shrink the gradient of the cross-entropy, which weakens attacks on this loss. A gain of robustness is
real only if it also holds under attacks on the margin, gradient-free attacks and transfer attacks.

Source: Cubuk et al., "Intriguing Properties of Adversarial Examples", arXiv:1711.02846. For negative weights, Pereyra et
al., "Regularizing Neural Networks by Penalizing Confident Output Distributions", arXiv:1701.06548.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
import torch.nn.functional as F

from evaluators.attacks import PGD, Attack

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.engine.noise import ImageNoise


class Recipe(ABC):
    """Points to train on, and their loss. A subclass is a frozen dataclass.

    The training loop sets the mode of the network before each method. The methods must not change it.
    """

    @abstractmethod
    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the points to train on, shaped like x: adversarial images, or x itself.

        Args:
            network: The network in evaluation mode, so that the attack does not change the statistics of batch norm.
            x: Images, (N, C, H, W), pixels in [0, 1], augmented.
            y: Labels, (N,).
            noise: Random numbers for this batch.
        """

    @abstractmethod
    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the mean loss of a batch, a scalar to be differentiated.

        Args:
            network: The network in training mode.
            x: Images, (N, C, H, W), pixels in [0, 1], augmented.
            points: Return value of `points`, shaped like x.
            y: Labels, (N,).
        """


def _loss(logits: Tensor, y: Tensor, entropy_penalty: float) -> Tensor:
    """Returns the cross-entropy of logits (N, K) and labels (N,) plus the entropy penalty."""
    loss = F.cross_entropy(logits, y)
    if entropy_penalty == 0:
        return loss
    # Computed from log-probabilities, because the gradient of p log p with respect to p is not finite at p = 0.
    logarithms = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
    return loss - entropy_penalty * (logarithms.exp() * logarithms).sum(1).mean()


def _check_penalty(entropy_penalty: float) -> None:
    if not math.isfinite(entropy_penalty):
        raise ValueError(f"entropy_penalty must be a finite number, got {entropy_penalty:g}")


@final
@dataclass(frozen=True, kw_only=True)
class Standard(Recipe):
    """Cross-entropy on clean images.

    Attributes:
        entropy_penalty: Weight of the entropy of the predictions in the loss, negative or positive; 0 for none.

    Raises:
        ValueError: entropy_penalty is not finite.
    """

    entropy_penalty: float = 0.0

    def __post_init__(self) -> None:
        _check_penalty(self.entropy_penalty)

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the images x."""
        return x

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the cross-entropy on clean images plus the entropy penalty."""
        return _loss(network(points), y, self.entropy_penalty)


@final
@dataclass(frozen=True, kw_only=True)
class Adversarial(Recipe):
    """Cross-entropy on adversarial images of the current network.

    Source: Madry et al., ICLR 2018, arXiv:1706.06083. With one step from a random start, Wong, Rice and Kolter, "Fast is
    better than free", ICLR 2020, arXiv:2001.03994.

    Attributes:
        attack: Attack that generates the images. pgd with steps 1 and step_size 1.25 is FGSM from a random start.
        epsilon: Radius of the ball, in pixel units (pixels in [0, 1]).
        entropy_penalty: Weight of the entropy of the predictions on adversarial images in the loss; 0 for none.

    Raises:
        ValueError: epsilon is not above 0, or is above 1 (linf) or 1e6 (l2), or entropy_penalty is not finite.
    """

    attack: Attack = PGD(steps=1, step_size=1.25)
    epsilon: float = 0.12
    entropy_penalty: float = 0.0

    def __post_init__(self) -> None:
        _check_penalty(self.entropy_penalty)
        # The L2 diameter of the pixel range depends on the image size, which is unknown here. So the limit for l2 is loose.
        largest = 1 if self.attack.norm.name == "linf" else 1e6
        if not 0 < self.epsilon <= largest:
            raise ValueError(
                f"epsilon must be above 0 and at most {largest:g}, in pixel units (8/255, not 8), got {self.epsilon:g}"
            )

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns adversarial images, shaped like x."""
        size = torch.full((len(x),), self.epsilon, dtype=x.dtype, device=x.device)
        return self.attack.generate(network, x, y, size, noise, stop_when_fooled=False)[0]

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the cross-entropy on the adversarial images plus the entropy penalty."""
        return _loss(network(points), y, self.entropy_penalty)


RECIPES: dict[str, type[Recipe]] = {"standard": Standard, "adversarial": Adversarial}
