"""The share of a ball around an image that stays adversarial, by radius.

An adversarial image of a continuous network whose margin is not zero has a ball around it in which every image is
adversarial, an open set: where there is one there are infinitely many. How far they reach is measured here by sampling, and
bounded from below, on small networks, by `provable_radii`.

The definitions are ours. Source of the claim: Shu, Xi and Kamhoua, "Understanding Adversarial Examples Through Deep Neural
Network's Response Surface and Uncertainty Regions", arXiv:2107.00003, of which only the abstract was at hand.
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
    """Shares of balls around N images, of R radii, estimated from points drawn uniformly.

    Attributes:
        radii: Of the balls, (R,), in pixel units.
        samples: Points drawn from each ball.
        counts: How many of them have the property asked for, (N, R) int64.
        share: Their share, (N, R).
        interval: Clopper-Pearson interval of the share, (N, R, 2): for one ball, over the draw of its points.
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
    """Returns the share of each ball around centres (N, ...) to which the network does not give the labels (N,).

    Around an adversarial image, with the true label: the share that stays adversarial, of any wrong class. The ball is cut
    to the pixel range, as its other points are no images: shares are of what is left (`sampling`).

    A share near 1 says nothing of the worst point: an attack finds what no draw will.

    Args:
        network: Maps images to logits (N, K). It is left as it was.
        centres: Images with pixels in [0, 1].
        labels: The class that does not count, int64: the true one.
        norm: Linf() or L2().
        radii: Of the balls, strictly increasing, in pixel units, (R,).
        sampling: How many points are drawn from each ball, and how.

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
    """Returns the share of each ball around centres (N, ...) that has a property, with inputs that have been checked.

    Args:
        property_of: Says of points (B, ...), given the ball of each (B,), which have it, (B,) bool.
        centres: As for `ball_shares`, and so are the other arguments.
        norm: As there.
        radii: As there.
        sampling: As there.
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
