"""Uncertainty along lines: how the votes of several networks lie about the boundary of one of them.

A line goes from a clean image through another, most often an adversarial image of one of the networks, and beyond.
Position 0 is the clean image, 1 the other. Where the network asked for first changes its class is its boundary; the vote
entropy at points before and behind it says whether the networks are undecided just there, or far on either side. As for
`disagreement`, the definitions are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray

from evaluators.curves.error_curves import Floats
from evaluators.engine.batches import FORWARD_ONLY, Batches
from evaluators.engine.input_checks import check_images
from evaluators.engine.prepared import predict
from evaluators.regions.voting import ensemble_eval, mean_interval, vote_entropy, votes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

# Halvings of the step in which the boundary lies.
_HALVINGS = 30
_SLACK = 1e-6


@final
@dataclass(frozen=True)
class LineVotes:
    """What M networks say along a line from each of N images, at P positions.

    Attributes:
        positions: On the line, (P,): 0 is the clean image, 1 the other.
        length: L2 distance from 0 to 1, in pixel units, (N,).
        predictions: Class that each network gives, (N, M, P) int64; -1 where the line has left the pixel range.
        entropy: Vote entropy, in nats, (N, P); NaN where the line has left the pixel range.
        crossing: Position at which the network asked for first changes its class, (N,); infinite where it does not.
    """

    positions: Floats
    length: Floats
    predictions: NDArray[np.int64]
    entropy: Floats
    crossing: Floats


@final
@dataclass(frozen=True)
class BoundaryEntropy:
    """Mean vote entropy at O distances from the boundary of one network.

    Attributes:
        offsets: Distance from the boundary as a share of the clean image's, (O,): -1 is the clean image, 0 the boundary.
        entropy: Mean over the images, in nats, (O,); NaN where there are none.
        interval: For the images' population, (O, 2), by `mean_interval`; NaN where there are none.
        n: Number of images whose line crosses the boundary and has such a point in the pixel range, (O,) int64.
    """

    offsets: Floats
    entropy: Floats
    interval: Floats
    n: NDArray[np.int64]


def vote_along_line(
    networks: Sequence[nn.Module],
    start: Tensor,
    end: Tensor,
    *,
    beyond: float = 1.0,
    points: int = 41,
    crossing_of: int = 0,
    batch_size: int = FORWARD_ONLY,
) -> LineVotes:
    """Returns what networks say along the lines from images start (N, ...) through images end (N, ...), and beyond.

    A class that is left and found again between two of the points is not seen: the crossing is the first that they show,
    bisected to a billionth of their distance.

    Args:
        networks: At least two, each mapping images to logits (N, K). They are left as they were.
        start: Clean images, pixels in [0, 1].
        end: Adversarial images, pixels in [0, 1].
        beyond: How far to go beyond them, as a share of the way to them.
        points: P, evenly spaced, both ends of the line among them.
        crossing_of: Index of the network whose first crossing is to be found.
        batch_size: Points in one pass.

    Raises:
        TypeError: a network, start or end has the wrong type.
        ValueError: start or end is out of range or they differ in shape, or a setting is out of range.
    """
    _check_line(start, end, networks, crossing_of)
    if not 0 <= beyond < math.inf:
        raise ValueError(f"beyond must be at least 0, a share of the way from start to end, got {beyond:g}")
    if not isinstance(points, int) or points < 2:
        raise ValueError(f"points must be a whole number of at least 2, got {points!r}")
    start, end = start.detach(), end.detach()
    positions = torch.linspace(0, 1 + beyond, points, dtype=torch.float64, device=start.device)
    with ensemble_eval(networks, start) as classes:
        columns = [_at(networks, start, end, position.expand(len(start)), classes, batch_size) for position in positions]
        votes = torch.stack([vote for vote, _ in columns], 2)
        crossing = _crossing(networks[crossing_of], start, end, positions, votes[:, crossing_of], batch_size)
    return LineVotes(
        positions=positions.cpu().numpy(),
        length=(end - start).double().flatten(1).norm(dim=1).cpu().numpy(),
        predictions=votes.cpu().numpy(),
        entropy=torch.stack([entropy for _, entropy in columns], 1).cpu().numpy(),
        crossing=crossing.cpu().numpy(),
    )


def boundary_entropy(
    networks: Sequence[nn.Module],
    start: Tensor,
    end: Tensor,
    crossing: Floats,
    offsets: Sequence[float],
    *,
    batch_size: int = FORWARD_ONLY,
    confidence: float = 0.95,
) -> BoundaryEntropy:
    """Returns the mean vote entropy at given distances from where lines cross a boundary.

    Args:
        networks: As for `vote_along_line`.
        start: As for `vote_along_line`.
        end: As for `vote_along_line`.
        crossing: Position at which each line crosses, (N,), from `vote_along_line`; infinite ones are left out.
        offsets: Distances from there, as shares of that from the start, (O,), at least -1: negative ones lie before it.
        batch_size: Points in one pass.
        confidence: Of each interval.

    Raises:
        TypeError: a network, start or end has the wrong type.
        ValueError: start or end is out of range, they differ in shape, crossing is not (N,), or an offset is below -1.
    """
    _check_line(start, end, networks, 0)
    if crossing.shape != (len(start),):
        raise ValueError(f"crossing must have shape ({len(start)},) to go with start, got {crossing.shape}")
    for offset in offsets:
        if not -1 <= offset < math.inf:
            raise ValueError(f"offsets must be at least -1, the clean image, got {offset:g}")
    crosses = torch.as_tensor(np.isfinite(crossing), device=start.device)
    start, end = start[crosses], end[crosses]
    where = torch.as_tensor(crossing, device=start.device)[crosses]
    mean, interval, n = np.full(len(offsets), np.nan), np.full((len(offsets), 2), np.nan), np.zeros(len(offsets), np.int64)
    if len(start):
        with ensemble_eval(networks, start) as classes:
            most = math.log(min(len(networks), classes))
            for number, offset in enumerate(offsets):
                entropy = _at(networks, start, end, where * (1 + offset), classes, batch_size)[1].cpu().numpy()
                entropy = entropy[~np.isnan(entropy)]
                n[number] = len(entropy)
                if len(entropy):
                    mean[number] = entropy.mean()
                    interval[number] = most * mean_interval(entropy / most, confidence)
    return BoundaryEntropy(np.asarray(offsets, dtype=np.float64), mean, interval, n)


def _check_line(start: Tensor, end: Tensor, networks: Sequence[nn.Module], crossing_of: int) -> None:
    if len(networks) < 2:
        raise ValueError(f"networks must be at least two to disagree, got {len(networks)}")
    check_images(start)
    check_images(end)
    if start.shape != end.shape:
        raise ValueError(f"start and end must have one shape, got {tuple(start.shape)} and {tuple(end.shape)}")
    if not 0 <= crossing_of < len(networks):
        raise ValueError(f"crossing_of must be the index of one of {len(networks)} networks, got {crossing_of}")


def _points(start: Tensor, end: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the images at positions (N,), (N, ...), and whether they lie in the pixel range, (N,) bool."""
    place = position.view(-1, *[1] * (start.ndim - 1))
    points = start.double() + place * (end.double() - start.double())
    low, high = points.flatten(1).aminmax(dim=1)
    return points.clamp(0, 1).to(start.dtype), (low >= -_SLACK) & (high <= 1 + _SLACK)


def _at(
    networks: Sequence[nn.Module], start: Tensor, end: Tensor, position: Tensor, classes: int, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Returns the votes, (N, M), and their entropy, (N,), at positions (N,); -1 and NaN outside the pixel range."""
    points, inside = _points(start, end, position)
    votes = votes_of(networks, points, batch_size)
    entropy = torch.where(inside, vote_entropy(votes, classes), math.nan)
    return torch.where(inside[:, None], votes.T, -1), entropy


def _crossing(network: nn.Module, start: Tensor, end: Tensor, positions: Tensor, votes: Tensor, batch_size: int) -> Tensor:
    """Returns where the network's class first differs from that at the start, (N,), given its classes (N, P)."""
    changed = (votes != votes[:, :1]) & (votes >= 0)
    crosses = changed.any(1)
    # The index of the first True; 1 where there is none, to have a step to bisect.
    first = changed.to(torch.int8).cumsum(1).eq(0).sum(1)
    first = torch.where(crosses, first, 1)
    low, high = positions[first - 1], positions[first]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        points, _ = _points(start, end, middle)
        same = predict(network, points, Batches(batch_size)).argmax(1) == votes[:, 0]
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return torch.where(crosses, high, math.inf)
