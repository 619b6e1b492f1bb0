"""Uniform samples of the part of a ball that lies in the pixel range.

Samples of the whole ball, clamped to the pixel range, would not be uniform. Many pixels of images are 0 or 1, so many
samples would lie on the edges of the range.

- Linf: the part of the ball in the range is a box. Each pixel is sampled separately.
- L2: rejection sampling. The part of the ball in the range is tiny in many dimensions, so proposals are not drawn from the
  ball. Proposals are normal perturbations, truncated to the pixel range. Their variance is chosen so that their mean squared
  length is radius^2. A proposal delta in the ball is accepted with probability exp((|delta|^2 - radius^2) / (2 variance)).
  This cancels the normal density, so that accepted proposals are exactly uniform. The chosen variance maximises the
  acceptance rate, which is about 1 / sqrt(pi D) for D pixels and any centre.
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

# Largest number of proposals per sample. Each proposal has its own noise index, so as many indices are reserved per sample.
# A few thousand proposals were enough for all balls tried.
_MOST_ATTEMPTS = 1 << 20
# Number of proposals drawn at once.
_PROPOSALS = 2048
# Number of random numbers that one CPU core draws in about ten seconds.
_AFFORDABLE = 5e7
# Number of bisection steps for the logarithm of the standard deviation.
_HALVINGS = 60


@final
@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings for sampling balls.

    Attributes:
        samples: Number of points per ball, at least 1.
        seed: Seed of the points. Results do not depend on the batch size.
        batch_size: Points in one pass through a network.
        confidence: Confidence level of each interval, in (0, 1).

    Raises:
        ValueError: a setting is out of range.
    """

    samples: int = 200
    seed: int = 0
    batch_size: int = FORWARD_ONLY
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not isinstance(self.samples, int) or self.samples < 1:
            raise ValueError(f"samples must be a whole number of at least 1, got {self.samples!r}")
        Batches(self.batch_size)  # Checks that it is at least 1.
        check_confidence(self.confidence)


def check_norm(norm: Norm) -> None:
    """Checks that a norm is Linf() or L2().

    Raises:
        TypeError: norm is neither Linf() nor L2().
    """
    if not isinstance(norm, Linf | L2):
        raise TypeError(f"norm must be Linf() or L2(), got {norm!r}")


def check_balls(centres: Tensor, norm: Norm, radii: Sequence[float]) -> list[float]:
    """Checks the inputs of a sampling and returns the radii as a list of floats.

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
    """Returns the number of points per ball that can be drawn in about ten seconds, from 1 to `most`.

    Args:
        norm: Linf() or L2(). A point of an L2 ball needs about sqrt(pi D) proposals of D numbers each.
        pixels: Number of pixels of an image, D.
        balls: Number of balls.
        most: Largest number of points per ball.
    """
    proposals = math.sqrt(math.pi * pixels) if isinstance(norm, L2) else 1.0
    return max(1, min(most, int(_AFFORDABLE / (balls * pixels * proposals))))


def ball_points(centres: Tensor, norm: Norm, radii: Sequence[float], sampling: Sampling) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields batches of independent points of the balls: the index of their ball, (B,) int64, and the points, (B, ...).

    Ball n * R + r has centre n and radius r. The points do not depend on the batch size.

    Args:
        centres: Images, (N, ...), pixels in [0, 1].
        norm: Linf() or L2().
        radii: Radii of the balls around each centre, (R,), in pixel units.
        sampling: Number of points per ball, seed, and largest batch size B.
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
    """Returns one point of each L2 ball, (B, D).

    Args:
        centres: Centres of the balls, (B, D).
        radius: Radius of each ball, (B,).
        scale: Standard deviation of the normal proposals for each ball, (B,); infinite for uniform proposals.
        draws: Noise index of each point, (B,) int64.
        seed: Seed of the noise.
    """
    points = centres.clone()
    left = (radius > 0).nonzero().squeeze(1)
    first = 0
    while len(left):
        if first >= _MOST_ATTEMPTS:
            raise RuntimeError(f"no point of an L2 ball was accepted in {_MOST_ATTEMPTS} proposals")
        # Several proposals per point at once. The first accepted one counts, so their number does not change the result.
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
        # Index of the first True. argmax of a bool tensor may return any True.
        which = accepted.to(torch.int8).cumsum(1).eq(0).sum(1)[done]
        points[left[done]] += delta.view(len(left), tries, -1)[done.nonzero().squeeze(1), which]
        left = left[~done]
        first += tries
    return points.clamp(0, 1)


def _truncated_normal(centres: Tensor, scale: Tensor, uniform: Tensor) -> Tensor:
    """Returns normal perturbations of centres (B, D), shaped (B, D), truncated so that all pixels stay in [0, 1].

    Args:
        centres: Centres, (B, D).
        scale: Standard deviation, (B, 1). Where it is infinite, the perturbed pixels are uniform in [0, 1].
        uniform: Uniform random numbers in [0, 1), (B, D), which are converted to normal ones.
    """
    flat = scale.isinf()
    finite = torch.where(flat, 1.0, scale)
    low, high = (torch.special.ndtr(edge / finite) for edge in (-centres, 1 - centres))
    normal = finite * torch.special.ndtri(low + (high - low) * uniform)
    return torch.where(flat, uniform - centres, normal)


def _standard_deviation(centres: Tensor, radius: float) -> Tensor:
    """Returns the scale (N,) at which truncated normal perturbations of centres (N, D) have mean squared length radius^2.

    The scale is infinite where the mean squared length is at most radius^2 even for uniform pixels.
    """
    uniform = ((1 - centres) ** 3 + centres**3).sum(1) / 3
    # The mean squared length is at most D scale^2. As the scale grows, it approaches that of uniform pixels.
    low = torch.full_like(uniform, math.log(max(radius, 1e-12) / math.sqrt(centres.shape[1])))
    high = low + math.log(1e6)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        short = _mean_square(centres, middle.exp()[:, None]) < radius**2
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return torch.where(uniform <= radius**2, math.inf, high.exp())


def _mean_square(centres: Tensor, scale: Tensor) -> Tensor:
    """Returns the mean squared length (N,) of normal perturbations of scale (N, 1), truncated to keep centres in [0, 1]."""
    low, high = -centres / scale, (1 - centres) / scale
    density = [edge * torch.exp(-edge.square() / 2) / math.sqrt(2 * math.pi) for edge in (low, high)]
    mass = torch.special.ndtr(high) - torch.special.ndtr(low)
    # For large scales this is a difference of nearly equal numbers. The moment of uniform pixels then replaces it.
    moment = scale.square() * (1 - (density[1] - density[0]) / mass)
    uniform = ((1 - centres) ** 3 + centres**3) / 3
    return torch.where(scale > 1e3, uniform, moment).sum(1)
