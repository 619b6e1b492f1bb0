"""Constraint relaxation: a walk in a larger ball that returns to the ball of radius epsilon, again and again.

Not to be confused with `PGD`, which never leaves the ball. A point outside the ball may be misclassified where no point on
the path of PGD is. The way back from there often ends at a misclassified point inside the ball.

Source: "Efficient Robustness Evaluation via Constraint Relaxation", AAAI 2025. The ranking of the classes is that of
Melamed, Yehudai and Shamir, "MALT Powers Up Adversarial Attacks", NeurIPS 2024, arXiv:2407.02240.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from evaluators.attacks.base import Attack
from evaluators.attacks.gradient_oracle import GradientOracle, Keep
from evaluators.attacks.losses import targeted_margin
from evaluators.attacks.rivals import check_candidates, rank_rivals
from evaluators.attacks.settings import check_counts
from evaluators.norms import Linf, Norm, broadcast_per_image

if TYPE_CHECKING:
    from evaluators.engine.noise import ImageNoise

# Lengths of the first and the last step of a walk, as fractions of epsilon.
FIRST, LAST = 0.5, 0.1


@final
@dataclass(frozen=True, kw_only=True)
class ConstraintRelaxation(Attack):
    """Walks towards each of the nearest classes, in cycles of three: a larger ball, the ball itself, and again after noise.

    In a cycle with share s, the first walk is in a ball of radius (1 + s) epsilon. Where it meets a misclassified point, its
    projection onto the ball of radius epsilon is tried. The second walk is in that ball. Then the perturbation is shortened
    to (1 - s) epsilon, noise of size s epsilon is added, and the third walk is again in the ball. The share is 1/2 in the
    first cycle, and is halved in each cycle. Deviations from the paper:

    - The classes are the nearest ones to first order, instead of the likeliest ones after some steps on cross-entropy.
    - A cycle leaves out an image if it needs more than s epsilon to reach the boundary, to first order. The paper compares
      the margin with s, which depends on the scale of the logits.
    - A projected point is evaluated only if the point itself is misclassified.
    - There are no restarts, and fewer steps. The lengths of the steps are our own.

    Attributes:
        norm: Shape of the ball: linf, l2 or l1.
        targets: Number of target classes.
        candidates: Number of classes from which they are chosen: the true class and the others with the largest logits.
        steps: Number of gradient steps of each walk.
        cycles: Number of cycles for each target class.

    Raises:
        ValueError: targets, steps or cycles is below 1, or candidates is below 2.
    """

    norm: Norm = Linf()
    targets: int = 3
    candidates: int = 10
    steps: int = 5
    cycles: int = 4

    def __post_init__(self) -> None:
        check_counts(targets=self.targets, steps=self.steps, cycles=self.cycles)
        check_candidates(self.candidates)

    def recorded(self, *, stop_when_fooled: bool) -> Keep:
        """Returns "first": only one of the walks may end at a misclassified point."""
        return "first"

    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the last perturbation. The target keeps the first misclassified point of each image."""
        points = x
        classes = rank_rivals(target, self.norm, x, self.candidates)[:, : self.targets]
        for number, towards in enumerate(classes.unbind(1)):
            points, wanted = x, torch.ones_like(target.fooled)
            for cycle in range(self.cycles):
                share = 0.5 ** (cycle + 1)
                if cycle > 0:
                    wanted = wanted & self._near(target, towards, points, share * epsilon, wanted)
                if not wanted.any():
                    break
                walk = _Walk(target, self.norm, x, epsilon, towards, wanted, self.steps)
                points = walk.inside(walk.relaxed(points, share))
                noisy = self.norm.sample(x, share * epsilon, noise.fork(number * self.cycles + cycle))
                shorter = self.norm.inside(x, self.norm.project(points - x, (1 - share) * epsilon) + noisy, epsilon)
                points = walk.inside(torch.where(broadcast_per_image(wanted, x), shorter, points))
        return points - x

    def _near(self, target: GradientOracle, towards: Tensor, points: Tensor, distance: Tensor, wanted: Tensor) -> Tensor:
        """Returns whether the boundary to a class is at most `distance` away from points (N, ...), to first order, (N,)."""
        value, gradient = target.value_and_gradient(points, targeted_margin, towards, only=wanted)
        return value.isfinite() & (-value <= self.norm.dual(gradient) * distance.flatten())


@final
@dataclass(frozen=True)
class _Walk:
    """Walks of one image batch towards one class. The step lengths fall from `FIRST` to `LAST` along half a cosine.

    Attributes:
        target: The attacked network.
        norm: Shape of the balls.
        x: Clean images, (N, ...).
        epsilon: Radius of each image's ball, (N, 1, ...), in pixel units.
        towards: Target classes, (N,) int64.
        wanted: Whether each image walks, (N,) bool.
        steps: Number of steps.
    """

    target: GradientOracle
    norm: Norm
    x: Tensor
    epsilon: Tensor
    towards: Tensor
    wanted: Tensor
    steps: int

    def inside(self, points: Tensor) -> Tensor:
        """Returns the last points of a walk in the ball, (N, ...)."""
        points = self.norm.inside(self.x, points - self.x, self.epsilon)
        for number in range(self.steps):
            points = self._step(number, points, self.epsilon)[0]
        return points

    def relaxed(self, points: Tensor, share: float) -> Tensor:
        """Returns the last points of a walk in the ball of radius (1 + share) epsilon, (N, ...)."""
        for number in range(self.steps):
            moved, value = self._step(number, points, (1 + share) * self.epsilon)
            crossed = self.wanted & (value > 0) & value.isfinite()
            self.target.wrong(self.norm.inside(self.x, points - self.x, self.epsilon), only=crossed)
            points = moved
        return points

    def _step(self, number: int, points: Tensor, ball: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the points after a step inside the ball, (N, ...), and the margins to the class before it, (N,)."""
        value, gradient = self.target.value_and_gradient(points, targeted_margin, self.towards, only=self.wanted)
        fraction = LAST + (FIRST - LAST) * (1 + math.cos(math.pi * number / max(self.steps - 1, 1))) / 2
        moved = self.norm.inside(self.x, points - self.x + fraction * self.epsilon * self.norm.step(points, gradient), ball)
        return torch.where(broadcast_per_image(self.wanted, self.x), moved, points), value
