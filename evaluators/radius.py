"""The radius of every image under an attack: the one measurement from which all curves are computed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from evaluators.attacks.base import Ensemble, MinimumNorm, SingleStep, check_attack
from evaluators.attacks.gradient_oracle import CleanGradientCache, GradientOracle, misclassified
from evaluators.engine.batches import forward
from evaluators.engine.input_checks import as_grid, check_epsilons
from evaluators.engine.noise import ImageNoise, stream_of
from evaluators.engine.prepared import PreparedNetwork, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from evaluators.attacks.base import Attack

    Progress = Callable[[float], None]

# Sizes are sums of rounded pixels: a point this little outside a ball of the grid lies on it.
SLACK = 1e-5
# Bisection has halved the first cell, which begins at 0, a million times over by then.
MOST_ROUNDS = 40


def radii(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    epsilons: Sequence[float],
    *,
    tolerance: float | None = None,
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
        epsilons: The grid, strictly increasing, in pixel units.
        tolerance: Bisects between the grid's points until a radius is known within this share of itself (0.01 for 1 %).
            The radius is then the size of the smallest perturbation seen to fool. A minimum-norm attack is not bisected:
            its radius is the size of what it found, however near to the boundary that lies.
        seed: Seed of whatever the attack draws. Results do not depend on the batch size.
        batch_size: Images in one pass through the network; found from the memory that one image needs if None.
        progress: Called with the share of the work that is done, between 0 and 1.

    Raises:
        TypeError: x or y has the wrong type.
        ValueError: x, y, epsilons or tolerance are out of range, or the network's output is not (N, K) logits.
    """
    check_attack(attack)
    grid = as_grid(epsilons)
    with prepare(network, x, y, batch_size, attempts=len(grid)) as prepared:
        return measure(prepared, attack, grid, tolerance=tolerance, seed=seed, progress=progress)


def measure(
    prepared: PreparedNetwork,
    attack: Attack,
    epsilons: Sequence[float],
    *,
    tolerance: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    known: Tensor | None = None,
) -> Tensor:
    """Returns what `radii` does, for a network made ready by `prepare`, so that several attacks share the clean pass.

    Args:
        prepared: The network and its images.
        attack: As for `radii`.
        epsilons: As for `radii`.
        tolerance: As for `radii`.
        seed: As for `radii`.
        progress: As for `radii`.
        known: Radii that other attacks have shown, (N,) float64: an image is attacked only at epsilons below its own, and
            keeps it where it is not fooled there.
    """
    check_attack(attack)
    grid = as_grid(epsilons)
    check_epsilons(grid, attack.norm.largest(prepared.x[0].numel()))
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be between 0 and 1, a share of the radius, got {tolerance:g}")
    report = progress or (lambda share: None)
    found = torch.where(prepared.right().cpu(), math.inf, 0.0).double()
    if known is not None:
        found = torch.minimum(found, known)
    if isinstance(attack, Ensemble):
        members = attack.taking(prepared.x)
        for number, member in enumerate(members):
            found = measure(
                prepared,
                member,
                grid,
                tolerance=tolerance,
                seed=seed + number,
                known=found,
                progress=_part(report, number, len(members)),
            )
        return found
    grid = [epsilon for epsilon in grid if epsilon > 0]
    if isinstance(attack, MinimumNorm):
        found = _nearest(prepared, attack, grid, found, seed, report, snap=tolerance is None)
    else:
        found = _ascend(prepared, attack, grid, found, seed, report, tolerance)
    report(1.0)
    return found


def _part(report: Progress, number: int, of: int) -> Progress:
    """Returns what reports the progress of one of several equal parts as progress of the whole."""
    return lambda share: report((number + share) / of)


