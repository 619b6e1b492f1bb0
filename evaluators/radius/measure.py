"""Measurement of radii."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from evaluators.attacks.base import AttackEnsemble, MinimumNorm, SingleStep, check_attack
from evaluators.engine.input_checks import check_epsilons
from evaluators.engine.prepared import PreparedNetwork, prepare
from evaluators.radius.attempt import Attempt
from evaluators.radius.downwards import search_downwards
from evaluators.radius.grid import as_epsilon_grid
from evaluators.radius.nearest import search_nearest
from evaluators.radius.progress import part_of
from evaluators.radius.upwards import search_upwards

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from evaluators.attacks.base import Attack
    from evaluators.radius.grid import EpsilonGrid
    from evaluators.radius.progress import Progress


def radii(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    epsilons: Sequence[float] | EpsilonGrid,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Returns the radius of each image under an attack, (N,) float64, on the CPU, in pixel units.

    The radius is the smallest epsilon of the grid at which the attack fools the network. It is 0 if the clean image is
    misclassified, and infinite if the attack never succeeds. An `EpsilonGrid` with a tolerance gives radii between the
    points of the grid.

    The function skips work with a known result:

    - Misclassified clean images are not attacked.
    - An image fooled at one epsilon is not attacked at larger ones.
    - An iterative attack drops an image at the step at which it is fooled.
    - A single-step attack computes one gradient for the whole grid.
    - A minimum-norm attack runs once.

    Args:
        network: Maps images (N, ...) with pixels in [0, 1] to logits (N, K). Its state is restored afterwards.
        x: Clean images, (N, ...), pixels in [0, 1].
        y: True labels, (N,) int64.
        attack: Any attack.
        epsilons: Grid of epsilons, strictly increasing, in pixel units; or an `EpsilonGrid`, with a tolerance to bisect.
        seed: Seed of the attack's random numbers. Results do not depend on the batch size.
        batch_size: Images in one pass through the network; estimated from the memory that one image needs if None.
        progress: Function called with the completed fraction, between 0 and 1.

    Raises:
        TypeError: network, x, y, attack or epsilons has the wrong type.
        ValueError: x, y, epsilons or batch_size is out of range, or the network's output is not (N, K) logits.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from evaluators import PGD, radii
        >>> network = nn.Identity()  # The two pixels are the logits of two classes.
        >>> x, y = torch.tensor([[0.7, 0.5], [0.9, 0.1], [0.4, 0.5]]), torch.tensor([0, 0, 0])
        >>> radii(network, x, y, PGD(), epsilons=[0.05, 0.15, 0.3, 0.45])
        tensor([0.1500, 0.4500, 0.0000], dtype=torch.float64)
    """
    check_attack(attack)
    grid = as_epsilon_grid(epsilons)
    with prepare(network, x, y, batch_size, attempts=len(grid.epsilons)) as prepared:
        return measure(prepared, attack, grid, seed=seed, progress=progress)


def measure(
    prepared: PreparedNetwork,
    attack: Attack,
    epsilons: Sequence[float] | EpsilonGrid,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    known: Tensor | None = None,
    downwards: bool = False,
) -> Tensor:
    """Returns the radii for a network prepared by `prepare`, (N,), as `radii` does.

    Several attacks on one prepared network share its forward pass over the clean images.

    Args:
        prepared: The network and its images.
        attack: As for `radii`.
        epsilons: As for `radii`.
        seed: As for `radii`.
        progress: As for `radii`.
        known: Radii under other attacks, (N,) float64. Each image is attacked only at epsilons below its known radius, and
            keeps this radius if the attack fails.
        downwards: Try the epsilons below a known radius as `AttackEnsemble.downwards` describes. Attacks with a single step
            always try all of them.

    Raises:
        TypeError: attack is not an attack.
        ValueError: epsilons are out of range.
    """
    check_attack(attack)
    grid = as_epsilon_grid(epsilons)
    check_epsilons(grid.epsilons, attack.norm.largest(prepared.x[0].numel()))
    report = progress or (lambda share: None)
    image_radii = torch.where(prepared.right().cpu(), math.inf, 0.0).double()
    if known is not None:
        image_radii = torch.minimum(image_radii, known)
    if isinstance(attack, AttackEnsemble):
        members = attack.supported_members(prepared.x)
        for number, member in enumerate(members):
            image_radii = measure(
                prepared,
                member,
                grid,
                seed=seed + number,
                known=image_radii,
                downwards=attack.downwards and number > 0,
                progress=part_of(report, number, len(members)),
            )
        return image_radii
    positive = [epsilon for epsilon in grid.epsilons if epsilon > 0]
    if isinstance(attack, MinimumNorm):
        image_radii = search_nearest(prepared, attack, positive, image_radii, seed, report, snap=grid.tolerance is None)
    else:
        search = search_downwards if downwards and not isinstance(attack, SingleStep) else search_upwards
        attempt = Attempt.of(prepared, attack, image_radii, seed)
        image_radii = search(attempt, positive, image_radii, report, grid.tolerance)
    report(1.0)
    return image_radii
