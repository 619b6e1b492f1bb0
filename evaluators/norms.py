"""Norms of perturbations. A norm sets the shape of the ball in which an attack searches."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import torch

from evaluators.engine.l1_steps import greedy_radius, shrink, sparse_step

if TYPE_CHECKING:
    from torch import Tensor

    from evaluators.engine.noise import ImageNoise

# A gradient step in L1 changes this share of the pixels, but at least three pixels. The share is that of SLIDE, the attack
# of Tramèr and Boneh.
STEP_SHARE, FEWEST_PIXELS = 0.01, 3


class Norm(ABC):
    """Base class of norms of perturbations. Tensors have the shape (N, ...), and the norm is taken per image.

    Attributes:
        name: Name in YAML and in profiles.
    """

    name: ClassVar[str]

    @abstractmethod
    def size(self, delta: Tensor) -> Tensor:
        """Returns the norm of each perturbation, (N,)."""

    @abstractmethod
    def dual(self, gradient: Tensor) -> Tensor:
        """Returns the dual norm of each gradient, (N,): the largest increase of a linear function per unit of size."""

    @abstractmethod
    def linear_radius(self, x: Tensor, gradient: Tensor, rise: Tensor) -> Tensor:
        """Returns the size of the smallest perturbation of x that raises a linear function by `rise` (N,), (N,).

        The function has the given gradient, (N, ...). The radius is infinite if the function cannot rise that far. In Linf
        and L2, it is `rise` over the dual norm, and the pixel range is ignored. In L1, the pixels stay in [0, 1].
        """

    @abstractmethod
    def ascent(self, gradient: Tensor) -> Tensor:
        """Returns the direction of steepest ascent for each gradient, (N, ...), of size 1."""

    @abstractmethod
    def step(self, points: Tensor, gradient: Tensor) -> Tensor:
        """Returns the direction of one gradient step from points (N, ...), of size at most 1, same shape.

        In Linf and L2, this is the direction of steepest ascent. In L1, that direction would change a single pixel.
        """

    @abstractmethod
    def project(self, delta: Tensor, epsilon: Tensor) -> Tensor:
        """Returns the nearest perturbations of size at most epsilon, (N, ...). Epsilon broadcasts against delta."""

    @abstractmethod
    def inside(self, x: Tensor, delta: Tensor, epsilon: Tensor) -> Tensor:
        """Returns x + delta, moved into the ball of radius epsilon around x and into the pixel range [0, 1], (N, ...).

        In L1, the result is the nearest point of the intersection of the two. In Linf and L2, delta is projected onto the
        ball and the result is clipped. In Linf, this is the nearest point, too.
        """

    @abstractmethod
    def sample(self, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns perturbations drawn uniformly from the ball of radius epsilon, shaped like x."""

    @abstractmethod
    def largest(self, pixels: int) -> float:
        """Returns the size of the largest perturbation that keeps `pixels` pixels within [0, 1]."""


def check_norm(norm: Norm) -> None:
    """Checks that a norm is a `Norm`, and not its name or its class.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(norm, Norm):
        raise TypeError(f"norm must be an instance of evaluators.Norm, such as Linf() or L2(), got {norm!r}")


def broadcast_per_image(sizes: Tensor, like: Tensor) -> Tensor:
    """Returns sizes (N,) reshaped to (N, 1, ...), to broadcast against `like` (N, ...)."""
    return sizes.view(-1, *[1] * (like.ndim - 1))


def _ratio(rise: Tensor, slope: Tensor) -> Tensor:
    """Returns rise / slope, (N,); infinite where the slope is 0."""
    return torch.where(slope > 0, rise / slope, math.inf)


@final
@dataclass(frozen=True)
class Linf(Norm):
    """The Linf norm: the largest absolute change of a pixel."""

    name: ClassVar[str] = "linf"

    def size(self, delta: Tensor) -> Tensor:
        """Returns max |delta|, (N,)."""
        return delta.flatten(1).abs().amax(1)

    def dual(self, gradient: Tensor) -> Tensor:
        """Returns the L1 norm, (N,)."""
        return gradient.flatten(1).abs().sum(1)

    def linear_radius(self, x: Tensor, gradient: Tensor, rise: Tensor) -> Tensor:
        """Returns the rise over the L1 norm of the gradient, (N,)."""
        return _ratio(rise, self.dual(gradient))

    def ascent(self, gradient: Tensor) -> Tensor:
        """Returns the sign of the gradient."""
        return gradient.sign()

    def step(self, points: Tensor, gradient: Tensor) -> Tensor:
        """Returns the sign of the gradient."""
        return self.ascent(gradient)

    def project(self, delta: Tensor, epsilon: Tensor) -> Tensor:
        """Returns delta clipped to [-epsilon, epsilon]."""
        return delta.clamp(min=-epsilon, max=epsilon)

    def inside(self, x: Tensor, delta: Tensor, epsilon: Tensor) -> Tensor:
        """Returns x + delta, with delta clipped to [-epsilon, epsilon] and the sum to [0, 1]."""
        return (x + self.project(delta, epsilon)).clamp(0, 1)

    def sample(self, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns independent uniform changes of every pixel, shaped like x."""
        return (2 * noise.uniform(x) - 1) * epsilon

    def largest(self, pixels: int) -> float:
        """Returns 1 for any number of pixels."""
        return 1.0


