"""Logit differences and first-order radii of clean images.

Let h be the logits of a correctly classified image with true class 1. The difference to class j is h_1 - h_j. To first
order, a perturbation of size epsilon lowers the difference by at most epsilon times the dual norm of its gradient. The
first-order radius is the smallest ratio, over j, of the difference to the dual norm of its gradient. It is exact for a
linear network if no pixel is clipped to [0, 1]. In L1, pixels stop at the ends of the range, and the radius is exact for
every linear network. The nearest wrong class is the wrong class with the largest logit.

Source: Cubuk et al., "Intriguing Properties of Adversarial Examples", arXiv:1711.02846, for the role of logit differences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray

from evaluators.attacks.usable_gradients import usable
from evaluators.curves.error_curves import Floats
from evaluators.engine.prepared import PreparedNetwork, prepare
from evaluators.engine.scores_only import why_no_gradients

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from evaluators.norms import Norm

# Grid points per decade. Each number is twice the previous one, so that a coarse grid is a subset of a fine grid.
PER_DECADE = (0.75, 1.5, 3, 6, 12, 24, 48)


@final
@dataclass(frozen=True)
class Margins:
    """Logit differences of N images to their J nearest wrong classes.

    Attributes:
        margin: True logit minus the largest other logit, (N,). It is negative if the image is misclassified.
        right: Whether the image is correctly classified, (N,) bool.
        entropy: Entropy of the softmax, in nats, (N,).
        differences: True logit minus the logits of the J nearest wrong classes, (N, J), ascending. The first is the margin.
        gradient_norms: Dual norm of the input gradient of each difference, in logits per pixel unit, (N, J) each, by name of
            the norm.
        radii: First-order radius of each image, in pixel units, (N,) each, by name of the norm: 0 if misclassified, infinite
            if all gradients are zero. Without gradients, all gradient norms are zero.
        zero_gradient_share: Share of the correctly classified images on which the gradients of all J differences are zero or
            not finite.
    """

    margin: Floats
    right: NDArray[np.bool_]
    entropy: Floats
    differences: Floats
    gradient_norms: dict[str, Floats]
    radii: dict[str, Floats]
    zero_gradient_share: float


def margins(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    norms: Sequence[Norm],
    batch_size: int | None = None,
    *,
    classes: int | None = None,
) -> Margins:
    """Returns the logit differences and first-order radii of images.

    The cost is one backward pass per image and wrong class.

    Args:
        network: Maps images with pixels in [0, 1] to logits (N, K); unchanged.
        x: Clean images with pixels in [0, 1], (N, ...).
        y: True labels, (N,) int64.
        norms: Norms of the gradients and radii.
        batch_size: Images in one pass; None to choose it from the memory that one image needs.
        classes: Number of nearest wrong classes per image; None for all K - 1. With fewer classes a radius can be too large:
            a class that is left out may be reached first, because its difference has a larger gradient.

    Raises:
        TypeError: x or y has the wrong type.
        ValueError: x, y or classes is out of range, or the network's output is not (N, K) logits.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from evaluators import L2, Linf, margins
        >>> network = nn.Identity()  # The two pixels are the logits of two classes.
        >>> x, y = torch.tensor([[0.7, 0.5], [0.9, 0.1], [0.4, 0.5]]), torch.tensor([0, 0, 0])
        >>> result = margins(network, x, y, [Linf(), L2()])
        >>> result.radii["linf"].round(3)
        array([0.1, 0.4, 0. ])
        >>> result.radii["l2"].round(3)
        array([0.141, 0.566, 0.   ])
    """
    with prepare(network, x, y, batch_size) as prepared:
        return margins_of(prepared, norms, classes=classes)


def margins_of(
    prepared: PreparedNetwork,
    norms: Sequence[Norm],
    *,
    classes: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Margins:
    """Returns the margins of a network prepared by `prepare`, as `margins` does.

    Attacks on the same prepared network share its clean forward pass.

    Args:
        prepared: The network and N images.
        norms: Norms of the gradients and radii.
        classes: Number of nearest wrong classes per image; None for all K - 1.
        progress: Function called with the completed fraction, between 0 and 1.

    Raises:
        ValueError: classes is below 1.
    """
    if classes is not None and classes < 1:
        raise ValueError(f"classes must be at least 1, or None for all wrong classes, got {classes}")
    logits, label = prepared.logits, prepared.y[:, None]
    others = logits.shape[1] - 1
    nearest = logits.scatter(1, label, -math.inf).topk(min(classes or others, others))
    differences = (logits.gather(1, label) - nearest.values).double()
    images = torch.arange(len(prepared.x), device=prepared.x.device)

    def work(index: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        return _slopes(prepared, index, nearest.indices[index], differences[index], norms)

    parts = [part for _, part in prepared.batches.over(images, work, progress=progress)]
    right = prepared.right()
    moving = torch.cat([moves for moves, _, _ in parts])
    gradient_norms = {norm.name: torch.cat([slopes[n] for _, slopes, _ in parts]) for n, norm in enumerate(norms)}
    radii = {norm.name: torch.cat([nearest[n] for _, _, nearest in parts]).amin(1) for n, norm in enumerate(norms)}
    return Margins(
        margin=_array(differences[:, 0]),
        right=right.cpu().numpy(),
        entropy=_array(torch.distributions.Categorical(logits=logits).entropy()),
        differences=_array(differences),
        gradient_norms={name: _array(slope) for name, slope in gradient_norms.items()},
        radii={name: _array(torch.where(right, radius, 0.0)) for name, radius in radii.items()},
        zero_gradient_share=int((~moving & right).sum()) / max(int(right.sum()), 1),
    )


def join_margins(parts: Sequence[Margins]) -> Margins:
    """Returns the margins of all images from those of their parts, in the order of the images."""
    right = np.concatenate([part.right for part in parts])
    dead = sum(round(part.zero_gradient_share * int(part.right.sum())) for part in parts)

    def by_norm(values: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
        return {name: np.concatenate([each[name] for each in values]) for name in values[0]}

    return Margins(
        margin=np.concatenate([part.margin for part in parts]),
        right=right,
        entropy=np.concatenate([part.entropy for part in parts]),
        differences=np.concatenate([part.differences for part in parts]),
        gradient_norms=by_norm([part.gradient_norms for part in parts]),
        radii=by_norm([part.radii for part in parts]),
        zero_gradient_share=dead / max(int(right.sum()), 1),
    )


def _slopes(
    prepared: PreparedNetwork, index: Tensor, rivals: Tensor, differences: Tensor, norms: Sequence[Norm]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Returns the gradients of B images in summary.

    These are whether each image has a finite, non-zero gradient, (B,), the dual norms, (B, J) for each norm, and the
    first-order radii, (B, J) for each norm.

    Args:
        prepared: The network and N images.
        index: Indices of B images, (B,).
        rivals: Wrong classes of the differences, (B, J).
        differences: True logit minus the logits of the rivals, (B, J).
        norms: Norms of the gradients.
    """
    if why_no_gradients(prepared.network) is not None:
        none = torch.zeros(rivals.shape, dtype=torch.float64, device=rivals.device)
        return torch.zeros_like(index, dtype=torch.bool), [none for _ in norms], [none + math.inf for _ in norms]
    points = prepared.x[index].detach().requires_grad_()
    with torch.enable_grad():
        logits = prepared.network(points.clone())
        gaps = (logits.gather(1, prepared.y[index][:, None]) - logits.gather(1, rivals)).unbind(1)
        totals = [gap.sum() for gap in gaps]
    moves = torch.zeros_like(index, dtype=torch.bool)
    columns: list[list[Tensor]] = [[] for _ in norms]
    radii: list[list[Tensor]] = [[] for _ in norms]
    for number, total in enumerate(totals):
        # In double precision, because squares of small gradients are summed over many pixels.
        gradient = _gradient(total, points, last=total is totals[-1]).double()
        finite = gradient.flatten(1).isfinite().all(1)
        gradient = usable(gradient)
        moves |= gradient.flatten(1).any(1) & finite
        for norm, column, radius in zip(norms, columns, radii, strict=True):
            column.append(norm.dual(gradient))
            radius.append(norm.linear_radius(points.detach(), -gradient, differences[:, number]))
    return moves, [torch.stack(column, dim=1) for column in columns], [torch.stack(radius, dim=1) for radius in radii]


