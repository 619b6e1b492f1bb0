"""Per-image, counter-based random numbers.

Each number is a hash of (seed, stream, image, draw, pixel). Streams are independent random numbers under one seed, such as
one stream for each epsilon. A draw is one set of numbers within a stream, with one number for each pixel.

A random start therefore does not depend on the batch size, on the device, or on images dropped before, and error curves are
reproducible. `torch.Generator` has none of these properties.

Source: the finaliser of SplitMix64, Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeVar, final

import torch
from torch import Tensor

Bits = TypeVar("Bits", int, Tensor)

# As signed 64-bit integers: torch has no unsigned multiplication, and signed multiplication wraps to the same bits.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _wrap(z: int) -> int:
    """Returns z modulo 2^64, as a signed integer."""
    return (z + (1 << 63)) % (1 << 64) - (1 << 63)


def _step(count: int) -> int:
    """Returns (count + 1) * gamma, wrapped to a signed 64-bit integer.

    Count 0 must not give 0, because `_mix` maps 0 to 0.
    """
    return _wrap((count + 1) * _GAMMA)


def _shift(z: Bits, bits: int) -> Bits:
    """Returns z shifted right and filled with zeros, as for an unsigned integer."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _mix_one(z: int) -> int:
    """Returns `_mix` of one Python integer, at a fraction of the cost of a tensor."""
    z = _wrap((z ^ _shift(z, 30)) * _MIX_1)
    z = _wrap((z ^ _shift(z, 27)) * _MIX_2)
    return z ^ _shift(z, 31)


def stream_of(epsilon: float) -> int:
    """Returns the stream number of an epsilon. Random numbers at one epsilon do not depend on the rest of the grid."""
    return int.from_bytes(struct.pack("<d", epsilon), "little")


@final
@dataclass(frozen=True)
class ImageNoise:
    """One stream of random numbers for each of N images.

    Attributes:
        keys: One key per image, (N,) int64.
    """

    keys: Tensor

    @classmethod
    def of(cls, seed: int, images: Tensor, stream: int = 0) -> ImageNoise:
        """Returns the noise of the images with indices `images`, (N,) int64, in one stream under a seed."""
        start = _mix_one(_wrap(_mix_one(_step(seed)) + _step(stream)))
        return cls(_mix(images * _GAMMA + start))

    def select(self, index: Tensor) -> ImageNoise:
        """Returns the noise of the images at the positions `index`."""
        return ImageNoise(self.keys[index])

    def fork(self, number: int) -> ImageNoise:
        """Returns new noise of the same images, independent of this noise and of forks with other numbers."""
        return ImageNoise(_mix(_mix(self.keys ^ _MIX_2) + _step(number)))

    def uniform(self, x: Tensor, draw: int = 0) -> Tensor:
        """Returns uniform random numbers in [0, 1), shape and dtype of x (N, ...). Each `draw` gives new numbers."""
        pixels = torch.arange(x[0].numel(), device=x.device)
        keys = _mix(self.keys + _step(draw))
        bits = _shift(_mix(keys[:, None] + pixels[None, :] * _GAMMA), 40)
        exact = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
        uniform = (bits.to(exact) * 2.0**-24).to(x.dtype)
        # In dtypes with less than 24 bits of precision, the largest numbers would be rounded up to 1.
        return uniform.clamp(max=1 - torch.finfo(x.dtype).eps / 2).view(x.shape)

    def normal(self, x: Tensor, draw: int = 0) -> Tensor:
        """Returns standard normal random numbers, with the shape and dtype of x. Each `draw` gives new numbers."""
        # Without this small shift, erfinv would be infinite at -1. The shift is added last because the subtraction is exact.
        centred = (2 * self.uniform(x, draw) - 1) + torch.finfo(x.dtype).eps / 2
        return torch.erfinv(centred) * 2**0.5
