"""The radius of every image under an attack: the one measurement from which all curves are computed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from evaluators.attacks.base import SingleStep
from evaluators.attacks.target import Target, frozen
from evaluators.inputs import check_epsilons, check_images, check_labels, check_logits
from evaluators.noise import Noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from evaluators.attacks.base import Attack


def predict(network: nn.Module, x: Tensor, batch_size: int = 1024) -> Tensor:
    """Returns the logits (N, K) of images x (N, ...), without gradients, in the mode in which the network is.

    Raises:
        ValueError: the network's output is not (N, K) finite logits.
    """
    with torch.no_grad():
        logits = torch.cat([network(batch) for batch in x.split(batch_size)])
    check_logits(logits, len(x))
    return logits


def radii(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    epsilons: Sequence[float],
    *,
    seed: int = 0,
    batch_size: int = 1024,
) -> Tensor:
    """Returns the radius of each image on a grid of epsilons, (N,) float64, on the CPU.

    The radius is the smallest epsilon of the grid at which the attack was seen to fool the network: 0 if the clean image
    is misclassified, infinite if the attack never succeeded. Work whose answer is known is not done: misclassified images
    are not attacked, an image fooled at one epsilon is not attacked at larger ones, a loop drops an image at the step at
    which it is fooled, and a single-step attack takes one gradient for the whole grid.

    Args:
        network: Maps images (N, ...) with pixels in [0, 1] to logits (N, K). It is left as it was.
        x: Clean images, (N, ...).
        y: True labels, (N,) int64.
        attack: Any attack.
        epsilons: The grid, strictly increasing, in pixel units.
        seed: Seed of whatever the attack draws. Results do not depend on the batch size.
        batch_size: Images in one pass through the network.

    Raises:
        TypeError: x or y has the wrong type.
        ValueError: x, y or epsilons are out of range, or the network's output is not (N, K) logits.
    """
    check_images(x)
    grid = [float(epsilon) for epsilon in epsilons]
    check_epsilons(grid, attack.norm.largest(x[0].numel()))
    with frozen(network):
        logits = predict(network, x, batch_size)
        check_labels(y, len(x), logits.shape[1])
        found = torch.zeros(len(x), dtype=torch.float64)
        alive = (logits.argmax(1) == y).nonzero().squeeze(1)
        found[alive.cpu()] = math.inf
        directions = _directions(network, x, y, attack, alive, batch_size) if isinstance(attack, SingleStep) else None
        for stream, epsilon in enumerate(grid):
            if len(alive) == 0:
                break
            if epsilon == 0:
                continue
            still = []
            for batch in alive.split(batch_size):
                if directions is not None:
                    points = (x[batch] + epsilon * directions[batch]).clamp(0, 1)
                    fooled = torch.zeros(len(batch), dtype=torch.bool, device=x.device)
                else:
                    size = torch.full((len(batch),), epsilon, dtype=x.dtype, device=x.device)
                    noise = Noise.of(seed, batch, stream)
                    points, fooled = attack.craft(network, x[batch], y[batch], size, noise, stop_when_fooled=True)
                open_ = (~fooled).nonzero().squeeze(1)
                if len(open_):
                    with torch.no_grad():
                        fooled[open_] = network(points[open_]).argmax(1) != y[batch[open_]]
                found[batch[fooled].cpu()] = epsilon
                still.append(batch[~fooled])
            alive = torch.cat(still)
    return found


def _directions(network: nn.Module, x: Tensor, y: Tensor, attack: SingleStep, alive: Tensor, batch_size: int) -> Tensor:
    """Returns the attack's step of size 1 for the images in alive, shaped like x; zero for the others."""
    directions = torch.zeros_like(x)
    if len(alive) == 0:
        return directions
    for batch in alive.split(batch_size):
        size = torch.ones(len(batch), dtype=x.dtype, device=x.device)
        target = Target(network, x[batch], y[batch], attack.norm, size, keep="nothing")
        # Projected once here, as `craft` projects every perturbation: scaling by epsilon keeps it in the ball.
        directions[batch] = attack.norm.project(attack.direction(target, x[batch]), size.view(-1, *[1] * (x.ndim - 1)))
    return directions
