"""Points drawn uniformly from the part of a ball that lies in the pixel range: what shares of a ball are estimated from.

Clamping into the pixel range would not be uniform: it heaps points on the range's edges, where images have many of their
pixels. The Linf ball cut to the range is a box, drawn from pixel by pixel. From the L2 ball, points are drawn by rejection,
but not from the whole ball, of which the range leaves next to nothing in many dimensions: the proposals are normal numbers,
each truncated to its pixel's range, whose variance makes their mean squared length that of the ball. A proposal delta in the
ball is accepted with probability exp((|delta|^2 - radius^2) / (2 variance)), which undoes the normal density and leaves the
uniform one, exactly. No other variance accepts more, and of D pixels about 1 / sqrt(pi D) of the proposals are accepted,
wherever in the range the centre is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evaluators.curves.error_curves import check_confidence
from evaluators.engine.batches import FORWARD_ONLY, Batches
from evaluators.engine.input_checks import as_grid, check_epsilons, check_images
from evaluators.engine.noise import ImageNoise
from evaluators.norms import L2, Linf, Norm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

# Proposals of one draw have so many numbers for themselves; no ball is known to need more than a few thousand.
_MOST_ATTEMPTS = 1 << 20
# Proposals made at once.
_PROPOSALS = 2048
# Random numbers that are drawn in some ten seconds on one core of a CPU.
_AFFORDABLE = 5e7
# Halvings of the logarithm of the standard deviation.
_HALVINGS = 60


@final
@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How balls are sampled.

    Attributes:
        samples: Points drawn from each ball.
        seed: Seed of the draws. Results do not depend on the batch size.
        batch_size: Points in one pass through a network.
        confidence: Of each interval.
    """

    samples: int = 200
    seed: int = 0
    batch_size: int = FORWARD_ONLY
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not isinstance(self.samples, int) or self.samples < 1:
            raise ValueError(f"samples must be a whole number of at least 1, got {self.samples!r}")
        Batches(self.batch_size)  # Checks it.
        check_confidence(self.confidence)


def check_norm(norm: Norm) -> None:
    """Checks that a norm is one whose ball is known here.

    Raises:
        TypeError: it is neither Linf() nor L2().
    """
    if not isinstance(norm, Linf | L2):
        raise TypeError(f"norm must be Linf() or L2(), got {norm!r}")


def check_balls(centres: Tensor, norm: Norm, radii: Sequence[float]) -> list[float]:
    """Returns the radii as a list of floats, after a look at what is to be drawn.

    Raises:
        TypeError: centres, norm or radii have the wrong type.
        ValueError: centres or radii are out of range.
    """
    check_images(centres)
    check_norm(norm)
    grid = as_grid(radii)
    check_epsilons(grid, norm.largest(centres[0].numel()))
    return grid


def affordable_samples(norm: Norm, pixels: int, balls: int, most: int) -> int:
    """Returns how many points of each ball can be drawn in seconds, at least 1: fewer than `most` of large L2 balls.

    Args:
        norm: Linf() or L2(), of whose points about sqrt(pi D) proposals are needed, D numbers each.
        pixels: D, the number of pixels of an image.
        balls: How many there are.
        most: Points of each that are wanted.
    """
    proposals = math.sqrt(math.pi * pixels) if isinstance(norm, L2) else 1.0
    return max(1, min(most, int(_AFFORDABLE / (balls * pixels * proposals))))


