"""What is compared, and how: the networks' names, the images of the bundles among them, and the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from evaluators import FGSM, FMN, NORMS, PGD, Attack
from nas.config.reader import read_settings
from nas.config.schema import FinalistsConfig
from nas.data.config import DataConfig
from nas.validation import ValidationError, bounded, check_bounds


def default_attacks(norm: str) -> dict[str, Attack]:
    """Returns the attacks by which networks are compared where none are named, in the norm of that name."""
    ball = NORMS[norm]()
    return {"fgsm": FGSM(norm=ball), "pgd": PGD(norm=ball), "fmn": FMN(norm=ball, steps=50)}


@final
@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Everything that a comparison depends on, besides the networks.

    Attributes:
        data: The images, of which the test split is used.
        attacks: Attacks by name, of one norm; each image's worst case counts. Those that run to their end also craft the
            images of the transfer matrices, and PGD does where none of them does.
        epsilons: Those of the tests at one epsilon and of transfer; null to take those of the bundles' searches, and
            others that suit the networks.
        images: At most this many test images.
        seed: Seed of all that is drawn.
        device: cpu, cuda, mps, or auto: the best there is.
        threads: CPU threads; null for 1 on small images, and otherwise for as many as torch takes by itself.
    """

    data: DataConfig = DataConfig()
    attacks: Mapping[str, Attack] = field(default_factory=lambda: default_attacks("linf"))
    epsilons: tuple[float, ...] | None = None
    images: int = bounded(1000, 1)
    seed: int = bounded(0, 0, 2**31 - 1)
    device: str = "auto"
    threads: int | None = bounded(None, 1)

    def __post_init__(self) -> None:
        faults = check_bounds(self)
        norms = list(dict.fromkeys(attack.norm.name for attack in self.attacks.values()))
        if len(norms) > 1:
            faults.append(("attacks", f"must share one norm, for their radii are compared; got {' and '.join(norms)}"))
        grids = None if self.epsilons is None else dict.fromkeys(norms[:1], self.epsilons)
        try:
            FinalistsConfig(attacks=self.attacks, epsilons=grids)  # The rules for attacks and epsilons are the same.
        except ValidationError as error:
            faults += [(key.partition(".")[0], message) for key, message in error.faults]
        if faults:
            raise ValidationError(faults)


def parse_compare_config(data: Mapping[str, Any]) -> CompareConfig:
    """Returns the settings of `hardcell compare` that plain data stand for; what they leave out has its default.

    Raises:
        ConfigError: with every fault that was found.
    """
    return read_settings(CompareConfig, data, "compare")
