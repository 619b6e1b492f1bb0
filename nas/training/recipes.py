"""Recipes: what loss a network is trained on.

To add one: write a frozen dataclass with `points` and a `loss`, and name it in `RECIPES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
import torch.nn.functional as F

from evaluators.attacks import PGD, Attack

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.noise import Noise


class Recipe(ABC):
    """Turns a batch into points to train on, and these into a loss. A subclass is a frozen dataclass.

    The loop sets the network's mode for each of the two, and they leave it alone.
    """

    @abstractmethod
    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
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


@final
@dataclass(frozen=True, kw_only=True)
class Standard(Recipe):
    """Cross-entropy on clean images."""

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """Returns the images."""
        return x

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the cross-entropy."""
        return F.cross_entropy(network(points), y)


@final
@dataclass(frozen=True, kw_only=True)
class Adversarial(Recipe):
    """Cross-entropy on adversarial images, made against the network as it stands.

    Source: Madry et al., ICLR 2018, arXiv:1706.06083; with one step from a random start, Wong, Rice and Kolter, "Fast is
    better than free", ICLR 2020, arXiv:2001.03994.

    Attributes:
        attack: Makes the adversarial images; pgd with steps 1 and step_size 1.25 is FGSM from a random start.
        epsilon: Size of the ball, in pixel units (pixels in [0, 1]).

    Raises:
        ValueError: epsilon is not above 0, or larger than the pixel range.
    """

    attack: Attack = PGD(steps=1, step_size=1.25)
    epsilon: float = 0.12

    def __post_init__(self) -> None:
        # The size of the pixel range in L2 depends on the image; one pixel's range is the bound known here.
        if not 0 < self.epsilon <= (1 if self.attack.norm.name == "linf" else 1e6):
            raise ValueError(f"epsilon must be above 0 and at most 1, in pixel units (8/255, not 8), got {self.epsilon:g}")

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """Returns adversarial images."""
        size = torch.full((len(x),), self.epsilon, dtype=x.dtype, device=x.device)
        return self.attack.craft(network, x, y, size, noise, stop_when_fooled=False)[0]

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the cross-entropy on the adversarial images."""
        return F.cross_entropy(network(points), y)


RECIPES: dict[str, type[Recipe]] = {"standard": Standard, "adversarial": Adversarial}
