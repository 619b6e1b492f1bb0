"""Logit differences and the first-order radius: what the clean image alone says of the error curve.

For an image that is right, with logits h and true class 1, the difference to class j is h_1 - h_j. A perturbation of size
epsilon lowers it, to first order, by at most epsilon times the dual norm of its gradient. So the first-order radius is the
smallest, over j, of the difference over the dual norm of its gradient: exact for a linear network, ignoring the pixel range.

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

from evaluators.attacks.target import frozen
from evaluators.curve import Floats
from evaluators.inputs import check_images, check_labels, check_logits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from evaluators.norms import Norm


@final
@dataclass(frozen=True)
class Margins:
    """Logit differences of N images.

    Attributes:
        margin: True logit minus the largest other, (N,): negative where the image is misclassified.
        right: Whether the image is classified rightly, (N,) bool.
        entropy: Entropy of the softmax, in nats, (N,).
        radii: First-order radius of each image by norm name, (N,) each: 0 where misclassified, infinite where no gradient.
        gradient_free: Share of the right images whose margin has no gradient at all.
    """

    margin: Floats
    right: NDArray[np.bool_]
    entropy: Floats
    radii: dict[str, Floats]
    gradient_free: float


def margins(network: nn.Module, x: Tensor, y: Tensor, norms: Sequence[Norm], batch_size: int = 512) -> Margins:
    """Returns the logit differences and first-order radii of images x (N, ...) with labels y (N,).

    Costs one backward pass an image and class.

    Raises:
        TypeError: x or y has the wrong type.
        ValueError: x or y is out of range, or the network's output is not (N, K) logits.
    """
    check_images(x)
    check_labels(y, len(x))
    gaps, entropies, flat, rights = [], [], [], []
    by_norm: dict[str, list[Tensor]] = {norm.name: [] for norm in norms}
    with frozen(network):
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            points = images.detach().requires_grad_()
            with torch.enable_grad():
                logits = network(points)
                check_logits(logits, len(images))
                check_labels(y, len(x), logits.shape[1])
                gap = logits.gather(1, labels[:, None]) - logits  # (N, K), 0 at the true class
                gradients = [_gradient(gap[:, j], points) for j in range(gap.shape[1])]
            gap = gap.detach()
            others = gap.scatter(1, labels[:, None], math.inf)
            gaps.append(others.amin(1))
            rights.append(logits.argmax(1) == labels)
            entropies.append(torch.distributions.Categorical(logits=logits.detach()).entropy())
            flat.append(torch.stack([g.flatten(1).abs().amax(1) for g in gradients]).amax(0) == 0)
            for norm in norms:
                steepness = torch.stack([norm.dual(g) for g in gradients], dim=1)
                first_order = torch.where(steepness > 0, others / steepness, math.inf).amin(1)
                by_norm[norm.name].append(torch.where(rights[-1], first_order, 0.0))
    right = torch.cat(rights)
    dead = (torch.cat(flat) & right).sum() / right.sum().clamp(min=1)
    return Margins(
        margin=_array(torch.cat(gaps)),
        right=right.cpu().numpy(),
        entropy=_array(torch.cat(entropies)),
        radii={name: _array(torch.cat(parts)) for name, parts in by_norm.items()},
        gradient_free=float(dead),
    )


def _gradient(gap: Tensor, points: Tensor) -> Tensor:
    if not gap.requires_grad:
        return torch.zeros_like(points)
    (gradient,) = torch.autograd.grad(gap.sum(), points, retain_graph=True, allow_unused=True)
    return torch.zeros_like(points) if gradient is None else gradient


def _array(values: Tensor) -> Floats:
    return values.double().cpu().numpy()


def density_at_zero(margin: Floats) -> float | None:
    """Returns the density of the right images' margins at 0, per unit of logit; None with fewer than 10 of them.

    A Gaussian kernel estimate on the margins and their mirror image, which keeps mass from leaking below 0.
    """
    right = margin[margin > 0]
    if len(right) < 10 or np.ptp(right) == 0:
        return None
    return float(2 * gaussian_kde(np.concatenate([right, -right]))(0.0)[0])


def adaptive_epsilons(first_order: Floats, largest: float, points: int = 12) -> list[float]:
    """Returns a geometric grid of epsilons that suits a network, from its first-order radii (N,).

    From the radius below which ten images lie (at least one in 500) to 1.5 times the 90 % quantile, over the images that
    are right: from where the curve leaves the clean error, far enough to be counted, to where it has saturated.
    """
    usable = first_order[(first_order > 0) & np.isfinite(first_order)]
    lowest = min(max(10 / max(len(usable), 1), 0.002), 0.25)
    low, high = (np.quantile(usable, lowest), np.quantile(usable, 0.9) * 1.5) if len(usable) else (0.001, 1.0)
    high = min(max(high, 1e-5), largest)
    low = min(max(low, 1e-6), high / 10)
    return sorted({min(float(f"{epsilon:.3g}"), largest) for epsilon in np.geomspace(low, high, points)} - {0.0})
