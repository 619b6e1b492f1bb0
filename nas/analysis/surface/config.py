"""The settings of the surfaces of an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from evaluators import PGD
from evaluators.attacks import Attack
from evaluators.norms import Linf
from nas.data.config import DataConfig
from nas.validation import bounded, check_bounds, raise_if_invalid


@final
@dataclass(frozen=True, kw_only=True)
class SurfaceConfig:
    """Everything that the surfaces of an image depend on, besides the network.

    Attributes:
        data: The images, of which the test split is used.
        image: Number of the image in the test split, from 0.
        attack: Finds the adversarial directions.
        epsilon: Size of its ball, in pixel units.
        extent: Pictures are this many times as wide as what spans them, and lines this many times as long as the longest
            perturbation.
        points: Points along each side of a surface.
        others: Two further test images, for the plane through all three; null for none.
        seed: Seed of all that is drawn.
        device: cpu, cuda, mps, or auto: the best there is.
        threads: CPU threads; null for 1 on small images, and otherwise for as many as torch takes by itself.
    """

    data: DataConfig = DataConfig()
    image: int = bounded(0, 0)
    attack: Attack = field(default_factory=PGD)
    epsilon: float = bounded(8 / 255)
    extent: float = bounded(2.0, 1, 100)
    points: int = bounded(61, 2, 1001)
    others: tuple[int, int] | None = None
    seed: int = bounded(0, 0, 2**31 - 2)
    device: str = "auto"
    threads: int | None = bounded(None, 1)

    def __post_init__(self) -> None:
        faults = check_bounds(self)
        largest = 1.0 if isinstance(self.attack.norm, Linf) else 1e6
        if not 0 < self.epsilon <= largest:
            faults.append(("epsilon", f"must be above 0, in pixel units (8/255, not 8), got {self.epsilon:g}"))
        if self.others is not None and len({self.image, *self.others}) < 3:
            first, second = self.others
            faults.append(("others", f"must be two further images, got {first} and {second} beside image {self.image}"))
        raise_if_invalid(faults)
