"""Seeds for every purpose of a run, drawn from the run's one seed."""

from __future__ import annotations

import zlib

import numpy as np


def seed_of(seed: int, purpose: str, number: int = 0) -> int:
    """Returns a seed, 0 to 2**31 - 1, for one purpose and number: the same for the same three, else unrelated."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), number])
    return int(sequence.generate_state(1)[0] >> 1)
