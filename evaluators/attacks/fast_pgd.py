"""PGD with shortcuts: error curves like those of PGD, in a fraction of the time.

Not to be confused with `PGD`, the standard protocol. FastPGD takes two shortcuts:

- The trust-region attack runs first. It finds nearly the whole error curve in a few gradients. So PGD needs to try only the
  epsilons just below the radius of each image, instead of all epsilons.
- PGD stops on an image whose margin rises too slowly to reach zero within the steps that are left.

Sources: those of `TrustRegion` and `PGD`. The shortcuts are our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import torch

from evaluators.attacks.base import Attack, AttackEnsemble
from evaluators.attacks.fmn import FMN
from evaluators.attacks.gradient_steps import check_steps, gradient_steps
from evaluators.attacks.losses import Loss, cross_entropy
from evaluators.attacks.trust_region import TrustRegion
from evaluators.norms import L1, Linf, Norm, broadcast_per_image

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise


@final
@dataclass(frozen=True, kw_only=True)
class FastPGD(AttackEnsemble):
    """The worst case of the trust-region attack and a PGD that stops on images with slowly rising margins.

    It is meant for `radii` and profiles with many epsilons. Use `PGD` to compare errors with published ones. In L1, FMN
    takes the place of the trust-region attack.

    Attributes:
        norm: Shape of the ball: linf, l2 or l1.
        loss: Loss that PGD maximises: cross_entropy, margin or dlr.
        steps: Largest number of gradient steps of PGD, which starts at the clean image.
        step_size: Length of a step of PGD, as a fraction of epsilon.

    Raises:
        ValueError: steps is below 1, or step_size is not positive and finite.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from evaluators import radii
        >>> from evaluators.attacks import FastPGD
        >>> network = nn.Identity()  # The two pixels are the logits of two classes.
        >>> x, y = torch.tensor([[0.7, 0.5], [0.9, 0.1], [0.4, 0.5]]), torch.tensor([0, 0, 0])
        >>> radii(network, x, y, FastPGD(), epsilons=[0.05, 0.15, 0.3, 0.45])
        tensor([0.1500, 0.4500, 0.0000], dtype=torch.float64)
    """

    downwards: ClassVar[bool] = True
    norm: Norm = Linf()
    loss: Loss = cross_entropy
    steps: int = 20
    step_size: float = 0.2

    def __post_init__(self) -> None:
        check_steps(self.steps, self.step_size)

    def members(self) -> tuple[Attack, ...]:
        """Returns the two attacks. The first one is short, as only the epsilon of the grid above each radius is needed."""
        first = (
            FMN(norm=self.norm, steps=self.steps)
            if isinstance(self.norm, L1)
            else TrustRegion(norm=self.norm, first=1.0, candidates=2, bisections=2)
        )
        return first, _StoppingPGD(norm=self.norm, loss=self.loss, steps=self.steps, step_size=self.step_size)


@final
@dataclass(frozen=True, kw_only=True)
class _StoppingPGD(Attack):
    """PGD from the clean image that stops on images with slowly rising margins. Its settings are those of `FastPGD`."""

    norm: Norm
    loss: Loss
    steps: int
    step_size: float

    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the perturbation after the last step."""
        gradient = _StoppingGradient(target, self.loss, self.steps)
        return gradient_steps(gradient, self.norm, x, x, epsilon, steps=self.steps, step_size=self.step_size)


@final
class _StoppingGradient:
    """Gradients for `gradient_steps` that are zero, and cost no pass, on images whose margin rises too slowly.

    The largest margin so far is extended to the last step, at its pace over the last fifth of all steps. If the image would
    still be classified correctly there, it is given up and stays at its point.
    """

    def __init__(self, target: GradientOracle, loss: Loss, steps: int) -> None:
        self._target, self._loss, self._steps = target, loss, steps
        self._window = max(steps // 5, 2)
        self._done = 0
        self._largest: list[Tensor] = []  # The largest margins so far, (N,), at each of the last steps.

    def __call__(self, points: Tensor) -> Tensor:
        """Returns the gradient of the loss at points (N, ...)."""
        gradient = self._target.gradient(points, self._loss)
        self._done += 1
        margins = self._target.margins.clone()
        self._largest.append(torch.maximum(self._largest[-1], margins) if self._largest else margins)
        if len(self._largest) > self._window:
            rise = self._largest[-1] - self._largest.pop(0)
            left = self._steps - self._done + 1  # The point of the first gradient was reached without a step.
            slow = self._largest[-1] + rise * left / self._window < 0
            self._target.give_up(slow)
            gradient = torch.where(broadcast_per_image(slow, points), 0, gradient)
        return gradient
