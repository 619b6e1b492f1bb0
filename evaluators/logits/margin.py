"""Logit differences and the first-order radius: what the clean image alone says of the error curve.

For an image that is right, with logits h and true class 1, the difference to class j is h_1 - h_j. A perturbation of size
epsilon lowers it, to first order, by at most epsilon times the dual norm of its gradient. So the first-order radius is the
smallest, over j, of the difference over the dual norm of its gradient: exact for a linear network, ignoring the pixel range.
The wrong classes are called rivals here, the nearest one being that of the largest logit.

Source: Cubuk et al., "Intriguing Properties of Adversarial Examples", arXiv:1711.02846, for the role of logit differences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import gaussian_kde

from evaluators.attacks.gradient_oracle import usable
from evaluators.curves.error_curves import Floats
from evaluators.engine.prepared import PreparedNetwork, prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from evaluators.norms import Norm

# Points of a grid in each decade: each number is twice the one before, so that a coarse grid lies in a fine one.
PER_DECADE = (0.75, 1.5, 3, 6, 12, 24, 48)


@final
@dataclass(frozen=True)
class Margins:
    """Logit differences of N images to their J nearest rivals.

    Attributes:
        margin: True logit minus the largest other, (N,): negative where the image is misclassified.
        right: Whether the image is classified rightly, (N,) bool.
        entropy: Entropy of the softmax, in nats, (N,).
        differences: True logit minus those of the rivals kept, nearest first, (N, J): ascending, from the margin on.
        gradient_norms: Dual norm of each difference's input gradient by norm name, (N, J) each, in logits per pixel unit.
        radii: First-order radius of each image by norm name, (N,) each: 0 where misclassified, infinite where no gradient.
        zero_gradient_share: Share of the right images of which no difference kept has a gradient, finite and not zero.
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
    """Returns the logit differences and first-order radii of images x (N, ...) with labels y (N,).

    Costs one backward pass an image and rival kept.

    Args:
        network: Maps images with pixels in [0, 1] to logits (N, K); left as it was.
        x: Clean images.
        y: True labels, int64.
        norms: In which to measure gradients and radii.
        batch_size: Images in one pass; found from the memory that one image needs if None.
        classes: How many rivals to keep of each image at most, the nearest ones; None for all K - 1. A radius is then the
            smallest over those kept: too large where a rival left out is steeper by more than it is farther.

    Raises:
        TypeError: x or y has the wrong type.
        ValueError: x, y or classes is out of range, or the network's output is not (N, K) logits.
    """
    with prepare(network, x, y, batch_size) as prepared:
        return margins_of(prepared, norms, classes=classes)


def margins_of(prepared: PreparedNetwork, norms: Sequence[Norm], *, classes: int | None = None) -> Margins:
    """Returns what `margins` does, for a network made ready by `prepare`, so that attacks share its clean pass.

    Raises:
        ValueError: classes is out of range.
    """
    if classes is not None and classes < 1:
        raise ValueError(f"classes must be at least 1, or None to keep all rivals of an image, got {classes}")
    logits, label = prepared.logits, prepared.y[:, None]
    others = logits.shape[1] - 1
    nearest = logits.scatter(1, label, -math.inf).topk(min(classes or others, others))
    differences = (logits.gather(1, label) - nearest.values).double()
    images = torch.arange(len(prepared.x), device=prepared.x.device)
    batches = prepared.batches.over(images, lambda index: _gradient_norms(prepared, index, nearest.indices[index], norms))
    parts = [part for _, part in batches]
    right = prepared.right()
    moving = torch.cat([moves for moves, _ in parts])
    gradient_norms = {norm.name: torch.cat([slopes[n] for _, slopes in parts]) for n, norm in enumerate(norms)}
    return Margins(
        margin=_array(differences[:, 0]),
        right=right.cpu().numpy(),
        entropy=_array(torch.distributions.Categorical(logits=logits).entropy()),
        differences=_array(differences),
        gradient_norms={name: _array(slope) for name, slope in gradient_norms.items()},
        radii={name: _array(_first_order(differences, slope, right)) for name, slope in gradient_norms.items()},
        zero_gradient_share=float((~moving & right).sum() / right.sum().clamp(min=1)),
    )


