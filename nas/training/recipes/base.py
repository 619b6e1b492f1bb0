"""Base classes of training recipes.

The entropy penalty adds `entropy_penalty` times the mean entropy of the predictions, in nats, to the loss. A positive weight
favours confident predictions, so the logit differences grow. A negative weight favours uncertain predictions.

Pitfall: larger logit differences are no robustness, because the gradients grow with them. They also shrink the gradient of
the cross-entropy, which weakens attacks on it. A gain of robustness is real only if it also holds under attacks on the
margin, gradient-free attacks and transfer attacks.

Source: Cubuk et al., "Intriguing Properties of Adversarial Examples", arXiv:1711.02846. For negative weights, Pereyra et
al., "Regularizing Neural Networks by Penalizing Confident Output Distributions", arXiv:1701.06548. Label smoothing: Szegedy
et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, arXiv:1512.00567.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.engine.noise import ImageNoise
    from evaluators.norms import Norm


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


@dataclass(frozen=True, kw_only=True)
class CrossEntropyRecipe(Recipe):
    """A recipe whose loss is the cross-entropy at the points.

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

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Returns the mean cross-entropy of logits (N, K) and labels (N,), with label smoothing and the entropy penalty."""
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        if self.entropy_penalty == 0:
            return loss
        # From log-probabilities: the gradient of p log p in p is not finite at p = 0.
        logarithms = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
        return loss - self.entropy_penalty * (logarithms.exp() * logarithms).sum(1).mean()

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the mean cross-entropy at the points, with label smoothing and the entropy penalty."""
        return self.cross_entropy(network(points), y)


@dataclass(frozen=True, kw_only=True)
class BallRecipe(CrossEntropyRecipe):
    """A recipe that trains on adversarial images in a ball around each image.

    Attributes:
        epsilon: Radius of the ball, in pixel units (pixels in [0, 1]).

    Raises:
        ValueError: epsilon is not above 0, or is above 1 (linf) or 1e6 (l2), or as for `CrossEntropyRecipe`.
    """

    epsilon: float = 0.12

    @property
    @abstractmethod
    def shape(self) -> Norm:
        """Shape of the ball."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # The L2 diameter of the pixel range depends on the image size, which is unknown here.
        largest = 1 if self.shape.name == "linf" else 1e6
        if not 0 < self.epsilon <= largest:
            raise ValueError(
                f"epsilon must be above 0 and at most {largest:g}, in pixel units (8/255, not 8), got {self.epsilon:g}"
            )

    def radii(self, x: Tensor) -> Tensor:
        """Returns the radius of each image's ball, (N,)."""
        return torch.full((len(x),), self.epsilon, dtype=x.dtype, device=x.device)
