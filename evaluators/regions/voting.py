"""Uncertainty regions: where networks for one data set disagree, and where one network has a low margin.

A point is in the uncertainty region of several networks if they do not all predict the same class. The vote entropy
measures the disagreement. It is the entropy, in nats, of the predicted classes, with one vote per network. It is 0 if all
networks agree, and at most log(min(M, K)) for M networks and K classes.

A point is in the uncertainty region of one network if its margin (largest minus second-largest logit) is below a
threshold. The threshold is in logits, whose scale differs between networks.

Both regions are measured as shares of balls around clean images, adversarial images or noise (`torch.rand`). Only points
in the pixel range count. `vote_along_line` measures disagreement along lines through two images, relative to the decision
boundary.

The definitions are ours. Sources: Shu, Xi and Kamhoua, "Understanding Adversarial Examples Through Deep Neural Network's
Response Surface and Uncertainty Regions", arXiv:2107.00003 (only the abstract was available), for the term; Dagan and
Engelson, "Committee-Based Sampling for Training Probabilistic Classifiers", ICML 1995, for vote entropy.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import rel_entr

from evaluators.curves.error_curves import Floats, binomial_interval, check_confidence
from evaluators.engine.batches import Batches
from evaluators.engine.frozen import frozen
from evaluators.engine.input_checks import check_module
from evaluators.engine.prepared import predict
from evaluators.regions.sampling import Sampling, ball_points, check_balls
from evaluators.regions.shares import BallShares, count_in_balls

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from evaluators.norms import Norm


@final
@dataclass(frozen=True)
class Disagreement:
    """Disagreement of M networks in balls around N images, at E epsilons.

    Attributes:
        epsilons: Radii of the balls, (E,), in pixel units.
        samples: Number of points per ball.
        counts: Number of points at which the networks disagree, (N, E) int64.
        share: Share of points at which the networks disagree, (N, E), in [0, 1].
        interval: Clopper-Pearson interval of the share, (N, E, 2). It holds for each ball alone, and covers
            only the sampling error.
        entropy: Mean vote entropy of the points, in nats, (N, E).
        mean_share: Mean of `share` over the images, (E,).
        mean_share_interval: Interval of the mean share of the image population, (E, 2), by `mean_interval`. Its sample
            size is the number of images, not of points.
        mean_entropy: Mean of `entropy` over the images, in nats, (E,).
        mean_entropy_interval: Interval of the mean entropy of the image population, in nats, (E, 2).
    """

    epsilons: Floats
    samples: int
    counts: NDArray[np.int64]
    share: Floats
    interval: Floats
    entropy: Floats
    mean_share: Floats
    mean_share_interval: Floats
    mean_entropy: Floats
    mean_entropy_interval: Floats


def disagreement(
    networks: Sequence[nn.Module],
    centres: Tensor,
    norm: Norm,
    epsilons: Sequence[float],
    *,
    sampling: Sampling = Sampling(samples=200),
) -> Disagreement:
    """Returns the disagreement of networks in the balls around centres, estimated from uniform samples.

    Args:
        networks: At least two networks that map images (N, ...) to logits (N, K). Their state is restored afterwards.
        centres: Images, (N, ...), pixels in [0, 1]. The intervals of the means are valid only for independent images.
        norm: Linf() or L2().
        epsilons: Radii of the balls, strictly increasing, in pixel units. 0 means the centre itself.
        sampling: Number of points per ball and other settings.

    Raises:
        TypeError: a network, centres or norm has the wrong type.
        ValueError: there are fewer than two networks, their numbers of classes differ, or another input is out of range.
    """
    grid = check_balls(centres, norm, epsilons)
    samples, confidence = sampling.samples, sampling.confidence
    with ensemble_eval(networks, centres) as classes:
        most = math.log(min(len(networks), classes))
        counts = torch.zeros(len(centres) * len(grid), dtype=torch.int64, device=centres.device)
        total = torch.zeros(len(counts), dtype=torch.float64, device=centres.device)
        for balls, points in ball_points(centres, norm, grid, sampling):
            votes = votes_of(networks, points, sampling.batch_size)
            counts.index_add_(0, balls, (votes != votes[0]).any(0).long())
            total.index_add_(0, balls, vote_entropy(votes, classes))
    shape = (len(centres), len(grid))
    hits, entropy = counts.view(shape).cpu().numpy(), total.view(shape).cpu().numpy() / samples
    share = hits / samples
    return Disagreement(
        epsilons=np.asarray(grid),
        samples=samples,
        counts=hits,
        share=share,
        interval=binomial_interval(hits.astype(np.float64), samples, confidence),
        entropy=entropy,
        mean_share=share.mean(0),
        mean_share_interval=mean_interval(share, confidence),
        mean_entropy=entropy.mean(0),
        mean_entropy_interval=most * mean_interval(entropy / most, confidence),
    )


@contextmanager
def ensemble_eval(networks: Sequence[nn.Module], images: Tensor) -> Iterator[int]:
    """Freezes networks in evaluation mode and yields their number of classes.

    Raises:
        TypeError: a network is not an nn.Module.
        ValueError: there are fewer than two networks, or their numbers of classes differ.
    """
    if len(networks) < 2:
        raise ValueError(f"networks must hold at least two networks, got {len(networks)}")
    for network in networks:
        check_module(network)
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(frozen(network))
        classes = [predict(network, images[:1]).shape[1] for network in networks]
        if len(set(classes)) > 1:
            raise ValueError(f"networks must have the same number of classes, got {', '.join(map(str, classes))}")
        yield classes[0]


def votes_of(networks: Sequence[nn.Module], points: Tensor, batch_size: int) -> Tensor:
    """Returns the class that each of M networks predicts for points (B, ...), (M, B) int64."""
    return torch.stack([predict(network, points, Batches(batch_size)).argmax(1) for network in networks])


def vote_entropy(votes: Tensor, classes: int) -> Tensor:
    """Returns the entropy of the votes (M, B) of M networks, in nats, (B,) float64. Votes are below `classes`."""
    share = torch.nn.functional.one_hot(votes, classes).double().mean(0)
    entropy: Tensor = torch.special.entr(share).sum(1)
    return entropy


def mean_interval(values: Floats, confidence: float = 0.95) -> Floats:
    """Returns a confidence interval of the population mean of values in [0, 1], (..., 2).

    The interval contains all mu with N KL(m, mu) <= log(2 / alpha). Here m is the mean of N independent values, and KL is
    the relative entropy of two Bernoulli distributions. The coverage of the interval is at least the confidence level for
    every distribution, even if all values are 0. The interval is conservative if the variance of the values is small.

    Args:
        values: Independent values in [0, 1], (N, ...).
        confidence: Confidence level, 1 - alpha, in (0, 1).

    Source: Hoeffding, "Probability inequalities for sums of bounded random variables", JASA 58, 1963, Theorem 1.

    Raises:
        ValueError: confidence is not between 0 and 1.
    """
    check_confidence(confidence)
    means = np.clip(values.mean(0), 0, 1)
    most = math.log(2 / (1 - confidence)) / len(values)

    def excess(mu: float, mean: float) -> float:
        return float(rel_entr(mean, mu) + rel_entr(1 - mean, 1 - mu)) - most

    def ends(mean: float) -> tuple[float, float]:
        # Roots beyond these limits are not computed: the interval then ends at 0 or 1.
        lowest, highest = 1e-300, 1 - 1e-15
        low = brentq(excess, lowest, mean, args=(mean,)) if mean > lowest and excess(lowest, mean) > 0 else 0.0
        high = brentq(excess, mean, highest, args=(mean,)) if mean < highest and excess(highest, mean) > 0 else 1.0
        return low, high

    return np.array([ends(float(mean)) for mean in means.flat]).reshape(*means.shape, 2)


def low_margin_share(
    network: nn.Module,
    centres: Tensor,
    norm: Norm,
    epsilons: Sequence[float],
    threshold: float,
    *,
    sampling: Sampling = Sampling(samples=200),
) -> BallShares:
    """Returns the share of each ball around centres in which a network's margin is below a threshold.

    With the same seed, the points are the same as in `disagreement`.

    Args:
        network: Maps images (N, ...) to logits (N, K). Its state is restored afterwards.
        centres: Images, (N, ...), pixels in [0, 1].
        norm: Linf() or L2().
        epsilons: Radii of the balls, strictly increasing, in pixel units.
        threshold: Threshold for the largest minus the second-largest logit, above 0. A natural unit for it is the median
            margin of clean images.
        sampling: Number of points per ball and other settings.

    Raises:
        TypeError: network, centres or norm has the wrong type.
        ValueError: an input is out of range, or the network's output is not (N, K) logits.
    """
    check_module(network)
    grid = check_balls(centres, norm, epsilons)
    if not threshold > 0:
        raise ValueError(f"threshold must be above 0, in logits, got {threshold:g}; margins are never below 0")

    def undecided(balls: Tensor, points: Tensor) -> Tensor:
        largest = predict(network, points, Batches(sampling.batch_size)).topk(2).values
        return largest[:, 0] - largest[:, 1] < threshold

    with frozen(network):
        return count_in_balls(undecided, centres, norm, grid, sampling)
