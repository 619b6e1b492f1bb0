"""Auto-PGD: projected gradient descent with an adaptive step size.

Not to be confused with `PGD`, whose steps all have the same length and no momentum.

Source: Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks",
ICML 2020, arXiv:2003.01690. Runs in L1 take the steps of another paper, see apgd_l1.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evaluators.attacks.apgd_l1 import climb_l1
from evaluators.attacks.base import Attack
from evaluators.attacks.losses import Loss, cross_entropy, targeted_dlr, targeted_margin
from evaluators.attacks.settings import check_counts
from evaluators.norms import L1, Linf, Norm, broadcast_per_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from evaluators.attacks.gradient_oracle import GradientOracle
    from evaluators.engine.noise import ImageNoise

_MOMENTUM = 0.75  # The paper's alpha: weight of the new step. The step before has weight 0.25.


@final
@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Auto-PGD: gradient steps with momentum. The step size is halved where the loss stops rising.

    Attributes:
        norm: Shape of the ball: linf, l2 or l1. In L1, the steps are sparse, and without momentum.
        loss: Loss to maximise: cross_entropy, margin or dlr.
        steps: Number of gradient steps per restart.
        restarts: Number of runs, each from a new random start.
        rho: Share of steps, in [0, 1]. At fixed steps, the checkpoints, the step size is halved in two cases: the loss rose
            in at most this share of the steps since the previous checkpoint, or neither the best loss nor the step size has
            changed since then. Not used in L1.

    Raises:
        ValueError: steps or restarts is below 1, or rho is not between 0 and 1.
    """

    norm: Norm = Linf()
    loss: Loss = cross_entropy
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75

    def __post_init__(self) -> None:
        check_counts(restarts=self.restarts)
        _check(self.steps, self.rho)

    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the perturbation of largest loss over all restarts."""

        def ascend(points: Tensor) -> tuple[Tensor, Tensor]:
            return target.value_and_gradient(points, self.loss)

        runs = (
            _run(ascend, x, epsilon, noise.fork(restart), self.norm, steps=self.steps, rho=self.rho)
            for restart in range(self.restarts)
        )
        return _largest(runs) - x


@final
@dataclass(frozen=True, kw_only=True)
class TargetedAPGD(Attack):
    """Targeted Auto-PGD: one run of `APGD` towards each of the wrong classes with the largest clean logits.

    The loss is the targeted difference of logits ratio. With fewer than 4 classes it is the targeted margin.

    Attributes:
        norm: Shape of the ball: linf, l2 or l1. In L1, the steps are sparse, and without momentum.
        targets: Number of target classes; all wrong classes if there are fewer.
        steps: Number of gradient steps per target class.
        rho: As in `APGD`. Not used in L1.

    Raises:
        ValueError: targets or steps is below 1, or rho is not between 0 and 1.
    """

    norm: Norm = Linf()
    targets: int = 9
    steps: int = 100
    rho: float = 0.75

    def __post_init__(self) -> None:
        check_counts(targets=self.targets)
        _check(self.steps, self.rho)

    def perturb(self, target: GradientOracle, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns the perturbation of largest loss over all target classes."""
        logits = target.logits(x).scatter(1, target.labels[:, None], -math.inf)
        classes = logits.topk(min(self.targets, logits.shape[1] - 1)).indices
        loss = targeted_dlr if logits.shape[1] >= 4 else targeted_margin

        def run(number: int, towards: Tensor) -> tuple[Tensor, Tensor]:
            return _run(
                lambda points: target.value_and_gradient(points, loss, towards),
                x,
                epsilon,
                noise.fork(number),
                self.norm,
                steps=self.steps,
                rho=self.rho,
            )

        return _largest(run(number, towards) for number, towards in enumerate(classes.unbind(1))) - x


def _run(
    ascend: Callable[[Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    epsilon: Tensor,
    noise: ImageNoise,
    norm: Norm,
    *,
    steps: int,
    rho: float,
) -> tuple[Tensor, Tensor]:
    """Returns the point of largest loss of one run, (N, ...), and that loss, (N,). The arguments are those of `climb`."""
    if isinstance(norm, L1):
        return climb_l1(ascend, x, epsilon, noise, steps=steps)
    return climb(ascend, x, epsilon, noise, norm, steps=steps, rho=rho)


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
    """Returns the point of largest loss of one run, (N, ...), and that loss, (N,). Algorithm 1 of the paper.

    If `GradientOracle` drops a fooled image, the loss is infinite and the gradient zero there. The image's final point is
    then ignored.

    Args:
        ascend: Function that returns the loss, (N,), and its gradient, (N, ...), at points (N, ...).
        x: Clean images, (N, ...).
        epsilon: Radius of each image's ball, (N, 1, ...), in pixel units.
        noise: Random numbers for the start.
        norm: Shape of the ball.
        steps: Number of gradient steps.
        rho: As in `APGD`.
    """

    def inside(points: Tensor) -> Tensor:
        return norm.inside(x, points - x, epsilon)

    points = previous = inside(x + epsilon * _surface(norm, x, noise))
    value, gradient = ascend(points)
    best, best_points, best_gradient = value, points, gradient
    step, rises = 2 * epsilon, torch.zeros_like(value)
    # As in the authors' code, only the rises of the loss count at the first checkpoint, as if the step size had just been
    # halved.
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
            # "At most" instead of the paper's "fewer than", as in the authors' code.
            halved = (rises <= rho * since[number]) | (~halved & (best <= best_before))
            step = _choose(halved, step / 2, step)
            points, gradient = _choose(halved, best_points, points), _choose(halved, best_gradient, gradient)
            best_before, rises = best, torch.zeros_like(rises)
    return best_points, best


def checkpoints(steps: int) -> dict[int, int]:
    """Returns the steps at which the step size is checked, each with the number of steps since the previous checkpoint.

    The checkpoints are rounded to whole steps as in the authors' code. For 100 steps they are those of the paper: 22, 41,
    57, 70, 80, 87, 93, 99.
    """
    periods, number, period = {}, 0, max(22 * steps // 100, 1)
    while number + period <= steps:
        number += period
        periods[number] = period
        period = max(period - max(3 * steps // 100, 1), 6 * steps // 100, 1)
    return periods


def _surface(norm: Norm, x: Tensor, noise: ImageNoise) -> Tensor:
    """Returns random perturbations of size 1, shaped like x: samples of the ball, scaled to its surface."""
    drawn = norm.sample(x, torch.ones_like(x), noise)
    return drawn / broadcast_per_image(norm.size(drawn).clamp(min=1e-12), x)


def _choose(images: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """Returns `chosen` (N, ...) where `images` (N,) is true, and `other` elsewhere."""
    return torch.where(broadcast_per_image(images, chosen), chosen, other)


def _largest(runs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Returns the point of largest loss of each image over all runs, (N, ...)."""
    runs = iter(runs)
    best_points, best = next(runs)
    for points, value in runs:
        better = value > best
        best_points, best = _choose(better, points, best_points), torch.where(better, value, best)
    return best_points


def _check(steps: int, rho: float) -> None:
    check_counts(steps=steps)
    if not 0 <= rho <= 1:
        raise ValueError(f"rho must be between 0 and 1, a share of the steps, got {rho}")
