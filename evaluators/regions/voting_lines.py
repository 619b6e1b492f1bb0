"""Disagreement of networks along lines, relative to the decision boundary of one of them.

A line starts at a clean image (position 0), passes through another image (position 1) and continues beyond it. The other
image is usually an adversarial image of one network. The boundary is the first position at which the class of a selected
network changes. The vote entropy is the entropy of the classes that the networks predict at a point. It shows whether the
networks disagree only near the boundary or also far from it. The definitions are ours, as for `disagreement`.
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

# Number of bisection steps between the two positions around the boundary.
_HALVINGS = 30
_SLACK = 1e-6


@final
@dataclass(frozen=True)
class LineVotes:
    """Predictions of M networks along a line from each of N images, at P positions.

    Attributes:
        positions: Positions on the line, (P,). 0 is the clean image and 1 the other image.
        length: L2 distance between positions 0 and 1, in pixel units, (N,).
        predictions: Class predicted by each network, (N, M, P) int64; -1 outside the pixel range.
        entropy: Vote entropy, in nats, (N, P); NaN outside the pixel range.
        crossing: First position at which the class of the selected network changes, (N,); infinite if it never changes.
    """

    positions: Floats
    length: Floats
    predictions: NDArray[np.int64]
    entropy: Floats
    crossing: Floats


@final
@dataclass(frozen=True)
class BoundaryEntropy:
    """Mean vote entropy at O distances from the decision boundary of one network.

    Attributes:
        offsets: Signed distance from the boundary as a share of the distance between clean image and boundary, (O,). -1 is
            the clean image and 0 the boundary.
        entropy: Mean vote entropy over the images, in nats, (O,); NaN if `n` is 0.
        interval: Interval of the mean of the image population, in nats, (O, 2), by `mean_interval`; NaN if `n` is 0.
        n: Number of images whose line crosses the boundary and is in the pixel range at this distance, (O,) int64.
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
    """Returns the predictions of networks along the lines from start through end and beyond.

    The crossing is the first change of class between two neighbouring points, bisected to a billionth of their distance.
    Changes that are reversed between two neighbouring points are missed.

    Args:
        networks: At least two networks that map images (N, ...) to logits (N, K). Their state is restored afterwards.
        start: Clean images, (N, ...), pixels in [0, 1].
        end: Adversarial images, (N, ...), pixels in [0, 1].
        beyond: Length of the line beyond `end`, as a share of the distance from start to end, at least 0.
        points: Number of evenly spaced positions P, both ends of the line included, at least 2.
        crossing_of: Index of the network whose first crossing is located.
        batch_size: Points in one pass.

    Raises:
        TypeError: a network, start or end has the wrong type.
        ValueError: start or end is out of range, their shapes differ, or a setting is out of range.
    """
    _check_line(start, end, networks, crossing_of)
    if not 0 <= beyond < math.inf:
        raise ValueError(f"beyond must be at least 0, a share of the distance from start to end, got {beyond:g}")
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
    """Returns the mean vote entropy at given distances from the decision boundary along lines.

    Args:
        networks: As for `vote_along_line`.
        start: As for `vote_along_line`.
        end: As for `vote_along_line`.
        crossing: Position of the boundary on each line, (N,), from `vote_along_line`. Lines with an infinite position are
            ignored.
        offsets: Signed distances from the boundary, (O,), as shares of the distance from start to boundary, at least -1.
            Negative distances are on the side of the start.
        batch_size: Points in one pass.
        confidence: Confidence level of each interval, in (0, 1).

    Raises:
        TypeError: a network, start or end has the wrong type.
        ValueError: start or end is out of range, their shapes differ, crossing is not (N,), or an offset is below -1.
    """
    _check_line(start, end, networks, 0)
    if crossing.shape != (len(start),):
        raise ValueError(f"crossing must have shape ({len(start)},) to match start, got {crossing.shape}")
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
        raise ValueError(f"networks must hold at least two networks, got {len(networks)}")
    check_images(start)
    check_images(end)
    if start.shape != end.shape:
        raise ValueError(f"start and end must have the same shape, got {tuple(start.shape)} and {tuple(end.shape)}")
    if not 0 <= crossing_of < len(networks):
        raise ValueError(f"crossing_of must be an index from 0 to {len(networks) - 1}, got {crossing_of}")


def _points(start: Tensor, end: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the images (N, ...) at positions (N,), and whether they are in the pixel range, (N,) bool."""
    place = position.view(-1, *[1] * (start.ndim - 1))
    points = start.double() + place * (end.double() - start.double())
    low, high = points.flatten(1).aminmax(dim=1)
    return points.clamp(0, 1).to(start.dtype), (low >= -_SLACK) & (high <= 1 + _SLACK)


def _at(
    networks: Sequence[nn.Module], start: Tensor, end: Tensor, position: Tensor, classes: int, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Returns the votes (N, M) and their entropy (N,) at positions (N,); -1 and NaN outside the pixel range."""
    points, inside = _points(start, end, position)
    votes = votes_of(networks, points, batch_size)
    entropy = torch.where(inside, vote_entropy(votes, classes), math.nan)
    return torch.where(inside[:, None], votes.T, -1), entropy


def _crossing(network: nn.Module, start: Tensor, end: Tensor, positions: Tensor, votes: Tensor, batch_size: int) -> Tensor:
    """Returns the first position at which the network's class differs from that at the start, (N,), infinite if none.

    Args:
        network: Network whose boundary is located.
        start: Clean images, (N, ...).
        end: Adversarial images, (N, ...).
        positions: Evaluated positions, (P,).
        votes: Classes of the network at these positions, (N, P).
        batch_size: Points in one pass.
    """
    changed = (votes != votes[:, :1]) & (votes >= 0)
    crosses = changed.any(1)
    # Index of the first True; 1 where there is none, as a valid index for the bisection.
    first = changed.to(torch.int8).cumsum(1).eq(0).sum(1)
    first = torch.where(crosses, first, 1)
    low, high = positions[first - 1], positions[first]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        points, _ = _points(start, end, middle)
        same = predict(network, points, Batches(batch_size)).argmax(1) == votes[:, 0]
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return torch.where(crosses, high, math.inf)
