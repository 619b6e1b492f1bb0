"""Settings of the response surfaces of an image."""

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
    """Settings of the response surfaces of an image.

    Attributes:
        data: Data source; the test split is used.
        image: Number of the image in the test split, from 0.
        attack: Attack that finds the adversarial directions.
        epsilon: Radius of the attack's ball, in pixel units.
        extent: Width of each drawn plane, in multiples of the longer side of the box around the images that span the plane.
            Also the length of each line, in multiples of the longest perturbation.
        points: Points along each side of a plane.
        others: Numbers of two further test images, for the plane through all three; null for none.
        seed: Seed of all random numbers.
        device: cpu, cuda, mps, or auto for the best available device.
        threads: CPU threads; null for 1 on small images, and torch's default otherwise.
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
            faults.append(
                ("epsilon", f"must be above 0 and at most {largest:g}, in pixel units (8/255, not 8), got {self.epsilon:g}")
            )
        if self.others is not None and len({self.image, *self.others}) < 3:
            first, second = self.others
            faults.append(
                ("others", f"must be two different images other than image {self.image}, got {first} and {second}")
            )
        raise_if_invalid(faults)
