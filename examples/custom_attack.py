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
class LabelSmoothing(Recipe):
    """Cross-entropy with label smoothing.

    Attributes:
        amount: Probability mass, in [0, 1], that is distributed over all classes.
    """

    amount: float = 0.1

    def points(self, network, x, y, noise):
        return x

    def loss(self, network, x, points, y):
        return F.cross_entropy(network(points), y, label_smoothing=self.amount)