def _gradient(total: Tensor, points: Tensor, *, last: bool) -> Tensor:
    if not total.requires_grad:  # The logits do not depend on the pixels through autograd.
        return torch.zeros_like(points)
    (gradient,) = torch.autograd.grad(total, points, retain_graph=not last, allow_unused=True)
    return torch.zeros_like(points) if gradient is None else gradient


def _array(values: Tensor) -> Floats:
    return values.double().cpu().numpy()


def margin_density(margin: Floats, at: Floats) -> Floats | None:
    """Returns the density of the margins of correctly classified images, per unit of logit, (G,).

    Returns None if there are fewer than 10 such images or their margins are all equal. For the j-th nearest wrong class,
    pass `differences[right, j]` instead of the margins.

    The estimate is a Gaussian kernel estimate with Scott's bandwidth, on the margins and the negated margins (reflection at
    0). The reflection keeps mass from leaking below 0. It makes the estimate flat at 0: its error there is about 0.8
    bandwidths times the true slope.

    Args:
        margin: Margins of N images, (N,). Those of at most 0 are left out.
        at: Margins at which the density is computed, in logits, (G,). The density is 0 below 0.

    Source: Silverman, "Density Estimation for Statistics and Data Analysis", 1986, section 2.10.
    """
    from scipy.stats import gaussian_kde  # Slow to import.

    right = margin[margin > 0]
    if len(right) < 10 or np.ptp(right) == 0:
        return None
    points = np.asarray(at, dtype=np.float64)
    both = np.concatenate([right, -right])
    # gaussian_kde takes the bandwidth in standard deviations of its data. That of mirrored data is far larger.
    bandwidth = len(right) ** -0.2 * right.std(ddof=1) / both.std(ddof=1)
    density: Floats = np.where(points >= 0, 2 * gaussian_kde(both, bandwidth)(points), 0.0)
    return density