def _gradient_norms(
    prepared: PreparedNetwork, index: Tensor, rivals: Tensor, norms: Sequence[Norm]
) -> tuple[Tensor, list[Tensor]]:
    """Returns whether each image (B,) has a finite gradient that is not zero, (B,), and the dual norms, (B, J) each.

    Args:
        prepared: The network and its images.
        index: Which images.
        rivals: Classes whose differences to the true one are followed, (B, J).
        norms: As for `margins`.
    """
    points = prepared.x[index].detach().requires_grad_()
    with torch.enable_grad():
        logits = prepared.network(points.clone())
        gaps = (logits.gather(1, prepared.y[index][:, None]) - logits.gather(1, rivals)).unbind(1)
        totals = [gap.sum() for gap in gaps]
    moves = torch.zeros_like(index, dtype=torch.bool)
    columns: list[list[Tensor]] = [[] for _ in norms]
    for total in totals:
        # In double precision, for sums over many pixels and squares of small gradients.
        gradient = _gradient(total, points, last=total is totals[-1]).double()
        finite = gradient.flatten(1).isfinite().all(1)
        gradient = usable(gradient)
        moves |= gradient.flatten(1).any(1) & finite
        for norm, column in zip(norms, columns, strict=True):
            column.append(norm.dual(gradient))
    return moves, [torch.stack(column, dim=1) for column in columns]


def _gradient(total: Tensor, points: Tensor, *, last: bool) -> Tensor:
    if not total.requires_grad:  # No path leads from the pixels to the logits.
        return torch.zeros_like(points)
    (gradient,) = torch.autograd.grad(total, points, retain_graph=not last, allow_unused=True)
    return torch.zeros_like(points) if gradient is None else gradient


def _first_order(differences: Tensor, gradient_norms: Tensor, right: Tensor) -> Tensor:
    """Returns the smallest difference over its gradient norm, (N,): 0 where not right, infinite where nothing is steep."""
    return torch.where(right, torch.where(gradient_norms > 0, differences / gradient_norms, math.inf).amin(1), 0.0)


def _array(values: Tensor) -> Floats:
    return values.double().cpu().numpy()


def margin_density(margin: Floats, at: Floats) -> Floats | None:
    """Returns the density of the right images' margins at points `at` (G,), per unit of logit, (G,).

    None with fewer than 10 of them. The differences to farther rivals have densities, too: `differences[right, j]`.

    A Gaussian kernel estimate, with Scott's bandwidth of the margins, on them and their mirror image, which keeps mass
    from leaking below 0. The mirror makes the estimate flat at 0: there it is off by 0.8 bandwidths times the true slope.

    Source: Silverman, "Density Estimation for Statistics and Data Analysis", 1986, section 2.10.
    """
    right = margin[margin > 0]
    if len(right) < 10 or np.ptp(right) == 0:
        return None
    points = np.asarray(at, dtype=np.float64)
    both = np.concatenate([right, -right])
    # A bandwidth is given in standard deviations of what is estimated, which for both together is far larger.
    bandwidth = len(right) ** -0.2 * right.std(ddof=1) / both.std(ddof=1)
    density: Floats = np.where(points >= 0, 2 * gaussian_kde(both, bandwidth)(points), 0.0)
    return density


def density_at_zero(margin: Floats) -> float | None:
    """Returns the density of the right images' margins at 0, per unit of logit; None with fewer than 10 of them."""
    density = margin_density(margin, np.zeros(1))
    return None if density is None else float(density[0])


def adaptive_epsilons(first_order: Floats, largest: float, points: int = 12) -> list[float]:
    """Returns a geometric grid of epsilons that suits a network, from its first-order radii (N,).

    From the radius below which ten images lie (at least one in 500) to 1.5 times the 90 % quantile, over the images that
    are right: from where the curve leaves the clean error, far enough to be counted, to where it has saturated. All values
    are 10^(k / m) for a whole k, to three digits, with m as suits the number of points: so the grids of any two networks
    share values where they overlap, and whole curves can be compared.

    Args:
        first_order: Radii, (N,); those of 0 and infinity count for nothing.
        largest: The largest epsilon that makes sense.
        points: About how many to return.

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
