"""A custom attack and a custom recipe. In YAML, write `{name: custom_attack.py:RandomSigns, tries: 20}` for the attack."""

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F

from evaluators import Attack, Linf, Norm
from evaluators.attacks import margin
from nas.training.recipes import Recipe


@final
@dataclass(frozen=True, kw_only=True)
class RandomSigns(Attack):
    """Evaluates random corners of the L-infinity ball and returns the corner with the largest loss.

    Attributes:
        norm: Shape of the ball.
        tries: Number of corners.
    """

    norm: Norm = Linf()
    tries: int = 10

    def perturb(self, target, x, epsilon, noise):
        best = torch.zeros_like(x)
        worst = torch.full((len(x),), -torch.inf, device=x.device)
        for draw in range(self.tries):
            delta = epsilon * (noise.uniform(x, draw) - 0.5).sign()
            loss = target.value((x + delta).clamp(0, 1), margin)
            better = loss > worst
            best[better], worst[better] = delta[better], loss[better]
        return best


@final
@dataclass(frozen=True, kw_only=True)
class FocalLoss(Recipe):
    """Focal loss: cross-entropy with less weight on images that are classified correctly with high probability.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002.

    Attributes:
        gamma: Exponent of the weight, at least 0; 0 for cross-entropy.
    """

    gamma: float = 2.0

    def points(self, network, x, y, noise):
        return x

    def loss(self, network, x, points, y):
        loss = F.cross_entropy(network(points), y, reduction="none")
        return ((1 - (-loss).exp()) ** self.gamma * loss).mean()
