"""Random numbers that belong to an image, not to a batch.

A counter-based generator: each number is a hash of (seed, image, draw, pixel). So a random start is the same however
the images are batched, on whatever device, and whichever images were dropped before: a curve computed twice is the
same curve. `torch.Generator` gives none of the three.

Source: the finaliser of SplitMix64, Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeVar, final

import torch
from torch import Tensor

Bits = TypeVar("Bits", int, Tensor)

# Written as signed 64-bit integers: torch has no unsigned multiplication, and the signed one wraps alike.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _wrap(z: int) -> int:
    """Returns z modulo 2^64, as a signed integer."""
    return (z + (1 << 63)) % (1 << 64) - (1 << 63)


def _step(count: int) -> int:
    """Returns (count + 1) * gamma, wrapped to a signed 64-bit integer: not 0 for count 0, for 0 stays 0 when mixed."""
    return _wrap((count + 1) * _GAMMA)


def _shift(z: Bits, bits: int) -> Bits:
    """Returns z shifted right with zeros coming in, as for an unsigned integer."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _mix_one(z: int) -> int:
    """Returns what `_mix` does, of one number, at a fraction of the cost of a tensor."""
    z = _wrap((z ^ _shift(z, 30)) * _MIX_1)
    z = _wrap((z ^ _shift(z, 27)) * _MIX_2)
    return z ^ _shift(z, 31)


def stream_of(epsilon: float) -> int:
    """Returns the number of an epsilon's own stream: what is drawn at one does not depend on what else is in the grid."""
    return int.from_bytes(struct.pack("<d", epsilon), "little")


@final
@dataclass(frozen=True)
class ImageNoise:
    """A stream of random numbers for each of N images.

    Attributes:
        keys: One key an image, (N,) int64.
    """

    keys: Tensor

    @classmethod
    def of(cls, seed: int, images: Tensor, stream: int = 0) -> ImageNoise:
        """Returns the noise of images with these indices (N,) int64 under a seed; streams are independent."""
        start = _mix_one(_wrap(_mix_one(_step(seed)) + _step(stream)))
        return cls(_mix(images * _GAMMA + start))

    def select(self, index: Tensor) -> ImageNoise:
        """Returns the noise of some of the images."""
        return ImageNoise(self.keys[index])

    def fork(self, number: int) -> ImageNoise:
        """Returns further noise of the same images, independent of this one and of other numbers'."""
        return ImageNoise(_mix(_mix(self.keys ^ _MIX_2) + _step(number)))

    def uniform(self, x: Tensor, draw: int = 0) -> Tensor:
        """Returns uniform numbers in [0, 1), shaped (N, ...) and typed like x; each `draw` gives new ones."""
        pixels = torch.arange(x[0].numel(), device=x.device)
        keys = _mix(self.keys + _step(draw))
        bits = _shift(_mix(keys[:, None] + pixels[None, :] * _GAMMA), 40)
        exact = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
        uniform = (bits.to(exact) * 2.0**-24).to(x.dtype)
        # Types of less precision than the 24 bits would round up to 1.
        return uniform.clamp(max=1 - torch.finfo(x.dtype).eps / 2).view(x.shape)

    def normal(self, x: Tensor, draw: int = 0) -> Tensor:
        """Returns standard normal numbers, shaped and typed like x; each `draw` gives new ones."""
        # Half a step off the grid keeps erfinv finite at both ends; added last, where it is exact.
        centred = (2 * self.uniform(x, draw) - 1) + torch.finfo(x.dtype).eps / 2
        return torch.erfinv(centred) * 2**0.5
