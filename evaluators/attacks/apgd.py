"""Auto-PGD: projected gradient descent that chooses its own steps.

Source: Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks",
ICML 2020, arXiv:2003.01690.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evaluators.attacks.base import Attack
from evaluators.attacks.losses import Loss, cross_entropy, targeted_dlr, targeted_margin
from evaluators.norms import Linf, Norm, broadcast_per_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise

_MOMENTUM = 0.75  # The paper's alpha: the share of the new step, against 0.25 of the one before.


@final
@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Repeats a gradient step with momentum, and halves the step where it no longer pays.

    Attributes:
        norm: Shape of the ball, linf or l2.
        loss: What the steps increase: cross_entropy, margin or dlr.
        steps: Number of gradient steps of one walk.
        restarts: Number of walks, each from a random start of its own.
        rho: The step is halved where the loss rose in no more than this share of the steps since the last checkpoint.

    Raises:
        ValueError: steps or restarts is below 1, or rho is not between 0 and 1.
    """

    norm: Norm = Linf()
    loss: Loss = cross_entropy
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75

    def __post_init__(self) -> None:
        if self.restarts < 1:
            raise ValueError(f"restarts must be at least 1, got {self.restarts}")
        _check(self.steps, self.rho)

    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the point of largest loss of all walks, minus x."""

        def ascend(points: Tensor) -> tuple[Tensor, Tensor]:
            return target.value_and_gradient(points, self.loss)

        walks = (
            climb(ascend, x, epsilon, noise.fork(walk), self.norm, steps=self.steps, rho=self.rho)
            for walk in range(self.restarts)
        )
        return _largest(walks) - x


@final
@dataclass(frozen=True, kw_only=True)
class TargetedAPGD(Attack):
    """Walks as `APGD` does, once towards each of the classes that come next in the clean image.

    The loss is the targeted difference of logits ratio; with fewer than 4 classes, the margin of the class.

    Attributes:
        norm: Shape of the ball, linf or l2.
        targets: Number of classes to walk towards, those of the largest clean logits; all of them where there are fewer.
        steps: Number of gradient steps of one walk.
        rho: As in `APGD`.

    Raises:
        ValueError: targets or steps is below 1, or rho is not between 0 and 1.
    """

    norm: Norm = Linf()
    targets: int = 9
    steps: int = 100
    rho: float = 0.75

    def __post_init__(self) -> None:
        if self.targets < 1:
            raise ValueError(f"targets must be at least 1, got {self.targets}")
        _check(self.steps, self.rho)

    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the point at which the class of its walk came out furthest above the label, minus x."""
        logits = target.logits(x).scatter(1, target.labels[:, None], -math.inf)
        classes = logits.topk(min(self.targets, logits.shape[1] - 1)).indices
        loss = targeted_dlr if logits.shape[1] >= 4 else targeted_margin

        def walk(number: int, towards: Tensor) -> tuple[Tensor, Tensor]:
            return climb(
                lambda points: target.value_and_gradient(points, loss, towards),
                x,
                epsilon,
                noise.fork(number),
                self.norm,
                steps=self.steps,
                rho=self.rho,
            )

        return _largest(walk(number, towards) for number, towards in enumerate(classes.unbind(1))) - x


def climb(
    ascend: Callable[[Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    epsilon: Tensor,
    noise: ImageNoise,
    norm: Norm,
    *,
    steps: int,
    rho: float,
) -> tuple[Tensor, Tensor]:
    """Returns the point of largest loss of one walk, (N, ...), and that loss, (N,): the paper's algorithm 1.

    An image that is dropped has an infinite loss and no gradient: where it stays no longer matters.

    Args:
        ascend: Returns the loss (N,) at points (N, ...), and its gradient, shaped like them.
        x: Clean images, (N, ...).
        epsilon: Radius of each image's ball, (N, 1, ...).
        noise: Draws the start.
        norm: Shape of the ball.
        steps: Number of gradient steps.
        rho: Share of the steps that must raise the loss, or else the step size is halved.
    """

    def inside(points: Tensor) -> Tensor:
        return norm.inside(x, points - x, epsilon)

    points = previous = inside(x + epsilon * _surface(norm, x, noise))
    value, gradient = ascend(points)
    best, best_points, best_gradient = value, points, gradient
    step, rises = 2 * epsilon, torch.zeros_like(value)
    # The authors let the first checkpoint judge by the rises alone, as if the step had just been halved.
    halved, best_before = torch.ones_like(value, dtype=torch.bool), best
    since = checkpoints(steps)
    for number in range(1, steps + 1):
        momentum = _MOMENTUM if number > 1 else 1
        stepped = inside(points + step * norm.ascent(gradient))
        moved = inside(points + momentum * (stepped - points) + (1 - momentum) * (points - previous))
        points, previous, value_before = moved, points, value
        value, gradient = ascend(points)

        rises = rises + (value > value_before)
        better = value > best
        best = torch.where(better, value, best)
        best_points = _choose(better, points, best_points)
        best_gradient = _choose(better, gradient, best_gradient)

        if number in since:
            # Not more often rather than less often, as in the authors' code.
            halved = (rises <= rho * since[number]) | (~halved & (best <= best_before))
            step = _choose(halved, step / 2, step)
            points, gradient = _choose(halved, best_points, points), _choose(halved, best_gradient, gradient)
            best_before, rises = best, torch.zeros_like(rises)
    return best_points, best


def checkpoints(steps: int) -> dict[int, int]:
    """Returns the numbers of the steps after which the step size is judged, each with the steps since the one before.

    In whole steps as in the authors' code, which for 100 steps are those of the paper: 22, 41, 57, 70, 80, 87, 93, 99.
    """
    periods, number, period = {}, 0, max(22 * steps // 100, 1)
    while number + period <= steps:
        number += period
        periods[number] = period
        period = max(period - max(3 * steps // 100, 1), 6 * steps // 100, 1)
    return periods


def _surface(norm: Norm, x: Tensor, noise: ImageNoise) -> Tensor:
    """Returns random perturbations of size 1, shaped like x: draws from the ball, pushed out to its surface."""
    drawn = norm.sample(x, torch.ones_like(x), noise)
    return drawn / broadcast_per_image(norm.size(drawn).clamp(min=1e-12), x)


def _choose(images: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """Returns `chosen` (N, ...) for the images (N,) bool, and `other` for the rest."""
    return torch.where(broadcast_per_image(images, chosen), chosen, other)


def _largest(walks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Returns the points (N, ...) of that walk in which each image had its largest loss."""
    walks = iter(walks)
    best_points, best = next(walks)
    for points, value in walks:
        better = value > best
        best_points, best = _choose(better, points, best_points), torch.where(better, value, best)
    return best_points


def _check(steps: int, rho: float) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 <= rho <= 1:
        raise ValueError(f"rho must be between 0 and 1, a share of the steps, got {rho}")
