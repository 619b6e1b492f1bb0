"""Derives the seeds of all parts of a run from one seed."""

from __future__ import annotations

import zlib

import numpy as np


def seed_of(seed: int, purpose: str, number: int = 0) -> int:
    """Returns a seed in [0, 2**31 - 1]. It is the same for equal arguments and statistically independent otherwise."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), number])
    return int(sequence.generate_state(1)[0] >> 1)
