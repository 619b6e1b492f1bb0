"""Transfer attack: adversarial images of a source network, applied to the target network.

Not to be confused with `Square` and `HopSkipJump`, which use no gradients either, but ask the target network many times.

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
    """Transfer attack: runs an inner attack on a source network and does not query the target network.

    It reveals gradient masking: a network masks its gradients if it resists direct attacks but not transferred ones.
    YAML cannot hold a network, so this attack has no name in `ATTACKS`.

    Attributes:
        source: Source network, on the device of the images. It runs in evaluation mode. Its state is restored afterwards.
        attack: Attack on the source network, at the same epsilon. Minimum-norm attacks stop at the decision boundary of
            the source and transfer badly.
        norm: Shape of the ball. It is the norm of the inner attack and is not an argument.

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
        """Returns the perturbation that the inner attack finds on the source network.

        Raises:
            ValueError: the output of the source network is not (N, K) logits, or a label is not below K.
        """
        with frozen(self.source):
            logits = forward(self.source, x[:1], 1)
            check_logits(logits, 1)
            check_labels(target.labels, len(x), logits.shape[1])
            points, _ = self.attack.generate(self.source, x, target.labels, epsilon.flatten(), noise, stop_when_fooled=False)
        return points - x
