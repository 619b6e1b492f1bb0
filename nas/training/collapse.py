"""Guard against the collapse of adversarial training with one gradient step, known as catastrophic overfitting.

In such a training, the network can lose its robustness within one epoch: it still resists one large step, but hardly any
attack of several steps. The guard compares one step with three on held-out images after each epoch.

Sources: Wong, Rice and Kolter, "Fast is better than free", ICLR 2020, arXiv:2001.03994, who end the training; Andriushchenko
and Flammarion, "Understanding and Improving Fast Adversarial Training", NeurIPS 2020, arXiv:2007.02617.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evaluators.attacks import FGSM, PGD
from evaluators.engine.noise import ImageNoise

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.attacks import Attack
    from evaluators.norms import Norm

# Number of held-out images of the check.
IMAGES = 64
# Smallest share of the images that resist one step but not three for a training to count as collapsed.
COLLAPSED = 0.3


class CollapsedError(Exception):
    """Training with one gradient step has collapsed."""


def collapse_gap(network: nn.Module, x: Tensor, y: Tensor, norm: Norm, epsilon: float, seed: int) -> float:
    """Returns the share of images that resist one gradient step but not three smaller ones, in [0, 1].

    Args:
        network: The network in evaluation mode.
        x: Held-out images, (N, C, H, W), pixels in [0, 1].
        y: Labels, (N,).
        norm: Shape of the ball.
        epsilon: Radius of the ball, in pixel units.
        seed: Seed of the random start of the three steps.
    """

    def resists(attack: Attack) -> Tensor:
        radii = torch.full((len(x),), epsilon, dtype=x.dtype, device=x.device)
        noise = ImageNoise.of(seed, torch.arange(len(x), device=x.device))
        # The points on the way count, too: a collapsed network often resists the end of a large step, but not its middle.
        points = attack.generate(network, x, y, radii, noise, stop_when_fooled=True)[0]
        with torch.no_grad():
            resisted: Tensor = network(points).argmax(1) == y
        return resisted

    return float((resists(FGSM(norm=norm)) & ~resists(PGD(norm=norm, steps=3, step_size=0.5))).double().mean())