def density_at_zero(margin: Floats) -> float | None:
    """Returns the density at 0 of the margins of correctly classified images, per unit of logit, as `margin_density` does.

    Args:
        margin: Margins of N images, (N,). Those of at most 0 are left out.
    """
    density = margin_density(margin, np.zeros(1))
    return None if density is None else float(density[0])


def adaptive_epsilons(first_order: Floats, largest: float, points: int = 12) -> list[float]:
    """Returns a geometric grid of epsilons that suits a network, in pixel units, ascending.

    The grid starts at the quantile of the radii with ten images below it, at least the 0.2 % and at most the 25 % quantile.
    It ends at 1.5 times the 90 % quantile of the radii. So it covers the curve from just above the clean error to
    saturation. It covers at least a factor of 10, and 0.001 to 1 if all radii are 0 or infinite. All values are 10^(k / m)
    for integers k, rounded to three digits, or `largest`. The number m is one of `PER_DECADE`, so grids of different
    networks share values where they overlap, and whole curves can be compared.

    Args:
        first_order: First-order radii, in pixel units, (N,). Radii of 0 and infinity are ignored.
        largest: Largest epsilon of the grid, in pixel units.
        points: Approximate number of epsilons.

    Raises:
        ValueError: points is below 1.
    """
    if points < 1:
        raise ValueError(f"points must be at least 1, got {points}")
    known = first_order[(first_order > 0) & np.isfinite(first_order)]
    lowest = min(max(10 / max(len(known), 1), 0.002), 0.25)
    low, high = (np.quantile(known, lowest), np.quantile(known, 0.9) * 1.5) if len(known) else (0.001, 1.0)
    high = min(max(high, 1e-5), largest)
    low = min(max(low, 1e-6), high / 10)
    decades = math.log10(high / low)
    each = min(PER_DECADE, key=lambda m: abs(math.log(m * decades / points)))
    first, last = math.floor(each * math.log10(low)), math.ceil(each * math.log10(high))
    return sorted({min(float(f"{10 ** (k / each):.3g}"), largest) for k in range(first, last + 1)})
