"""Training on a mixture of clean and adversarial images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evaluators.attacks import Attack, StepLL
from nas.training.recipes.base import AttackRecipe, check_weight

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.engine.noise import ImageNoise


@final
@dataclass(frozen=True, kw_only=True)
class Mixture(AttackRecipe):
    """Cross-entropy on a batch whose first images stay clean and whose others are adversarial.

    The radius of each ball is random: the absolute value of a normal number with a standard deviation of epsilon / 2, drawn
    again if it exceeds epsilon. A network trained at a single radius may resist only attacks of this radius.

    Source: Kurakin, Goodfellow and Bengio, "Adversarial Machine Learning at Scale", ICLR 2017, arXiv:1611.01236, with one
    step towards the least-likely class. Cubuk et al., arXiv:1711.02846, train adversarially in this way.

    Attributes:
        attack: Attack that generates the images.
        share: Share of adversarial images in a batch, above 0 and at most 1. Their number is rounded, and at least 1.
        weight: Weight of an adversarial image in the loss, relative to a clean one.

    Raises:
        ValueError: share is out of range, weight is negative or not finite, or as for `AttackRecipe`.
    """

    attack: Attack = StepLL()
    share: float = 0.5
    weight: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share:g}")
        check_weight("weight", self.weight)

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the images, of which the last are adversarial, shaped like x."""
        clean = self._clean(x)
        attacked, keys = x[clean:], noise.select(torch.arange(clean, len(x), device=x.device))
        uniform = keys.fork(1).uniform(attacked.flatten(1)[:, :1]).flatten()
        # Inverse of the distribution of a normal number's absolute value below two standard deviations, divided by two.
        radii = self.radii(attacked) * torch.erfinv(uniform * math.erf(math.sqrt(2))) / math.sqrt(2)
        images, _ = self.attack.generate(network, attacked, y[clean:], radii, keys.fork(0), stop_when_fooled=False)
        return torch.cat([x[:clean], images])

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the weighted mean of the cross-entropy over all images of the batch."""
        clean, logits = self._clean(x), network(points)
        attacked = self.cross_entropy(logits[clean:], y[clean:])
        if clean == 0:
            return attacked
        weight = self.weight * (len(x) - clean)
        return (clean * self.cross_entropy(logits[:clean], y[:clean]) + weight * attacked) / (clean + weight)

    def _clean(self, x: Tensor) -> int:
        """Returns the number of clean images of a batch."""
        return len(x) - max(1, round(self.share * len(x)))
