"""Profiling a network of one's own: its settings, and the measurement from a name to a profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch

from evaluators import PGD, RobustnessProfile, profile
from evaluators.attacks import Attack, Transfer
from evaluators.attacks.target import frozen
from evaluators.inputs import check_epsilons, check_logits
from nas.bundle.manifest import is_bundle, read_manifest
from nas.config import DataConfig, FinalistsConfig
from nas.config_reader import read_settings
from nas.data import open_test
from nas.device import open_device, set_threads
from nas.errors import ConfigError, NetworkError, first_line
from nas.networks import open_network
from nas.settings import FaultsError, check_numbers, number

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

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
    images: int = number(1000, 1)
    tolerance: float | None = number(None, 1e-6, 0.5)
    corruptions: bool = False
    certify: float | None = number(None, 1e-6, 10)
    transfer: tuple[str, ...] = ()
    seed: int = number(0, 0, 2**31 - 1)
    device: str = "auto"
    threads: int | None = number(None, 1)

    def __post_init__(self) -> None:
        faults = check_numbers(self)
        try:
            FinalistsConfig(attacks=self.attacks, epsilons=self.epsilons)  # The rules for attacks and epsilons are the same.
        except FaultsError as error:
            faults += error.faults
        if faults:
            raise FaultsError(faults)


def parse_profile_config(data: Mapping[str, Any]) -> ProfileConfig:
    """Returns the settings of `hardcell profile` that plain data stand for; what they leave out has its default.

    Raises:
        ConfigError: with every fault that was found.
    """
    return read_settings(ProfileConfig, data, "profile")


def data_of(source: str) -> Any:
    """Returns what the config of a bundle says of its data, as plain data; None where the network is no bundle.

    Raises:
        BundleError: the bundle is damaged.
    """
    folder = Path(source).expanduser()
    return read_manifest(folder)["config"].get("data") if is_bundle(folder) else None


def profile_network(
    source: str, config: ProfileConfig, progress: Callable[[str, float], None] | None = None
) -> RobustnessProfile:
    """Returns the robustness profile of a network on the test split of some data.

    Args:
        source: The network, as `open_network` takes it.
        config: The settings.
        progress: Called with what is being done and the share of the whole that is done, between 0 and 1.

    Raises:
        NetworkError: the network cannot be opened, does not go together with the images, or fails under attack.
        ConfigError: the settings do not go together with the images.
        DataError: the images cannot be used.
        RunError: there is no such device.
    """
    network = open_network(source)
    others = [open_network(other) for other in config.transfer]
    device = open_device(config.device)
    data = replace(config.data, path=config.data.path and str(Path(config.data.path).expanduser()))
    test = open_test(data).first(config.images).to(device)
    set_threads(config.threads, test.x[0, 0].numel())
    _check_epsilons(config, test)
    for name, opened in zip([source, *config.transfer], [network, *others], strict=True):
        check_fit(name, opened.to(device), test, data.path or data.name)
    norm = next(iter(config.attacks.values())).norm
    crafted = {f"transfer_{i}": Transfer(source=other, attack=PGD(norm=norm)) for i, other in enumerate(others, start=1)}
    try:
        return profile(
            network,
            test.x,
            test.y,
            {**config.attacks, **crafted},
            epsilons=config.epsilons,
            tolerance=config.tolerance,
            corruptions=config.corruptions,
            certify=config.certify,
            dataset=data.name,
            seed=config.seed,
            progress=progress,
        )
    except Exception as error:
        # A network of someone else's may raise anything, on any image, and in a backward pass only.
        raise NetworkError(f"{source}: cannot be profiled: {first_line(error)}") from error


def check_fit(source: str, network: nn.Module, test: Split, data: str) -> None:
    """Checks that a network takes images and has a logit for each label.

    Args:
        source: The network's name.
        network: On the images' device.
        test: Images and labels.
        data: The images' name.

    Raises:
        NetworkError: it does not.
    """
    channels, height, width = test.x.shape[1:]
    images = f"the images of {data}, {channels} x {height} x {width} (channels, height, width)"
    with frozen(network):
        logits = _logits(network, test.x[:1], f"{source}: cannot take {images}")
        _logits(network, test.x[:3], f"{source}: takes one image at a time; let it take (N, {channels}, {height}, {width})")
    if not isinstance(logits, torch.Tensor):
        raise NetworkError(
            f"{source}: must return logits, a tensor (N, K), got {type(logits).__name__}; wrap it in a module that returns "
            "the logits alone"
        )
    try:
        check_logits(logits, 1)
    except (TypeError, ValueError) as error:
        raise NetworkError(f"{source}: {error}") from error
    classes, largest = logits.shape[1], int(test.y.max())
    if largest >= classes:
        raise NetworkError(
            f"{source}: has {classes} logits, but the labels of {data} go from 0 to {largest}: it was made for other data"
        )


def _logits(network: nn.Module, x: Tensor, message: str) -> object:
    try:
        with torch.no_grad():
            logits: object = network(x.clone())  # A first layer may work in place.
    except Exception as error:  # What a network raises on images of another shape depends on its layers.
        graph = isinstance(network, torch.fx.GraphModule)
        remedy = "; if it was exported for a fixed number of images, let dynamic_shapes make that torch.export.Dim('batch')"
        raise NetworkError(f"{message}: {first_line(error)}{remedy if graph else ''}") from error
    return logits


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
