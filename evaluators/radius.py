"""The radius of each image under an attack. All error curves are computed from these radii."""

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

# Relative tolerance for rounding: a point that is at most this far outside a ball of the grid counts as inside.
SLACK = 1e-5
# Largest number of attempts that refine a radius. Where every smaller perturbation fools the network, a relative precision
# is never reached.
MOST_ROUNDS = 40
# Largest factor by which one attempt of a search downwards divides a radius.
LARGEST_DIVISOR = 4.0


@final
@dataclass(frozen=True, kw_only=True)
class EpsilonGrid:
    """The epsilons at which radii are measured, and the tolerance of the bisection between them.

    Attributes:
        epsilons: Epsilons in pixel units, strictly increasing.
        tolerance: Relative precision of the radii, between 0 and 1 (0.01 for 1 %); None to round radii up to the grid.
            With a tolerance, a bisection between the points of the grid refines each radius. The radius is then the size of
            the smallest perturbation found that fools the network. Minimum-norm attacks are not bisected: their radius is
            the size of their perturbation. Some ensembles search downwards from such a radius (`AttackEnsemble.downwards`).

    Raises:
        TypeError: epsilons is not a sequence of numbers.
        ValueError: epsilons is empty or not strictly increasing, or tolerance is not between 0 and 1.
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
        ValueError: tolerance is neither None nor between 0 and 1.
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
                downwards=attack.downwards and number > 0,
                progress=_part(report, number, len(members)),
            )
        return image_radii
    positive = [epsilon for epsilon in grid.epsilons if epsilon > 0]
    if isinstance(attack, MinimumNorm):
        image_radii = _nearest(prepared, attack, positive, image_radii, seed, report, snap=grid.tolerance is None)
    elif downwards and not isinstance(attack, SingleStep):
        image_radii = _descend(prepared, attack, positive, image_radii, seed, report, grid.tolerance)
    else:
        image_radii = _ascend(prepared, attack, positive, image_radii, seed, report, grid.tolerance)
    report(1.0)
    return image_radii


def _part(report: Progress, number: int, of: int) -> Progress:
    """Returns a progress function for part `number` of `of` equal parts. It reports the progress of the whole."""
    return lambda share: report((number + share) / of)


def _half_of_the_rest(report: Progress, turn: int) -> Progress:
    """Returns a progress function for round `turn` of an unknown number of rounds: each takes half of what is left."""
    return lambda share: report(1 - 0.5**turn * (1 - share / 2))


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
    """Returns the radii under a minimum-norm attack, which runs once. Radii are rounded up to the grid if `snap`."""
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

    edges = torch.tensor(grid, dtype=torch.float64)
    done = 0
    for batch, sizes in prepared.batches.over(open_.to(prepared.x.device), work, loops=True):
        radius = sizes.double().cpu()
        inside = radius / (1 + SLACK) <= grid[-1]
        radius = _rounded_up(radius, edges) if snap else torch.where(inside, radius, math.inf)
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
    """Returns the radii under an attack that needs an epsilon.

    The epsilons of the grid are tried in ascending order. With a tolerance, a bisection follows.
    """
    attempt = _Attempt.of(prepared, attack, image_radii, seed)
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


def _descend(
    prepared: PreparedNetwork,
    attack: Attack,
    grid: Sequence[float],
    image_radii: Tensor,
    seed: int,
    report: Progress,
    tolerance: float | None,
) -> Tensor:
    """Returns the smaller of the known radii and those under an attack that needs an epsilon.

    Each image is attacked just below its known radius: at the next epsilon of the grid, or with a tolerance at the radius
    divided by 1 + tolerance. It is attacked at smaller and smaller epsilons as long as the attack succeeds. So an image
    without a smaller radius costs one attempt. Images without a finite radius start at the largest epsilon.
    """
    if not grid:
        return image_radii
    attempt = _Attempt.of(prepared, attack, image_radii, seed)
    edges = torch.tensor(grid, dtype=torch.float64)
    below = torch.zeros_like(image_radii)  # The largest epsilon at which each image was not fooled.
    hits = torch.zeros_like(image_radii)  # Number of successes of each image.
    for turn in range(len(grid) if tolerance is None else MOST_ROUNDS):
        sizes = _next_below(image_radii, below, hits, edges, tolerance)
        open_ = sizes.nonzero().squeeze(1)
        if len(open_) == 0:
            break
        sizes = sizes[open_]
        fooled = _fooled(attempt, open_, sizes, turn, _half_of_the_rest(report, turn))
        hit = torch.isfinite(fooled)
        smaller = torch.minimum(fooled[hit], sizes[hit])
        image_radii[open_[hit]] = _rounded_up(smaller, edges) if tolerance is None else smaller
        below[open_[~hit]] = sizes[~hit]
        hits[open_[hit]] += 1
    return image_radii


def _next_below(radius: Tensor, below: Tensor, hits: Tensor, edges: Tensor, tolerance: float | None) -> Tensor:
    """Returns the next epsilon at which `_descend` attacks each image, (N,); 0 where the search is over.

    Args:
        radius: Smallest known radius of each image, (N,); 0 for images that are misclassified.
        below: Largest epsilon at which each image was not fooled, (N,); 0 if there is none.
        hits: Number of successes of each image, (N,).
        edges: The epsilons of the grid, (E,).
        tolerance: Relative precision of the radii; None for radii on the grid.
    """
    shrunk = radius / (1 + SLACK)
    place = torch.searchsorted(edges, shrunk)  # The number of epsilons below each radius.
    on_grid = torch.where(place > 0, edges[(place - 1).clamp(min=0)], 0.0)
    if tolerance is None:
        return torch.where(on_grid > below, on_grid, 0.0)
    # The first steps are small, as the known radius is seldom much too large. Each one is twice as large as the one before.
    steps = radius / ((1 + tolerance) ** (2.0**hits)).clamp(max=LARGEST_DIVISOR)
    between = torch.where(below > 0, torch.maximum(steps, (below * radius).sqrt()), steps)
    between = torch.where(radius.isinf(), torch.where(below > 0, 0.0, edges[-1]), between)
    # The slack allows for rounding: a radius divided by 1 + tolerance is near enough.
    return torch.where(below * (1 + tolerance) * (1 + SLACK) < radius, between, 0.0)


def _rounded_up(sizes: Tensor, edges: Tensor) -> Tensor:
    """Returns sizes rounded up to the epsilons `edges`, (E,); infinite above them. Rounding errors are allowed for."""
    return torch.cat([edges, edges.new_tensor([math.inf])])[torch.searchsorted(edges, sizes / (1 + SLACK))]


@final
@dataclass(frozen=True, kw_only=True)
class _Attempt:
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
    def of(cls, prepared: PreparedNetwork, attack: Attack, image_radii: Tensor, seed: int) -> _Attempt:
        """Returns the shared inputs. Images with a radius of 0 will not be attacked."""
        return cls(
            prepared=prepared,
            attack=attack,
            directions=_directions(prepared, attack, image_radii > 0) if isinstance(attack, SingleStep) else None,
            clean=CleanGradientCache(prepared.x, torch.arange(len(image_radii))),
            seed=seed,
        )


def _fooled(attempt: _Attempt, images: Tensor, epsilons: Tensor, stream: int, report: Progress | None = None) -> Tensor:
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
