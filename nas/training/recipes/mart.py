"""MART: adversarial training with more weight on images that are misclassified without an attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from nas.training.recipes.base import StepsRecipe, check_weight, divergence

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.engine.noise import ImageNoise


@final
@dataclass(frozen=True, kw_only=True)
class Mart(StepsRecipe):
    """MART: cross-entropy and a margin term at images of PGD, and a divergence that counts most for misclassified images.

    The divergence is that of the predictions at the adversarial images from those at the clean images.

    Source: Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", ICLR 2020,
    https://openreview.net/forum?id=rklOg6EFwS.

    Attributes:
        beta: Weight of the divergence.

    Raises:
        ValueError: beta is negative or not finite, or as for `StepsRecipe`.
    """

    beta: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("beta", self.beta)

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns adversarial images, shaped like x."""
        return self.attacked(self.pgd, network, x, y, noise)

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the mean of three terms over the images.

        The first is the cross-entropy at the adversarial image. The second is -log(1 - p), where p is the largest
        probability of a wrong class there. The third is beta times the divergence times the probability of all wrong classes
        at the clean image.
        """
        clean, logits = network(x), network(points)
        wrong = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
        # log(1 - p) as the logarithm of the sum over all other classes: 1 - p itself would be rounded to 0.
        log_rest = logits.scatter(1, wrong[:, None], -torch.inf).logsumexp(1) - logits.logsumexp(1)
        misclassified = 1 - clean.softmax(1).gather(1, y[:, None]).squeeze(1)
        boosted: Tensor = self.beta * divergence(clean, logits) * misclassified - log_rest
        return self.cross_entropy(logits, y) + boosted.mean()
