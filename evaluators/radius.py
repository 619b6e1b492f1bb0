"""The radius of every image under an attack: the one measurement from which all curves are computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from evaluators.attacks.base import Attack, AttackEnsemble, MinimumNorm, SingleStep, check_attack
from evaluators.attacks.gradient_oracle import CleanGradientCache, GradientOracle, misclassified
from evaluators.engine.batches import forward
from evaluators.engine.input_checks import as_grid, check_epsilons, check_increasing
from evaluators.engine.noise import ImageNoise, stream_of
from evaluators.engine.prepared import PreparedNetwork, prepare

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[float], None]

# Sizes are sums of rounded pixels: a point this little outside a ball of the grid lies on it.
SLACK = 1e-5
# Bisection has halved the first cell, which begins at 0, a million times over by then.
MOST_ROUNDS = 40


@final
@dataclass(frozen=True, kw_only=True)
class EpsilonGrid:
    """The epsilons at which radii are measured, and whether to bisect between them.

    Attributes:
        epsilons: Strictly increasing, in pixel units.
        tolerance: Bisects between the grid's points until a radius is known within this share of itself (0.01 for 1 %).
            The radius is then the size of the smallest perturbation seen to fool. A minimum-norm attack is not bisected:
            its radius is the size of what it found, however near to the boundary that lies. None to stay on the grid.
    """

    epsilons: Sequence[float]
    tolerance: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilons", tuple(as_grid(self.epsilons)))
        check_increasing(self.epsilons)
        check_tolerance(self.tolerance)


def check_tolerance(tolerance: float | None) -> None:
    """Checks the tolerance of a bisection.

    Raises:
        ValueError: it is neither None nor between 0 and 1.
    """
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be between 0 and 1, a share of the radius, got {tolerance:g}")


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
    """Returns the radius of each image, (N,) float64, on the CPU: on a grid of epsilons, or exactly within a tolerance.

    The radius is the smallest epsilon of the grid at which the attack was seen to fool the network: 0 if the clean image
    is misclassified, infinite if the attack never succeeded. Work whose answer is known is not done: misclassified images
    are not attacked, an image fooled at one epsilon is not attacked at larger ones, a loop drops an image at the step at
    which it is fooled, a single-step attack takes one gradient for the whole grid and a minimum-norm attack runs once.

    Args:
        network: Maps images (N, ...) with pixels in [0, 1] to logits (N, K). It is left as it was.
        x: Clean images, (N, ...).
        y: True labels, (N,) int64.
        attack: Any attack.
        epsilons: The grid, strictly increasing, in pixel units; an `EpsilonGrid` to bisect between its points, too.
        seed: Seed of whatever the attack draws. Results do not depend on the batch size.
        batch_size: Images in one pass through the network; found from the memory that one image needs if None.
        progress: Called with the share of the work that is done, between 0 and 1.

    Raises:
        TypeError: x or y has the wrong type.
        ValueError: x, y or epsilons are out of range, or the network's output is not (N, K) logits.
    """
    check_attack(attack)
    grid = _as_epsilon_grid(epsilons)
    with prepare(network, x, y, batch_size, attempts=len(grid.epsilons)) as prepared:
        return measure(prepared, attack, grid, seed=seed, progress=progress)


def _as_epsilon_grid(epsilons: Sequence[float] | EpsilonGrid) -> EpsilonGrid:
    return epsilons if isinstance(epsilons, EpsilonGrid) else EpsilonGrid(epsilons=epsilons)


def measure(
    prepared: PreparedNetwork,
    attack: Attack,
    epsilons: Sequence[float] | EpsilonGrid,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    known: Tensor | None = None,
) -> Tensor:
    """Returns what `radii` does, for a network made ready by `prepare`, so that several attacks share the clean pass.

    Args:
        prepared: The network and its images.
        attack: As for `radii`.
        epsilons: As for `radii`.
        seed: As for `radii`.
        progress: As for `radii`.
        known: Radii that other attacks have shown, (N,) float64: an image is attacked only at epsilons below its own, and
            keeps it where it is not fooled there.
    """
    check_attack(attack)
    grid = _as_epsilon_grid(epsilons)
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
                progress=_part(report, number, len(members)),
            )
        return image_radii
    positive = [epsilon for epsilon in grid.epsilons if epsilon > 0]
    if isinstance(attack, MinimumNorm):
        image_radii = _nearest(prepared, attack, positive, image_radii, seed, report, snap=grid.tolerance is None)
    else:
        image_radii = _ascend(prepared, attack, positive, image_radii, seed, report, grid.tolerance)
    report(1.0)
    return image_radii


def _part(report: Progress, number: int, of: int) -> Progress:
    """Returns what reports the progress of one of several equal parts as progress of the whole."""
    return lambda share: report((number + share) / of)


def _nearest(
    prepared: PreparedNetwork,
    attack: MinimumNorm,
    grid: Sequence[float],
    image_radii: Tensor,
    seed: int,
    report: Progress,
    *,
    snap: bool,
) -> Tensor:
    """Returns the radii under a minimum-norm attack, which runs once: rounded up to the grid if `snap`."""
    if not grid:
        return image_radii
    open_ = (image_radii > grid[0] if snap else image_radii > 0).nonzero().squeeze(1)
    largest = attack.norm.largest(prepared.x[0].numel())

    def work(batch: Tensor) -> Tensor:
        x, y = prepared.x[batch], prepared.y[batch]
        size = torch.full((len(batch),), largest, dtype=x.dtype, device=x.device)
        points, fooled = attack.generate(
            prepared.network, x, y, size, ImageNoise.of(seed, batch), stop_when_fooled=True, one_pass=prepared.batches.size
        )
        return torch.where(fooled, attack.norm.size(points - x), math.inf)

    edges = torch.tensor([*grid, math.inf], dtype=torch.float64)
    done = 0
    for batch, sizes in prepared.batches.over(open_.to(prepared.x.device), work, loops=True):
        radius = sizes.double().cpu()
        shrunk = radius / (1 + SLACK)
        radius = edges[torch.searchsorted(edges, shrunk)] if snap else torch.where(shrunk <= grid[-1], radius, math.inf)
        images = batch.cpu()
        image_radii[images] = torch.minimum(image_radii[images], radius)
        done += len(batch)
        report(done / len(open_))
    return image_radii


def _ascend(
    prepared: PreparedNetwork,
    attack: Attack,
    grid: Sequence[float],
    image_radii: Tensor,
    seed: int,
    report: Progress,
    tolerance: float | None,
) -> Tensor:
    """Returns the radii under an attack that is given epsilons, from the smallest of the grid up."""
    attempt = _Attempt(
        prepared=prepared,
        attack=attack,
        directions=_directions(prepared, attack, image_radii > 0) if isinstance(attack, SingleStep) else None,
        clean=CleanGradientCache(prepared.x, torch.arange(len(image_radii))),
        seed=seed,
    )
    below = torch.zeros_like(image_radii)  # The largest epsilon at which each image was not fooled.
    for number, epsilon in enumerate(grid):
        open_ = (image_radii > epsilon).nonzero().squeeze(1)
        if len(open_) == 0:
            break
        sizes = torch.full((len(open_),), epsilon, dtype=torch.float64)
        fooled = _fooled(attempt, open_, sizes, stream_of(epsilon), _part(report, number, len(grid)))
        hit = torch.isfinite(fooled)
        image_radii[open_[hit]] = torch.minimum(fooled[hit], sizes[hit]) if tolerance is not None else epsilon
        below[open_[~hit]] = epsilon
    if tolerance is None:
        return image_radii
    for turn in range(MOST_ROUNDS):
        open_ = (
            (torch.isfinite(image_radii) & (image_radii > 0) & (below < image_radii / (1 + tolerance))).nonzero().squeeze(1)
        )
        if len(open_) == 0:
            break
        low, high = below[open_], image_radii[open_]
        sizes = torch.where(low > 0, (low * high).sqrt(), high / 4)
        fooled = _fooled(attempt, open_, sizes, turn)
        hit = torch.isfinite(fooled)
        image_radii[open_[hit]] = torch.minimum(fooled[hit], sizes[hit])
        below[open_[~hit]] = sizes[~hit]
    return image_radii


@final
@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """What every attempt of an attack on some of the images, at some epsilons, has in common.

    Attributes:
        prepared: The network and its N images.
        attack: Any attack that is given epsilons.
        directions: The attack's step of size 1 for each image, shaped like x; None unless it takes a single step.
        clean: Gradients at the clean images, which all attempts share.
        seed: Seed of whatever the attack draws.
    """

    prepared: PreparedNetwork
    attack: Attack
    directions: Tensor | None
    clean: CleanGradientCache
    seed: int


def _fooled(attempt: _Attempt, images: Tensor, epsilons: Tensor, stream: int, report: Progress | None = None) -> Tensor:
    """Returns the size of the perturbation that fools each of some images within epsilons (M,), infinite where none does."""
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
            noise = ImageNoise.of(attempt.seed, batch, stream)
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

    done = 0
    for chosen, batch_sizes in prepared.batches.over(torch.arange(len(images)), work, loops=True):
        sizes[chosen] = batch_sizes.double().cpu()
        done += len(chosen)
        if report is not None:
            report(done / len(images))
    return sizes


def _directions(prepared: PreparedNetwork, attack: SingleStep, wanted: Tensor) -> Tensor:
    """Returns the attack's step of size 1 for the images wanted (N,), shaped like x; zero for the others."""
    directions = torch.zeros_like(prepared.x)

    def work(batch: Tensor) -> Tensor:
        x = prepared.x[batch]
        size = torch.ones(len(batch), dtype=x.dtype, device=x.device)
        target = GradientOracle(prepared.network, x, prepared.y[batch], attack.norm, size, keep="nothing")
        # Projected once here, as `generate` projects every perturbation: scaling by epsilon keeps it in the ball.
        return attack.norm.project(attack.direction(target, x), size.view(-1, *[1] * (x.ndim - 1)))

    for batch, steps in prepared.batches.over(wanted.nonzero().squeeze(1).to(prepared.x.device), work):
        directions[batch] = steps
    return directions
