"""Guard against the collapse of adversarial training with one gradient step, known as catastrophic overfitting.

In such a training, the network can lose its robustness within one epoch: it still resists one large step, but hardly any
attack of several steps. The guard compares one step with three on held-out images after each epoch.

Sources: Wong, Rice and Kolter, "Fast is better than free", ICLR 2020, arXiv:2001.03994, who end the training; Andriushchenko
and Flammarion, "Understanding and Improving Fast Adversarial Training", NeurIPS 2020, arXiv:2007.02617.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evaluators.engine.noise import ImageNoise
from nas.training.recipes.base import AttackRecipe, three_steps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nas.training.recipes.base import BallRecipe, Recipe

# Number of held-out images of the check.
IMAGES = 64
# Smallest share of the images that resist one step but not three for a training to count as collapsed.
COLLAPSED = 0.3


class CollapsedError(Exception):
    """Training with one gradient step has collapsed."""


def collapse_gap(network: nn.Module, x: Tensor, y: Tensor, recipe: Recipe, remedy: BallRecipe, seed: int) -> float:
    """Returns the share of images that resist the step of a recipe but not three smaller steps, in [0, 1].

    Returns 0 if the images that resist the step of the recipe are fewer than the share `COLLAPSED`.

    Args:
        network: The network in evaluation mode.
        x: Held-out images, (N, C, H, W), pixels in [0, 1].
        y: Labels, (N,).
        recipe: The recipe of one gradient step.
        remedy: Recipe of several steps with the same ball.
        seed: Seed of the random numbers of both.
    """
    noise = ImageNoise.of(seed, torch.arange(len(x), device=x.device))
    if isinstance(recipe, AttackRecipe):  # The points of `Mixture` are partly clean images.
        one_step = recipe.attacked(recipe.attack, network, x, y, noise)
    else:
        one_step = recipe.points(network, x, y, noise)
    with torch.no_grad():
        left = (network(one_step).argmax(1) == y).nonzero().squeeze(1)
    if len(left) < COLLAPSED * len(x):  # The share of images cannot reach COLLAPSED any more.
        return 0.0
    attack, radii = three_steps(remedy.norm), remedy.radii(x)[left]
    # The points on the way count, too: a collapsed network often resists the end of a large step, but not its middle.
    points = attack.generate(network, x[left], y[left], radii, ImageNoise(noise.keys[left]), stop_when_fooled=True)[0]
    with torch.no_grad():
        fooled = network(points).argmax(1) != y[left]
    return int(fooled.sum()) / len(x)
