"""Profiling a network of one's own: its settings, and the measurement from a name to a profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from evaluators import PGD, ProfileOptions, RobustnessProfile, Smoothing, profile
from evaluators.attacks import Attack, Transfer
from evaluators.engine.input_checks import check_epsilons
from nas.analysis.fit import check_compatible
from nas.analysis.network_source import NetworkSource, open_source
from nas.config.reader import read_settings
from nas.config.schema import FinalistsConfig
from nas.data import open_test
from nas.data.config import DataConfig
from nas.device import open_device, set_threads
from nas.errors import ConfigError, NetworkError, first_line
from nas.validation import ValidationError, bounded, check_bounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from nas.data import Split


@final
@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Everything that a profile depends on, besides the network.

    Attributes:
        data: The images, of which the test split is used.
        attacks: Attacks by name.
        epsilons: Grid of each norm (linf, l2); null to choose it from the network's first-order radii.
        images: At most this many test images.
        tolerance: Find each radius within this share of itself (0.01 for 1 %) instead of on the grid; null for the grid.
        corruptions: Measure the errors under common corruptions, too.
        certify: Certify L2 radii under noise of this standard deviation, in pixel units, too; null for none.
        transfer: Further networks, named as the network is: PGD crafts images on each that are then tried on the network.
        seed: Seed of all that is drawn.
        device: cpu, cuda, mps, or auto: the best there is.
        threads: CPU threads; null for 1 on small images, and otherwise for as many as torch takes by itself.
    """

    data: DataConfig = DataConfig()
    attacks: Mapping[str, Attack] = field(default_factory=lambda: FinalistsConfig().attacks)
    epsilons: Mapping[str, tuple[float, ...]] | None = None
    images: int = bounded(1000, 1)
    tolerance: float | None = bounded(None, 1e-6, 0.5)
    corruptions: bool = False
    certify: float | None = bounded(None, 1e-6, 10)
    transfer: tuple[str, ...] = ()
    seed: int = bounded(0, 0, 2**31 - 1)
    device: str = "auto"
    threads: int | None = bounded(None, 1)

    def __post_init__(self) -> None:
        faults = check_bounds(self)
        try:
            FinalistsConfig(attacks=self.attacks, epsilons=self.epsilons)  # The rules for attacks and epsilons are the same.
        except ValidationError as error:
            faults += error.faults
        if faults:
            raise ValidationError(faults)


def parse_profile_config(data: Mapping[str, Any]) -> ProfileConfig:
    """Returns the settings of `hardcell profile` that plain data stand for; what they leave out has its default.

    Raises:
        ConfigError: with every fault that was found.
    """
    return read_settings(ProfileConfig, data, "profile")


def profile_network(
    network: str | Path | nn.Module | NetworkSource,
    config: ProfileConfig,
    progress: Callable[[str, float], None] | None = None,
) -> RobustnessProfile:
    """Returns the robustness profile of a network on the test split of some data.

    Args:
        network: The network, as `open_source` takes it.
        config: The settings.
        progress: Called with what is being done and the share of the whole that is done, between 0 and 1.

    Raises:
        NetworkError: the network cannot be opened, does not go together with the images, or fails under attack.
        ConfigError: the settings do not go together with the images.
        DataError: the images cannot be used.
        RunError: there is no such device.
    """
    source = open_source(network)
    others = [open_source(other) for other in config.transfer]
    device = open_device(config.device)
    data = replace(config.data, path=config.data.path and str(Path(config.data.path).expanduser()))
    test = open_test(data).first(config.images).to(device)
    set_threads(config.threads, test.x[0, 0].numel())
    _check_epsilons(config, test)
    for opened in (source, *others):
        check_compatible(opened.name, opened.network.to(device), test, data.path or data.name)
    norm = next(iter(config.attacks.values())).norm
    pgd = PGD(norm=norm)
    transfers = {f"transfer_{i}": Transfer(source=other.network, attack=pgd) for i, other in enumerate(others, start=1)}
    try:
        return profile(
            source.network,
            test.x,
            test.y,
            {**config.attacks, **transfers},
            epsilons=config.epsilons,
            options=ProfileOptions(
                tolerance=config.tolerance,
                corruptions=config.corruptions,
                smoothing=None if config.certify is None else Smoothing(sigma=config.certify),
                dataset=data.name,
            ),
            seed=config.seed,
            progress=progress,
        )
    except Exception as error:
        # A network of someone else's may raise anything, on any image, and in a backward pass only.
        raise NetworkError(f"{source.name}: cannot be profiled: {first_line(error)}") from error


def _check_epsilons(config: ProfileConfig, test: Split) -> None:
    norms = {attack.norm.name: attack.norm for attack in config.attacks.values()}
    faults = []
    for name, grid in (config.epsilons or {}).items():
        if name not in norms:
            faults.append(f"profile: epsilons.{name} has no attack of that norm; there are {', '.join(norms)}")
            continue
        try:
            check_epsilons(sorted(set(grid)), norms[name].largest(test.x[0].numel()))
        except ValueError as error:
            faults.append(f"profile: epsilons.{name}: {error}")
    if faults:
        raise ConfigError(faults)
