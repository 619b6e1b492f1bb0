"""Settings of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from evaluators import FGSM, FMN, NORMS, PGD, Attack, Linf
from nas.config.reader import read_settings
from nas.config.schema import FinalistsConfig
from nas.data.config import DataConfig
from nas.validation import ValidationError, bounded, check_bounds


def default_attacks(norm: str) -> dict[str, Attack]:
    """Returns the default attacks of a comparison in a norm, by name. For l1, they are in linf, as l1 is not supported."""
    ball = Linf() if norm == "l1" else NORMS[norm]()
    return {"fgsm": FGSM(norm=ball), "pgd": PGD(norm=ball), "fmn": FMN(norm=ball, steps=50)}


@final
@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Settings of a comparison.

    Attributes:
        data: Data source; the test split is used.
        attacks: Attacks by name, all in one norm, linf or l2. The radius of an image is the smallest of its radii under the
            attacks. All attacks but ensembles and minimum-norm attacks also craft the images for transfer; if none is left,
            PGD does.
        epsilons: Epsilons of the paired tests and of transfer, in pixel units. Null for the epsilons of the bundles'
            searches, and up to three that are chosen from the networks' gradients at the clean images.
        include: Epsilons to add to the grid of the error curves, in pixel units.
        images: Maximum number of test images.
        seed: Seed of all random numbers.
        device: cpu, cuda, mps, or auto for the best available device.
        threads: CPU threads; null for 1 on small images, and torch's default otherwise.
    """

    data: DataConfig = DataConfig()
    attacks: Mapping[str, Attack] = field(default_factory=lambda: default_attacks("linf"))
    epsilons: tuple[float, ...] | None = None
    include: tuple[float, ...] = ()
    images: int = bounded(1000, 1)
    seed: int = bounded(0, 0, 2**31 - 1)
    device: str = "auto"
    threads: int | None = bounded(None, 1)

    def __post_init__(self) -> None:
        faults = check_bounds(self)
        norms = list(dict.fromkeys(attack.norm.name for attack in self.attacks.values()))
        if len(norms) > 1:
            faults.append(("attacks", f"must share one norm, because their radii are compared; got {' and '.join(norms)}"))
        if "l1" in norms:
            message = "must be in linf or l2, because random points of balls are compared, too; got l1: give --attack pgd"
            faults.append(("attacks", message))
        grids = None if self.epsilons is None else dict.fromkeys(norms[:1], self.epsilons)
        try:
            FinalistsConfig(attacks=self.attacks, epsilons=grids)  # The rules for attacks and epsilons are the same.
        except ValidationError as error:
            faults += [(key.partition(".")[0], message) for key, message in error.faults]
        if faults:
            raise ValidationError(faults)


def parse_compare_config(data: Mapping[str, Any]) -> CompareConfig:
    """Returns the settings of a comparison from plain data; missing keys have their defaults.

    Raises:
        ConfigError: a setting is invalid; the message lists every fault.
    """
    return read_settings(CompareConfig, data, "compare")