@final
@dataclass(frozen=True)
class L2(Norm):
    """The L2 norm: the Euclidean length of the perturbation."""

    name: ClassVar[str] = "l2"

    def size(self, delta: Tensor) -> Tensor:
        """Returns the Euclidean length, (N,)."""
        length: Tensor = delta.flatten(1).norm(dim=1)
        return length

    def dual(self, gradient: Tensor) -> Tensor:
        """Returns the Euclidean length, (N,): the L2 norm is its own dual."""
        return self.size(gradient)

    def linear_radius(self, x: Tensor, gradient: Tensor, rise: Tensor) -> Tensor:
        """Returns the rise over the length of the gradient, (N,)."""
        return _ratio(rise, self.dual(gradient))

    def ascent(self, gradient: Tensor) -> Tensor:
        """Returns the gradient scaled to length 1. A zero gradient stays zero."""
        # First scaled to a largest entry of 1: squares of small gradients would underflow, those of large ones overflow.
        largest = broadcast_per_image(gradient.flatten(1).abs().amax(1), gradient)
        scaled = gradient / torch.where(largest > 0, largest, 1)
        direction: Tensor = scaled / broadcast_per_image(self.size(scaled), scaled).clamp(min=1)
        return direction

    def step(self, points: Tensor, gradient: Tensor) -> Tensor:
        """Returns the gradient scaled to length 1."""
        return self.ascent(gradient)

    def project(self, delta: Tensor, epsilon: Tensor) -> Tensor:
        """Returns delta, scaled to length epsilon where it is longer."""
        length = broadcast_per_image(self.size(delta), delta)
        shortened: Tensor = delta * (epsilon / length.clamp(min=1e-30)).clamp(max=1)
        return shortened

    def inside(self, x: Tensor, delta: Tensor, epsilon: Tensor) -> Tensor:
        """Returns x + delta, with delta scaled to length epsilon where it is longer, and the sum clipped to [0, 1]."""
        return (x + self.project(delta, epsilon)).clamp(0, 1)

    def sample(self, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns a uniform direction times a radius with density proportional to r^(d-1)."""
        pixels = x[0].numel()
        radius = noise.uniform(x.flatten(1)[:, :1], draw=1) ** (1 / pixels)
        return self.ascent(noise.normal(x)) * broadcast_per_image(radius.flatten(), x) * epsilon

    def largest(self, pixels: int) -> float:
        """Returns the length of the diagonal of the unit cube, the square root of the number of pixels."""
        return math.sqrt(pixels)


@final
@dataclass(frozen=True)
class L1(Norm):
    """The L1 norm: the sum of the absolute changes of all pixels.

    The ball is far larger than the pixel range along each axis. So the pixel range matters more than in the other norms:
    `inside` projects onto the intersection of the two, and `step` leaves out pixels that cannot move further.

    Sources: Croce and Hein, "Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers", ICML 2021,
    arXiv:2103.01208, for the projection. Tramèr and Boneh, "Adversarial Training and Robustness for Multiple Perturbations",
    NeurIPS 2019, arXiv:1904.13000, for the step.
    """

    name: ClassVar[str] = "l1"

    def size(self, delta: Tensor) -> Tensor:
        """Returns the sum of |delta|, (N,)."""
        return delta.flatten(1).abs().sum(1)

    def dual(self, gradient: Tensor) -> Tensor:
        """Returns the Linf norm, (N,)."""
        return gradient.flatten(1).abs().amax(1)

    def linear_radius(self, x: Tensor, gradient: Tensor, rise: Tensor) -> Tensor:
        """Returns the size of the perturbation that moves the pixels with the largest gradients as far as they can, (N,)."""
        return greedy_radius(x, gradient, rise)

    def ascent(self, gradient: Tensor) -> Tensor:
        """Returns the sign of the largest entry of the gradient, and 0 elsewhere. Of equal entries, the first one counts."""
        flat = gradient.flatten(1)
        largest = flat.abs().argmax(1, keepdim=True)
        direction = torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest).sign())
        return direction.view_as(gradient)

    def step(self, points: Tensor, gradient: Tensor) -> Tensor:
        """Returns equal changes of the pixels with the largest gradients, a hundredth of all pixels, of size 1 in all.

        Pixels at the border of the pixel range that would leave it are not chosen. On small images, three pixels change.
        """
        count = max(round(STEP_SHARE * points[0].numel()), FEWEST_PIXELS)
        return sparse_step(points, gradient, torch.full((len(points),), count, device=points.device))

    def project(self, delta: Tensor, epsilon: Tensor) -> Tensor:
        """Returns the nearest perturbations of L1 size at most epsilon: each pixel is moved towards 0 by the same amount.

        Epsilon holds one number per image, (N, 1, ...), or is one number.
        """
        return shrink(delta, torch.full_like(delta, math.inf), epsilon)

    def inside(self, x: Tensor, delta: Tensor, epsilon: Tensor) -> Tensor:
        """Returns the point nearest to x + delta of the intersection of the ball around x with the pixel range, (N, ...)."""
        room = torch.where(delta > 0, 1 - x, x)
        return (x + shrink(delta, room, epsilon)).clamp(0, 1)

    def sample(self, x: Tensor, epsilon: Tensor, noise: ImageNoise) -> Tensor:
        """Returns Laplace noise, scaled to a radius with density proportional to r^(d-1)."""
        centred = 2 * noise.uniform(x) - 1
        tiny = torch.finfo(x.dtype).tiny
        drawn = -(1 - centred.abs()).clamp(min=tiny).log() * centred.sign()
        pixels = x[0].numel()
        radius = noise.uniform(x.flatten(1)[:, :1], draw=1) ** (1 / pixels)
        length = broadcast_per_image(self.size(drawn).clamp(min=tiny), x)
        return drawn / length * broadcast_per_image(radius.flatten(), x) * epsilon

    def largest(self, pixels: int) -> float:
        """Returns the number of pixels."""
        return float(pixels)


NORMS: dict[str, type[Norm]] = {norm.name: norm for norm in (Linf, L2, L1)}
