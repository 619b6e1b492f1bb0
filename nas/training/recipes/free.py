"""Free adversarial training: the backward pass of each weight update also gives the gradient of the perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evaluators.attacks import PGD
from evaluators.attacks.gradient_steps import check_steps
from evaluators.norms import Linf, Norm, broadcast_per_image
from nas.training.recipes.adversarial import several_steps
from nas.training.recipes.carrying import CarryingRecipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evaluators.engine.noise import ImageNoise
    from nas.training.recipes.base import BallRecipe
    from nas.training.recipes.carrying import CarriedRows


@final
@dataclass(frozen=True, kw_only=True)
class Free(CarryingRecipe):
    """Cross-entropy on images whose perturbation moves with each update of the weights, without passes for the attack.

    Each batch is used for `replays` updates in a row. It is augmented once, and again if its updates extend into the next
    epoch. The next batch starts with the perturbation at the end of the last one. An epoch has as many updates as an epoch
    of the other recipes, so `replays` epochs are one pass over the images.

    Pitfall: in a short training, many replays leave few passes over the images.

    Source: Shafahi et al., "Adversarial Training for Free!", NeurIPS 2019, arXiv:1904.12843.

    Attributes:
        norm: Shape of the ball.
        replays: Number of updates in a row on one batch. The paper has 8 for CIFAR-10 and 4 for ImageNet. The default is
            the smaller one, as trainings of a search are short.
        step_size: Length of the perturbation's step at each update, as a fraction of epsilon.

    Raises:
        TypeError: replays is not an int.
        ValueError: replays is below 1, step_size is not positive and finite, or as for `BallRecipe`.
    """

    norm: Norm = Linf()
    replays: int = 4
    step_size: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.replays, int):
            raise TypeError(f"replays must be an int, got {self.replays!r}")
        if self.replays < 1:
            raise ValueError(f"replays must be at least 1, got {self.replays}")
        check_steps(1, self.step_size)

    @property
    def per_image(self) -> bool:
        """Returns False: a row belongs to a place in the batch."""
        return False

    def remedy(self) -> BallRecipe:
        """Returns the recipe PGD with three steps."""
        return several_steps(self)

    def initial(self, x: Tensor, noise: ImageNoise) -> dict[str, Tensor]:
        """Returns a perturbation of zero."""
        return {"perturbation": torch.zeros_like(x)}

    def points(self, network: nn.Module, x: Tensor, y: Tensor, noise: ImageNoise) -> Tensor:
        """Returns images after one step from the clean ones, shaped like x."""
        step = PGD(norm=self.norm, steps=1, step_size=self.step_size, random_start=False)
        return self.attacked(step, network, x, y, noise)

    def loss(self, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the mean cross-entropy at the points."""
        return self.cross_entropy(network(points), y)

    def points_from(self, rows: CarriedRows, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Returns the images with the carried perturbation, clipped to [0, 1], shaped like x."""
        return self.norm.inside(x, rows.read("perturbation"), broadcast_per_image(self.radii(x), x))

    def loss_from(self, rows: CarriedRows, network: nn.Module, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
        """Returns the mean cross-entropy at the points. Its backward pass moves the carried perturbation."""
        ball = broadcast_per_image(self.radii(x), x)

        def move(gradient: Tensor) -> None:
            moved = rows.read("perturbation") + self.step_size * ball * self.norm.step(points, gradient)
            rows.write("perturbation", self.norm.project(moved, ball))

        points = points.detach().requires_grad_()
        points.register_hook(move)
        return self.cross_entropy(network(points.clone()), y)  # A copy, as the first layer may work in place.
