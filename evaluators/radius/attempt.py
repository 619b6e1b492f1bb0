"""One run of an attack on some images, with one epsilon for each image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from evaluators.attacks.base import Attack, SingleStep
from evaluators.attacks.clean_gradients import CleanGradientCache
from evaluators.attacks.gradient_oracle import GradientOracle, misclassified
from evaluators.engine.batches import forward
from evaluators.engine.noise import ImageNoise
from evaluators.engine.prepared import PreparedNetwork

if TYPE_CHECKING:
    from evaluators.radius.progress import Progress


@final
@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The inputs that all runs of one attack share, across images and epsilons.

    Attributes:
        prepared: The network and its N images.
        attack: Any attack with a fixed epsilon.
        directions: The step of size 1 of a single-step attack for each image, shaped like x; None for other attacks.
        clean: Cache of gradients at the clean images, shared by all runs.
        seed: Seed of the attack's random numbers.
    """

    prepared: PreparedNetwork
    attack: Attack
    directions: Tensor | None
    clean: CleanGradientCache
    seed: int

    @classmethod
    def of(cls, prepared: PreparedNetwork, attack: Attack, image_radii: Tensor, seed: int) -> Attempt:
        """Returns the shared inputs. Images with a radius of 0 will not be attacked."""
        return cls(
            prepared=prepared,
            attack=attack,
            directions=_directions(prepared, attack, image_radii > 0) if isinstance(attack, SingleStep) else None,
            clean=CleanGradientCache(prepared.x, torch.arange(len(image_radii))),
            seed=seed,
        )


def fooled_sizes(attempt: Attempt, images: Tensor, epsilons: Tensor, stream: int, report: Progress | None = None) -> Tensor:
    """Returns the size of a perturbation that fools the network, (M,) float64; infinite where the attack fails.

    Args:
        attempt: The shared inputs.
        images: Indices of the attacked images, (M,).
        epsilons: Radius of each image's ball, (M,).
        stream: Number that selects the random numbers. Different numbers give independent noise.
        report: Function called with the completed fraction.
    """
    prepared, attack, directions = attempt.prepared, attempt.attack, attempt.directions
    sizes = torch.full((len(images),), math.inf, dtype=torch.float64)
    device = prepared.x.device

    def work(chosen: Tensor) -> Tensor:
        batch = images[chosen].to(device)
        x, y, epsilon = prepared.x[batch], prepared.y[batch], epsilons[chosen].to(prepared.x)
        if directions is not None:
            points = (x + epsilon.view(-1, *[1] * (x.ndim - 1)) * directions[batch]).clamp(0, 1)
            fooled = torch.zeros(len(batch), dtype=torch.bool, device=device)
        else:
            noise = ImageNoise.of(attempt.seed, batch + prepared.first, stream)
            points, fooled = attack.generate(
                prepared.network,
                x,
                y,
                epsilon,
                noise,
                stop_when_fooled=True,
                one_pass=prepared.batches.size,
                clean=attempt.clean.select(batch),
            )
        open_ = (~fooled).nonzero().squeeze(1)
        if len(open_):
            fooled[open_] = misclassified(forward(prepared.network, points[open_], prepared.batches.size), y[open_])
        return torch.where(fooled, attack.norm.size(points - x), math.inf)

    for chosen, batch_sizes in prepared.batches.over(torch.arange(len(images)), work, loops=True, progress=report):
        sizes[chosen] = batch_sizes.double().cpu()
    return sizes


def _directions(prepared: PreparedNetwork, attack: SingleStep, wanted: Tensor) -> Tensor:
    """Returns the attack's step of size 1 for each image, shaped like x; zero for images outside the mask `wanted`."""
    directions = torch.zeros_like(prepared.x)

    def work(batch: Tensor) -> Tensor:
        x = prepared.x[batch]
        size = torch.ones(len(batch), dtype=x.dtype, device=x.device)
        target = GradientOracle(prepared.network, x, prepared.y[batch], attack.norm, size, keep="nothing")
        # Projected once here, as in `generate`: epsilon times this step then lies in the ball of radius epsilon.
        return attack.norm.project(attack.direction(target, x), size.view(-1, *[1] * (x.ndim - 1)))

    for batch, steps in prepared.batches.over(wanted.nonzero().squeeze(1).to(prepared.x.device), work):
        directions[batch] = steps
    return directions
