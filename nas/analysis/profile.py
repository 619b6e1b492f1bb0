"""Robustness profile of any network: settings and measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

from evaluators import PGD, ProfileOptions, RobustnessProfile, Smoothing, profile
from evaluators.attacks import Attack, Transfer
from evaluators.engine.input_checks import check_epsilons
from evaluators.profiles.stored_parts import StoredPartsError
from evaluators.profiles.union import check_union
from nas.analysis.fit import check_compatible
from nas.analysis.network_source import bundle_data, open_source
from nas.analysis.networks.options import NetworkOptions
from nas.analysis.score_attacks import suited_attacks
from nas.analysis.several_networks import options_of_each
from nas.config.reader import read_settings
from nas.config.schema import FinalistsConfig
from nas.data import open_test
from nas.data.config import DataConfig
from nas.device import open_device, set_threads
from nas.errors import ConfigError, NetworkError, RunError, first_line
from nas.validation import ValidationError, bounded, check_bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from nas.analysis.network_source import Openable
    from nas.data import Split


@final
@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Settings of a profile.

    Attributes:
        data: Data source; the test split is used.
        attacks: Attacks by name.
        epsilons: Grid of each norm (linf, l2, l1), in pixel units; null to choose it from the network's first-order radii,
            which are estimated from gradients at the clean images.
        include: Epsilons to add to the grids, in pixel units, by norm.
        union: Epsilon of each of several norms, in pixel units, such as {linf: 8/255, l2: 0.5}. The profile then holds the
            adversarial error over the union of their balls. Null to leave it out.
        images: Maximum number of test images.
        tolerance: Relative precision to which each radius is bisected, such as 0.01 for 1 %; null to round radii up to the
            grid.
        corruptions: Also measure the errors under common corruptions.
        certify: Also certify L2 radii by randomized smoothing. The value is the standard deviation of the noise, in pixel
            units; null for none.
        transfer: Further networks, as for `open_source`. PGD, in the norm of the first attack, crafts adversarial images on
            each of them. The profiled network is tested on these images.
        seed: Seed of all random numbers.
        device: cpu, cuda, mps, or auto for the best available device.
        threads: CPU threads; null for 1 on small images, and torch's default otherwise.
    """

    data: DataConfig = DataConfig()
    attacks: Mapping[str, Attack] = field(default_factory=lambda: FinalistsConfig().attacks)
    epsilons: Mapping[str, tuple[float, ...]] | None = None
    include: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    union: Mapping[str, float] | None = None
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
        try:
            check_union(self.union)
        except ValueError as error:
            key, _, message = str(error).partition(" ")
            faults.append((key, message))
        if faults:
            raise ValidationError(faults)


def parse_profile_config(data: Mapping[str, Any]) -> ProfileConfig:
    """Returns the settings of a profile from plain data; missing keys have their defaults.

    Raises:
        ConfigError: a setting is invalid; the message lists every fault.
    """
    return read_settings(ProfileConfig, data, "profile")


def profile_network(
    network: Openable,
    config: ProfileConfig | None = None,
    progress: Callable[[str, float], None] | None = None,
    *,
    options: NetworkOptions | Sequence[NetworkOptions] = NetworkOptions(),
    trust: bool = False,
    resume: Path | None = None,
) -> RobustnessProfile:
    """Returns the robustness profile of a network on test images.

    Args:
        network: Path or name of the network, an `nn.Module` or a `NetworkSource`, as for `open_source`. The network maps
            images (N, C, H, W) with pixels in [0, 1] to logits (N, K). A module is set to evaluation mode and moved to
            the device.
        config: Settings; None for the data of a bundle and the defaults. If the network has no gradients, `score_attacks`
            replace the default attacks.
        progress: Called with the current stage and the completed share of all work, in [0, 1].
        options: Options with which the network and those of `config.transfer` are opened: one for all, or one for each, in
            this order. See `options_of_each`.
        trust: Run code that comes with a bundle or a .pt2 file.
        resume: Folder in which the radii of each part of the images are stored, as for `evaluators.ProfileOptions`. An
            interrupted profile resumes from them.

    Raises:
        NetworkError: the network cannot be opened, is not compatible with the images, or fails under attack.
        BundleError: the bundle is damaged.
        ConfigError: an epsilon is too large for the images, a grid has a norm that no attack has, an attack needs
            gradients that the network does not have, or the data cannot be taken from the bundle and there is no config.
        DataError: the images cannot be opened.
        RunError: the device does not exist, the folder `resume` holds parts of another profile, or a file cannot be read or
            written.

    Example:
        >>> import nas
        >>> from evaluators import FGSM
        >>> bundle = nas.read_run("runs/digits").bundles[0]
        >>> profile = nas.profile(bundle.folder, nas.ProfileConfig(attacks={"fgsm": FGSM()}, images=100))
        >>> sorted(profile.record["attacks"])
        ['fgsm']
    """
    networks = [network, *(config.transfer if config is not None else ())]
    source, *others = (
        open_source(one, options=of_one, trust=trust)
        for one, of_one in zip(networks, options_of_each(networks, options), strict=True)
    )
    if config is None:
        config = parse_profile_config({"data": bundle_data([source])})
    config = replace(config, attacks=suited_attacks([source], config.attacks, ProfileConfig().attacks, others))
    device = open_device(config.device)
    test = open_test(config.data).first(config.images).to(device)
    set_threads(config.threads, test.x[0, 0].numel())
    _check_epsilons(config, test)
    for opened in (source, *others):
        check_compatible(opened.name, opened.network.to(device), test, config.data.path or config.data.name)
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
                include=config.include,
                union=config.union,
                tolerance=config.tolerance,
                corruptions=config.corruptions,
                smoothing=None if config.certify is None else Smoothing(sigma=config.certify),
                dataset=config.data.name,
                resume=resume,
            ),
            seed=config.seed,
            progress=progress,
        )
    except StoredPartsError as error:
        raise RunError(str(error)) from error
    except Exception as error:
        # A custom network may raise any error on any image, even in the backward pass only.
        raise NetworkError(f"{source.name}: cannot be profiled: {first_line(error)}") from error


def _check_epsilons(config: ProfileConfig, test: Split) -> None:
    norms = {attack.norm.name: attack.norm for attack in config.attacks.values()}
    faults = []
    grids = [("epsilons", *entry) for entry in (config.epsilons or {}).items()]
    grids += [("include", *entry) for entry in config.include.items()]
    grids += [("union", norm, (epsilon,)) for norm, epsilon in (config.union or {}).items()]
    for key, name, grid in grids:
        if name not in norms:
            faults.append(f"profile: {key}.{name} has no attack of that norm; the attacks use {', '.join(norms)}")
            continue
        try:
            check_epsilons(sorted(set(grid)), norms[name].largest(test.x[0].numel()))
        except ValueError as error:
            faults.append(f"profile: {key}.{name}: {error}")
    if faults:
        raise ConfigError(faults)
