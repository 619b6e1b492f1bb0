"""FGSM-PGI with momentum (FGSM-MEP): one gradient step from a perturbation that earlier epochs have found for the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
import torch.nn.functional as F

from evaluators.attacks import cross_entropy
from evaluators.attacks.gradient_oracle import GradientOracle
from evaluators.attacks.gradient_steps import check_steps
from evaluators.norms import Linf, Norm, broadcast_per_image
from nas.training.recipes.adversarial import several_steps
from nas.training.recipes.base import check_weight
from nas.training.recipes.carrying import CarriedRows, CarryingRecipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.engine.noise import ImageNoise
    from nas.training.recipes.base import BallRecipe


@final
@dataclass(frozen=True, kw_only=True)
class FGSMPGI(CarryingRecipe):
    """Cross-entropy on images of one FGSM step from a prior of each image, and a penalty on the change of the logits.

    The prior of an image is the perturbation at which its step starts. It then takes a step along the momentum, a decaying
    sum of the image's gradients in all epochs so far. The penalty is the mean squared difference between the logits at the
    start and at the end of the step. An update takes eight passes, and one of `NFGSM` takes five, if a backward pass to the
    weights counts as two.

    The training holds two tensors as large as the training images, and a copy of both for the check against a collapse. Its
    checkpoints contain them, so they are large.

    Source: Jia et al., "Prior-Guided Adversarial Initialization for Fast Adversarial Training", ECCV 2022, arXiv:2207.08859,
    with the settings of the authors' code for CIFAR-10. Here, unlike there:

    - The prior is shifted and mirrored with its image, as in Zheng et al., "Efficient Adversarial Training with Transferable
      Adversarial Examples", CVPR 2020, arXiv:1912.11969.
    - The gradient of the step is that of the network in evaluation mode, as for all recipes, without label smoothing.
    - Each image's gradient is scaled to a mean absolute value of 1 before it is summed, and not the whole batch's.
    - Priors are kept to the end. The authors' code draws them anew every 40 epochs.
    - In the square of `cutout`, where images are zero, negative values of a prior become zero.
    - Labels are not smoothed by default. `label_smoothing` 0.44 is that of the authors' code, for ten classes.

    Attributes:
        norm: Shape of the ball.
        step_size: Length of the step, as a fraction of epsilon.
        decay: Factor of the momentum from epoch to epoch, from 0 to 1.
        weight: Weight of the penalty.

    Raises:
        ValueError: step_size is not positive and finite, decay is out of range, weight is negative or not finite, or as for
            `BallRecipe`.
    """

    norm: Norm = Linf()
    step_size: float = 1.0
    decay: float = 0.3
    weight: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(1, self.step_size)
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must be between 0 and 1, got {self.decay:g}")
        check_weight("weight", self.weight)

    @property
    def per_image(self) -> bool:
        """Returns True: a row belongs to an image."""
        return True

    @property
    def replays(self) -> int:
        """Returns 1: each batch is used for one update."""
        return 1

    def remedy(self) -> BallRecipe:
        """Returns the recipe PGD with three steps."""
        return several_steps(self)

    def initial(self, x: Tensor, noise: ImageNoise) -> dict[str, Tensor]:
        """Returns a random perturbation of the length of a step, in linf a corner of a cube, and a momentum of zero."""
        ball = broadcast_per_image(self.radii(x), x)
        start = self.step_size * ball * self.norm.step(x, self.norm.sample(x, ball, noise))
        return {"perturbation": self.norm.project(start, ball), "momentum": torch.zeros_like(x)}

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns images after one step from a random start, shaped like x."""
        return self.points_from(CarriedRows.of(self.initial(x, noise)), network, x, y)

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the loss of steps that started at the images x."""
        return self._loss(network, x, points, y)

    def points_from(self, rows: CarriedRows, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Returns images after one step from the prior, shaped like x, and moves the prior along the momentum."""
        epsilon = self.radii(x)
        ball = broadcast_per_image(epsilon, x)
        start = self._start(rows, x)
        gradient = GradientOracle(network, x, y, self.norm, epsilon, keep="nothing").gradient(start, cross_entropy)
        size = broadcast_per_image(gradient.flatten(1).abs().mean(1), x)
        momentum = self.decay * rows.read("momentum") + gradient / torch.where(size > 0, size, 1)
        rows.write("momentum", momentum)
        rows.write("perturbation", self._step(x, start, momentum, ball) - x)
        return self._step(x, start, gradient, ball)

    def loss_from(self, rows: CarriedRows, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the loss of steps that started at the prior."""
        return self._loss(network, self._start(rows, x), points, y)

    def _start(self, rows: CarriedRows, x: Tensor) -> Tensor:
        """Returns the images with their priors, shaped like x."""
        return self.norm.inside(x, rows.read("perturbation"), broadcast_per_image(self.radii(x), x))

    def _step(self, x: Tensor, start: Tensor, direction: Tensor, ball: Tensor) -> Tensor:
        """Returns the points one step from the start, in the ball around x, shaped like x."""
        return self.norm.inside(x, start - x + self.step_size * ball * self.norm.step(start, direction), ball)

    def _loss(self, network: nn.Module, start: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the mean cross-entropy at the points plus `weight` times the mean squared change of the logits."""
        before, after = network(start), network(points)
        return self.cross_entropy(after, y) + self.weight * F.mse_loss(after.float(), before.float())
