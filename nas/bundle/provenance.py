"""What made a network: the part of a bundle that one needs to redo it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final


@final
@dataclass(frozen=True)
class Provenance:
    """What made a network.

    Attributes:
        config: The run's complete config, as plain data.
        seed: Seed of the final training.
        kept_epoch: The epoch whose weights were kept.
        classes: Names of the classes.
        data: Hashes of the splits, by name.
        environment: Versions and machine.
        norm: Name of the norm of the search.
        epsilon: The epsilon of the search.
    """

    config: Mapping[str, Any]
    seed: int
    kept_epoch: int
    classes: tuple[str, ...]
    data: Mapping[str, str]
    environment: Mapping[str, Any]
    norm: str
    epsilon: float