def _nearest(
    prepared: PreparedNetwork,
    attack: MinimumNorm,
    grid: Sequence[float],
    found: Tensor,
    seed: int,
    report: Progress,
    *,
    snap: bool,
) -> Tensor:
    """Returns the radii under a minimum-norm attack, which runs once: rounded up to the grid if `snap`."""
    if not grid:
        return found
    open_ = (found > grid[0] if snap else found > 0).nonzero().squeeze(1)
    largest = attack.norm.largest(prepared.x[0].numel())

    def work(batch: Tensor) -> Tensor:
        x, y = prepared.x[batch], prepared.y[batch]
        size = torch.full((len(batch),), largest, dtype=x.dtype, device=x.device)
        points, fooled = attack.craft(
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
        found[images] = torch.minimum(found[images], radius)
        done += len(batch)
        report(done / len(open_))
    return found


def _ascend(
    prepared: PreparedNetwork,
    attack: Attack,
    grid: Sequence[float],
    found: Tensor,
    seed: int,
    report: Progress,
    tolerance: float | None,
) -> Tensor:
    """Returns the radii under an attack that is given epsilons, from the smallest of the grid up."""
    directions = _directions(prepared, attack, found > 0) if isinstance(attack, SingleStep) else None
    clean = CleanGradientCache(prepared.x, torch.arange(len(found)))
    below = torch.zeros_like(found)  # The largest epsilon at which each image was not fooled.
    for number, epsilon in enumerate(grid):
        open_ = (found > epsilon).nonzero().squeeze(1)
        if len(open_) == 0:
            break
        sizes = torch.full((len(open_),), epsilon, dtype=torch.float64)
        fooled = _fooled(
            prepared, attack, directions, clean, open_, sizes, seed, stream_of(epsilon), _part(report, number, len(grid))
        )
        hit = torch.isfinite(fooled)
        found[open_[hit]] = torch.minimum(fooled[hit], sizes[hit]) if tolerance is not None else epsilon
        below[open_[~hit]] = epsilon
    if tolerance is None:
        return found
    for turn in range(MOST_ROUNDS):
        open_ = (torch.isfinite(found) & (found > 0) & (below < found / (1 + tolerance))).nonzero().squeeze(1)
        if len(open_) == 0:
            break
        low, high = below[open_], found[open_]
        sizes = torch.where(low > 0, (low * high).sqrt(), high / 4)
        fooled = _fooled(prepared, attack, directions, clean, open_, sizes, seed, turn)
        hit = torch.isfinite(fooled)
        found[open_[hit]] = torch.minimum(fooled[hit], sizes[hit])
        below[open_[~hit]] = sizes[~hit]
    return found


def _fooled(
    prepared: PreparedNetwork,
    attack: Attack,
    directions: Tensor | None,
    clean: CleanGradientCache,
    images: Tensor,
    epsilons: Tensor,
    seed: int,
    stream: int,
    report: Progress | None = None,
) -> Tensor:
    """Returns the size of the perturbation that fools each of some images within epsilons (M,), infinite where none does."""
    sizes = torch.full((len(images),), math.inf, dtype=torch.float64)
    device = prepared.x.device

    def work(chosen: Tensor) -> Tensor:
        batch = images[chosen].to(device)
        x, y, epsilon = prepared.x[batch], prepared.y[batch], epsilons[chosen].to(prepared.x)
        if directions is not None:
            points = (x + epsilon.view(-1, *[1] * (x.ndim - 1)) * directions[batch]).clamp(0, 1)
            fooled = torch.zeros(len(batch), dtype=torch.bool, device=device)
        else:
            noise = ImageNoise.of(seed, batch, stream)
            points, fooled = attack.craft(
                prepared.network,
                x,
                y,
                epsilon,
                noise,
                stop_when_fooled=True,
                one_pass=prepared.batches.size,
                clean=clean.select(batch),
            )
        open_ = (~fooled).nonzero().squeeze(1)
        if len(open_):
            fooled[open_] = misclassified(forward(prepared.network, points[open_], prepared.batches.size), y[open_])
        return torch.where(fooled, attack.norm.size(points - x), math.inf)

    done = 0
    for chosen, found in prepared.batches.over(torch.arange(len(images)), work, loops=True):
        sizes[chosen] = found.double().cpu()
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
        # Projected once here, as `craft` projects every perturbation: scaling by epsilon keeps it in the ball.
        return attack.norm.project(attack.direction(target, x), size.view(-1, *[1] * (x.ndim - 1)))

    for batch, found in prepared.batches.over(wanted.nonzero().squeeze(1).to(prepared.x.device), work):
        directions[batch] = found
    return directions
