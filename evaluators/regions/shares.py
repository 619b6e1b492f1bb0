"""Adversarial share of the balls around an image, by radius.

If a continuous network has a non-zero margin at an adversarial image, all images in some ball around it are adversarial.
So one adversarial image implies infinitely many. This module samples balls of given radii and estimates the share of each
ball that is adversarial. For small networks, `provable_radii` gives a radius within which all images are adversarial.

The definitions are ours. Source of the claim: Shu, Xi and Kamhoua, "Understanding Adversarial Examples Through Deep Neural
Network's Response Surface and Uncertainty Regions", arXiv:2107.00003 (only the abstract was available).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray

from evaluators.curves.error_curves import Floats, binomial_interval
from evaluators.engine.batches import Batches
from evaluators.engine.frozen import frozen
from evaluators.engine.input_checks import check_labels, check_module
from evaluators.engine.prepared import predict
from evaluators.regions.sampling import Sampling, ball_points, check_balls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from evaluators.norms import Norm


@final
@dataclass(frozen=True)
class BallShares:
    """Share of each ball that has a property, for N images and R radii, estimated from uniform samples.

    Attributes:
        radii: Radii of the balls, (R,), in pixel units.
        samples: Number of points per ball.
        counts: Number of points with the property, (N, R) int64.
        share: Share of points with the property, (N, R), in [0, 1].
        interval: Clopper-Pearson interval of the share, (N, R, 2). It holds for each ball alone, and covers only the
            sampling error.
    """

    radii: Floats
    samples: int
    counts: NDArray[np.int64]
    share: Floats
    interval: Floats


def ball_shares(
    network: nn.Module,
    centres: Tensor,
    labels: Tensor,
    norm: Norm,
    radii: Sequence[float],
    *,
    sampling: Sampling = Sampling(samples=1000),
) -> BallShares:
    """Returns the share of each ball around centres that the network does not classify as the given labels.

    For an adversarial image and its true label, this is the adversarial share of the ball. Only points with pixels in
    [0, 1] count.

    The share does not describe the worst point: an attack finds points that random samples miss.

    Args:
        network: Maps images (N, ...) to logits (N, K). Its state is restored afterwards.
        centres: Images, (N, ...), pixels in [0, 1].
        labels: True labels, (N,) int64. Points that the network assigns to another class are counted.
        norm: Linf() or L2().
        radii: Radii of the balls, (R,), strictly increasing, in pixel units.
        sampling: Number of points per ball and other settings.

    Raises:
        TypeError: network, centres, labels or norm has the wrong type.
        ValueError: centres, labels or radii are out of range, or the network's output is not (N, K) logits.
    """
    check_module(network)
    grid = check_balls(centres, norm, radii)
    check_labels(labels, len(centres))
    with frozen(network):
        check_labels(labels, len(centres), predict(network, centres[:1]).shape[1])
        given = labels.repeat_interleave(len(grid))

        def adversarial(balls: Tensor, points: Tensor) -> Tensor:
            return predict(network, points, Batches(sampling.batch_size)).argmax(1) != given[balls]

        return count_in_balls(adversarial, centres, norm, grid, sampling)


def count_in_balls(
    property_of: Callable[[Tensor, Tensor], Tensor],
    centres: Tensor,
    norm: Norm,
    radii: Sequence[float],
    sampling: Sampling,
) -> BallShares:
    """Returns the share of each ball around centres (N, ...) that has a property. Checks no inputs.

    Args:
        property_of: Function of ball indices, (B,), and points, (B, ...). It returns whether each point has the property,
            (B,) bool.
        centres: As for `ball_shares`.
        norm: As for `ball_shares`.
        radii: As for `ball_shares`.
        sampling: As for `ball_shares`.
    """
    samples = sampling.samples
    counts = torch.zeros(len(centres) * len(radii), dtype=torch.int64, device=centres.device)
    for balls, points in ball_points(centres, norm, radii, sampling):
        counts.index_add_(0, balls, property_of(balls, points).long())
    hits = counts.view(len(centres), len(radii)).cpu().numpy()
    return BallShares(
        radii=np.asarray(radii, dtype=np.float64),
        samples=samples,
        counts=hits,
        share=hits / samples,
        interval=binomial_interval(hits.astype(np.float64), samples, sampling.confidence),
    )
