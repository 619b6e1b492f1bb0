"""MART: adversarial training with more weight on images that are misclassified without an attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from nas.training.recipes.adversarial import StepsRecipe
from nas.training.recipes.trades import check_weight, divergence

if TYPE_CHECKING:
    from torch import Tensor, nn


@final
@dataclass(frozen=True, kw_only=True)
class Mart(StepsRecipe):
    """MART: boosted cross-entropy at the adversarial images, and a divergence that counts most for misclassified images.

    Source: Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", ICLR 2020.

    Attributes:
        beta: Weight of the divergence.

    Raises:
        ValueError: beta is negative or not finite, or as for `StepsRecipe`.
    """

    beta: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("beta", self.beta)

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the mean of three parts at each image.

        The first is the cross-entropy at the point. The second is -log(1 - p), where p is the largest probability of a wrong
        class at the point. The third is beta times the divergence times the probability of the wrong classes at the image.
        """
        clean, logits = network(x), network(points)
        wrong = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
        # log(1 - p) of the class `wrong`, from the sum over all other classes: 1 - p itself would be rounded to 0.
        others = logits.scatter(1, wrong[:, None], -torch.inf).logsumexp(1) - logits.logsumexp(1)
        misclassified = 1 - clean.softmax(1).gather(1, y[:, None]).squeeze(1)
        further: Tensor = self.beta * divergence(clean, logits) * misclassified - others
        return self.cross_entropy(logits, y) + further.mean()
