"""Recipes: what loss a network is trained on.

To add one: write a frozen dataclass with `points` and a `loss`, and name it in `RECIPES`.

An entropy penalty adds the mean entropy of the predictions, in nats, times its strength, to the loss: it asks for confident
predictions, hence for large logit differences. Larger differences alone resist nothing, for the gradients grow with them,
and they starve attacks on the cross-entropy of gradients: what such a penalty gains counts only where attacks on the margin,
without gradients, and from other networks find it, too. Below 0 it asks for uncertain predictions.

Source: Cubuk et al., "Intriguing Properties of Adversarial Examples", arXiv:1711.02846; below 0, Pereyra et al.,
"Regularizing Neural Networks by Penalizing Confident Output Distributions", arXiv:1701.06548.
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
    """Turns a batch into points to train on, and these into a loss. A subclass is a frozen dataclass.

    The loop sets the network's mode for each of the two, and they leave it alone.
    """

    @abstractmethod
    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the points to train on, shaped like x: adversarial images, or x itself.

        Args:
            network: In evaluation mode: batch norm's statistics stay those of images that are trained on, not of points on
                the way to them.
            x: Images, (N, C, H, W), pixels in [0, 1], augmented.
            y: Labels, (N,).
            noise: Random numbers for this batch.
        """

    @abstractmethod
    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the mean loss of a batch, a scalar to be differentiated.

        Args:
            network: In training mode.
            x: Images, (N, C, H, W), pixels in [0, 1], augmented.
            points: What `points` returned for them, shaped like x.
            y: Labels, (N,).
        """


def _loss(logits: Tensor, y: Tensor, entropy_penalty: float) -> Tensor:
    """Returns the cross-entropy of logits (N, K) and labels (N,), and the penalised entropy of the predictions."""
    loss = F.cross_entropy(logits, y)
    if entropy_penalty == 0:
        return loss
    # Of the logarithms: where a prediction is certain, the entropy as a function of probabilities has no finite gradient.
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
        entropy_penalty: Weight of the entropy of the predictions in the loss; 0 for none.

    Raises:
        ValueError: entropy_penalty is not finite.
    """

    entropy_penalty: float = 0.0

    def __post_init__(self) -> None:
        _check_penalty(self.entropy_penalty)

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the images."""
        return x

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the cross-entropy, and the penalty."""
        return _loss(network(points), y, self.entropy_penalty)


@final
@dataclass(frozen=True, kw_only=True)
class Adversarial(Recipe):
    """Cross-entropy on adversarial images, made against the network as it stands.

    Source: Madry et al., ICLR 2018, arXiv:1706.06083; with one step from a random start, Wong, Rice and Kolter, "Fast is
    better than free", ICLR 2020, arXiv:2001.03994.

    Attributes:
        attack: Makes the adversarial images; pgd with steps 1 and step_size 1.25 is FGSM from a random start.
        epsilon: Size of the ball, in pixel units (pixels in [0, 1]).
        entropy_penalty: Weight of the entropy of the predictions on them in the loss; 0 for none.

    Raises:
        ValueError: epsilon is not above 0, or larger than the pixel range; or entropy_penalty is not finite.
    """

    attack: Attack = PGD(steps=1, step_size=1.25)
    epsilon: float = 0.12
    entropy_penalty: float = 0.0

    def __post_init__(self) -> None:
        _check_penalty(self.entropy_penalty)
        # The size of the pixel range in L2 depends on the image; one pixel's range is the bound known here.
        if not 0 < self.epsilon <= (1 if self.attack.norm.name == "linf" else 1e6):
            raise ValueError(f"epsilon must be above 0 and at most 1, in pixel units (8/255, not 8), got {self.epsilon:g}")

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns adversarial images."""
        size = torch.full((len(x),), self.epsilon, dtype=x.dtype, device=x.device)
        return self.attack.generate(network, x, y, size, noise, stop_when_fooled=False)[0]

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the cross-entropy on the adversarial images, and the penalty."""
        return _loss(network(points), y, self.entropy_penalty)


RECIPES: dict[str, type[Recipe]] = {"standard": Standard, "adversarial": Adversarial}
