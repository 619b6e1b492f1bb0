"""Fast adaptive boundary attack, in L1.

Not to be confused with `FMN`, which follows the gradient inside a ball. Here each step goes to the boundary of the network's
linearisation, as in `DeepFool`. It is drawn towards the point of this boundary that is nearest to the clean image.

Source: Croce and Hein, "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack", ICML 2020,
arXiv:1907.02044.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evaluators.attacks.base import MinimumNorm
from evaluators.attacks.bisection import bisect
from evaluators.attacks.losses import targeted_margin
from evaluators.attacks.rivals import check_candidates, rank_rivals
from evaluators.attacks.settings import check_counts
from evaluators.engine.l1_steps import greedy_step
from evaluators.norms import L1, Norm, broadcast_per_image

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise

# A step is lengthened by this factor, to cross the boundary.
OVERSHOOT = 1.05
# Largest weight of the step from the clean image.
LARGEST_WEIGHT = 0.1
# Share of the perturbation that is left when a misclassified point is moved back towards the clean image.
BACK = 0.9


@final
@dataclass(frozen=True, kw_only=True)
class FAB(MinimumNorm):
    """Fast adaptive boundary attack: steps to the boundary of the linearisation, and back where they cross the network's.

    From a correctly classified point, a step leads beyond the boundary of the linearisation. A misclassified point is moved
    back towards the clean image first. Deviations from the paper:

    - It works in L1 only. FMN finds smaller perturbations in the other norms.
    - The linearisation at a misclassified point is also used after this point was moved back. The paper computes another one
      there. So a step costs one gradient, and no further pass.
    - The target classes are the nearest ones to first order, instead of those with the largest logits.
    - There are no random restarts. At the end of a run, a bisection moves the misclassified point closer to the image.

    Attributes:
        norm: Norm to minimise, l1.
        steps: Number of gradient steps towards each target class.
        targets: Number of target classes; all wrong classes if there are fewer.
        candidates: Number of classes from which they are chosen: the true class and the others with the largest logits.

    Raises:
        ValueError: norm is not l1, steps or targets is below 1, or candidates is below 2.
    """

    norm: Norm = L1()
    steps: int = 100
    targets: int = 3
    candidates: int = 10

    def __post_init__(self) -> None:
        if self.norm != L1():
            raise ValueError(f"norm must be l1 for FAB, got {self.norm.name}; FMN takes every norm")
        check_counts(steps=self.steps, targets=self.targets)
        check_candidates(self.candidates)

    def minimise(self, target: GradientOracle, x: Tensor, noise: ImageNoise) -> None:
        """Runs towards each target class, each time from the clean image."""
        for towards in rank_rivals(target, self.norm, x, self.candidates)[:, : self.targets].unbind(1):
            points = nearest = x
            best = x.new_full((len(x),), math.inf)
            for _ in range(self.steps):
                value, gradient = target.value_and_gradient(points, targeted_margin, towards)
                wrong, size = value > 0, self.norm.size(points - x)
                closer = wrong & (size < best)
                best, nearest = torch.where(closer, size, best), torch.where(broadcast_per_image(closer, x), points, nearest)
                points = self._step(x, points, gradient, value, wrong)
            bisect(target, self.norm, x, nearest, 10)

    def _step(self, x: Tensor, points: Tensor, gradient: Tensor, value: Tensor, wrong: Tensor) -> Tensor:
        """Returns the next points, (N, ...): a mean of steps to the plane from the last point and from the clean image.

        Args:
            x: Clean images, (N, ...).
            points: The last points, (N, ...).
            gradient: Gradient of the margin to the target class there, (N, ...).
            value: The margin there, (N,).
            wrong: Whether the last points are misclassified, (N,) bool.
        """
        start = torch.where(broadcast_per_image(wrong, x), x + BACK * (points - x), points)
        steps = []
        for origin in (start, x):
            # The linearisation of the margin is 0 on the plane.
            margin = value + ((origin - points) * gradient).flatten(1).sum(1)
            steps.append(greedy_step(origin, gradient, -margin))
        own, clean = (self.norm.size(step) for step in steps)
        weight = broadcast_per_image((own / (own + clean).clamp(min=torch.finfo(x.dtype).tiny)).clamp(max=LARGEST_WEIGHT), x)
        moved = (1 - weight) * (start + OVERSHOOT * steps[0]) + weight * (x + OVERSHOOT * steps[1])
        return moved.clamp(0, 1)
