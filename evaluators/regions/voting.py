"""Uncertainty regions: where networks of one data set disagree, and where one network is nearly undecided.

A point lies in the uncertainty region of several networks where they do not all give it one class. How much they disagree
there is their vote entropy: the entropy, in nats, of the classes that they give, one vote each. It is 0 where they agree,
and at most the logarithm of the number of networks, or of classes if those are fewer. A point lies in the uncertainty region
of one network where its margin, the largest logit minus the next, is below a threshold: in logits, whose scale differs
between networks.

Both are measured in balls, cut to the pixel range, around images that the caller chooses: clean ones, adversarial ones, or
noise (`torch.rand`); and along lines from an image through another, to see how they lie along the boundary.

The definitions are ours: source of the term is Shu, Xi and Kamhoua, "Understanding Adversarial Examples Through Deep Neural
Network's Response Surface and Uncertainty Regions", arXiv:2107.00003, of which only the abstract was at hand. Vote entropy:
Dagan and Engelson, "Committee-Based Sampling for Training Probabilistic Classifiers", ICML 1995.
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
    """How much M networks disagree in balls around N images, of E epsilons.

    Attributes:
        epsilons: Radii of the balls, (E,), in pixel units.
        samples: Points drawn from each ball.
        counts: At how many of them the networks do not all give one class, (N, E) int64.
        share: Their share, (N, E).
        interval: Clopper-Pearson interval of the share, (N, E, 2): for one ball, over the draw of its points.
        entropy: Mean vote entropy of the points, in nats, (N, E).
        mean_share: Of the images, (E,).
        mean_share_interval: For the images' population, (E, 2), by `mean_interval`: the images are what was drawn from it,
            however many points were drawn around each.
        mean_entropy: Of the images, (E,), in nats.
        mean_entropy_interval: For the images' population, (E, 2).
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
    """Returns how much networks disagree in the balls around centres (N, ...), in points drawn uniformly.

    Args:
        networks: At least two, each mapping images to logits (N, K). They are left as they were.
        centres: Images with pixels in [0, 1], drawn independently of each other if the intervals are to mean anything.
        norm: Linf() or L2().
        epsilons: Strictly increasing, in pixel units; at 0 the centre itself is looked at.
        sampling: How many points are drawn from each ball, and how.

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
    """Holds networks in evaluation mode and yields their number of classes.

    Raises:
        TypeError: one of them is no module.
        ValueError: there are fewer than two, or their numbers of classes differ.
    """
    if len(networks) < 2:
        raise ValueError(f"networks must be at least two to disagree, got {len(networks)}")
    for network in networks:
        check_module(network)
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(frozen(network))
        classes = [predict(network, images[:1]).shape[1] for network in networks]
        if len(set(classes)) > 1:
            raise ValueError(f"networks must have one number of classes, got {', '.join(map(str, classes))}")
        yield classes[0]


def votes_of(networks: Sequence[nn.Module], points: Tensor, batch_size: int) -> Tensor:
    """Returns the class that each network gives to points (B, ...), (M, B) int64."""
    return torch.stack([predict(network, points, Batches(batch_size)).argmax(1) for network in networks])


def vote_entropy(votes: Tensor, classes: int) -> Tensor:
    """Returns the entropy of votes (M, B) of M networks for one of so many classes, in nats, (B,) float64."""
    share = torch.nn.functional.one_hot(votes, classes).double().mean(0)
    entropy: Tensor = torch.special.entr(share).sum(1)
    return entropy


def mean_interval(values: Floats, confidence: float = 0.95) -> Floats:
    """Returns an interval for the mean of the population that values (N, ...) in [0, 1] were drawn from, (..., 2).

    All means that the mean m of N independent draws does not contradict: those mu with N KL(m, mu) at most log(2 / alpha),
    with KL the relative entropy of two coins. It covers with at least the confidence asked for, whatever the distribution,
    even where all values are 0, and is wider than need be where the values differ little.

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
        # Nearer to 0 or 1 than these, no root is looked for: the interval goes that far.
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
    """Returns the share of each ball around centres (N, ...) where a network's margin is below a threshold.

    The points are those of `disagreement` with the same seed.

    Args:
        network: Maps images to logits (N, K). It is left as it was.
        centres: Images with pixels in [0, 1].
        norm: Linf() or L2().
        epsilons: Strictly increasing, in pixel units.
        threshold: Of the largest logit minus the next, in logits, above 0. The median margin of clean images is a measure.
        sampling: How many points are drawn from each ball, and how.

    Raises:
        TypeError: network, centres or norm has the wrong type.
        ValueError: an input is out of range, or the network's output is not (N, K) logits.
    """
    check_module(network)
    grid = check_balls(centres, norm, epsilons)
    if not threshold > 0:
        raise ValueError(f"threshold must be above 0, in logits, got {threshold:g}: no margin is below 0")

    def undecided(balls: Tensor, points: Tensor) -> Tensor:
        largest = predict(network, points, Batches(sampling.batch_size)).topk(2).values
        return largest[:, 0] - largest[:, 1] < threshold

    with frozen(network):
        return count_in_balls(undecided, centres, norm, grid, sampling)