def ball_points(centres: Tensor, norm: Norm, radii: Sequence[float], sampling: Sampling) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields batches of points drawn from the balls, all independent: their ball, (B,) int64, and the points, (B, ...).

    Ball n * R + r is that of centre n and radius r. The points do not depend on the batch size.

    Args:
        centres: Images, (N, ...).
        norm: Linf() or L2().
        radii: Of the balls around each centre, (R,), in pixel units.
        sampling: How many points of each ball, from which seed, and at most how many at once, B.
    """
    samples, seed, batch_size = sampling.samples, sampling.seed, sampling.batch_size
    flat = centres.flatten(1).double()
    sizes = torch.tensor(radii, dtype=torch.float64, device=centres.device)
    scales = torch.stack([_standard_deviation(flat, radius) for radius in radii], 1) if isinstance(norm, L2) else None
    total = len(centres) * len(radii) * samples
    for start in range(0, total, batch_size):
        draws = torch.arange(start, min(start + batch_size, total), device=centres.device)
        balls = draws // samples
        image, size = balls // len(radii), balls % len(radii)
        if scales is None:
            points = _box(flat[image], sizes[size, None], ImageNoise.of(seed, draws << 20))
        else:
            points = _round(flat[image], sizes[size], scales[image, size], draws, seed)
        yield balls, points.to(centres.dtype).view(len(draws), *centres.shape[1:])


def _box(centres: Tensor, radius: Tensor, noise: ImageNoise) -> Tensor:
    low, high = (centres - radius).clamp(min=0), (centres + radius).clamp(max=1)
    return low + (high - low) * noise.uniform(centres)


def _round(centres: Tensor, radius: Tensor, scale: Tensor, draws: Tensor, seed: int) -> Tensor:
    """Returns a point of the L2 ball around each of the centres (B, D), all of radius (B,) and proposals' scale (B,)."""
    points = centres.clone()
    left = (radius > 0).nonzero().squeeze(1)
    first = 0
    while len(left):
        if first >= _MOST_ATTEMPTS:
            raise RuntimeError(f"no point of an L2 ball was accepted in {_MOST_ATTEMPTS} proposals")
        # Several proposals of each draw at once; the first accepted counts, so that their number changes nothing.
        tries = max(1, _PROPOSALS // len(left))
        tries = min(tries, _MOST_ATTEMPTS - first)
        row = left.repeat_interleave(tries)
        attempt = torch.arange(first, first + tries, device=draws.device).repeat(len(left))
        noise = ImageNoise.of(seed, (draws[row] << 20) + attempt)
        delta = _truncated_normal(centres[row], scale[row, None], noise.uniform(centres[row]))
        excess = delta.square().sum(1) - radius[row].square()
        chance = noise.uniform(centres[row, :1], draw=1).squeeze(1)
        accepted = (excess <= 0) & (chance.log() <= excess / (2 * scale[row].square()))
        accepted = accepted.view(len(left), tries)
        done = accepted.any(1)
        # The index of the first True: argmax of a tensor of bool names no particular one.
        which = accepted.to(torch.int8).cumsum(1).eq(0).sum(1)[done]
        points[left[done]] += delta.view(len(left), tries, -1)[done.nonzero().squeeze(1), which]
        left = left[~done]
        first += tries
    return points.clamp(0, 1)


def _truncated_normal(centres: Tensor, scale: Tensor, uniform: Tensor) -> Tensor:
    """Returns changes (B, D) that keep centres (B, D) in [0, 1]: normal numbers of scale (B, 1) given that they do."""
    flat = scale.isinf()
    finite = torch.where(flat, 1.0, scale)
    low, high = (torch.special.ndtr(edge / finite) for edge in (-centres, 1 - centres))
    normal = finite * torch.special.ndtri(low + (high - low) * uniform)
    return torch.where(flat, uniform - centres, normal)


def _standard_deviation(centres: Tensor, radius: float) -> Tensor:
    """Returns the scale (N,) at which truncated normal changes of centres (N, D) have mean squared length radius^2.

    Infinite where not even uniform pixels are so far from the centre on average.
    """
    uniform = ((1 - centres) ** 3 + centres**3).sum(1) / 3
    # The mean squared length is at most D scale^2; it nears that of uniform pixels as the scale grows.
    low = torch.full_like(uniform, math.log(max(radius, 1e-12) / math.sqrt(centres.shape[1])))
    high = low + math.log(1e6)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        short = _mean_square(centres, middle.exp()[:, None]) < radius**2
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return torch.where(uniform <= radius**2, math.inf, high.exp())


def _mean_square(centres: Tensor, scale: Tensor) -> Tensor:
    """Returns the mean squared length (N,) of normal changes of scale (N, 1), truncated to keep centres in [0, 1]."""
    low, high = -centres / scale, (1 - centres) / scale
    density = [edge * torch.exp(-edge.square() / 2) / math.sqrt(2 * math.pi) for edge in (low, high)]
    mass = torch.special.ndtr(high) - torch.special.ndtr(low)
    # Of a scale far beyond the pixel range, the difference of nearly equal numbers; it is then that of uniform pixels.
    moment = scale.square() * (1 - (density[1] - density[0]) / mass)
    uniform = ((1 - centres) ** 3 + centres**3) / 3
    return torch.where(scale > 1e3, uniform, moment).sum(1)
