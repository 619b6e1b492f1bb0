"""Transfer: adversarial images of one network, tried on another.

Source: Papernot, McDaniel and Goodfellow, "Transferability in Machine Learning: from Phenomena to Black-Box Attacks using
Adversarial Samples", arXiv:1605.07277.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from torch import nn

from evaluators.attacks.base import Attack
from evaluators.engine.batches import forward
from evaluators.engine.frozen import frozen
from evaluators.engine.input_checks import check_labels, check_logits
from evaluators.norms import Norm

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise


@final
@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """Crafts each image with an inner attack on another network, and asks the target nothing.

    What hides the target's gradients does not hide it from this: a network that resists its own attacks, and not those
    crafted on others, masks its gradients. A network is no plain data, so this attack has no name in YAML.

    Attributes:
        source: The network on which images are crafted, on the images' device; it runs in evaluation mode and is left as
            it was.
        attack: What crafts them there, at the same epsilon. A minimum-norm attack stops at the source's own boundary, and
            so carries over badly.
        norm: Shape of the ball, that of the inner attack.

    Raises:
        TypeError: source is not a network, or attack is not an attack.
    """

    source: nn.Module
    attack: Attack
    norm: Norm = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.source, nn.Module):
            raise TypeError(f"source must be a network, an nn.Module, got {type(self.source).__name__}")
        if not isinstance(self.attack, Attack):
            raise TypeError(f"attack must be an Attack, got {type(self.attack).__name__}")
        object.__setattr__(self, "norm", self.attack.norm)

    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the perturbation that the inner attack finds on the source.

        Raises:
            ValueError: the source's output is not (N, K) logits, or has no logit for one of the labels.
        """
        with frozen(self.source):
            logits = forward(self.source, x[:1], 1)
            check_logits(logits, 1)
            check_labels(target.labels, len(x), logits.shape[1])
            points, _ = self.attack.generate(self.source, x, target.labels, epsilon.flatten(), noise, stop_when_fooled=False)
        return points - x
