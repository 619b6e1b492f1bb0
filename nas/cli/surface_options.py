"""Parses the options of `hardcell surface`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict, final

from nas.analysis.surface.config import SurfaceConfig
from nas.cli.profile_options import data_setting, parse_attacks, parse_option
from nas.config.reader import read_settings
from nas.errors import ConfigError

if TYPE_CHECKING:
    from nas.analysis.network_source import NetworkSource


@final
class SurfaceArguments(TypedDict):
    """Unparsed options of `hardcell surface` that become settings of `SurfaceConfig`; None for an option that is missing.

    Attributes:
        image: `SurfaceConfig.image`, always given.
        data: Name of a data source, a path, or YAML.
        attack: Name of an attack, or YAML.
        epsilon: Number or fraction such as 8/255, in pixel units.
        extent: `SurfaceConfig.extent`.
        points: `SurfaceConfig.points`.
        others: `SurfaceConfig.others`.
        seed: `SurfaceConfig.seed`.
        device: `SurfaceConfig.device`.
    """

    image: int
    data: str | None
    attack: str | None
    epsilon: str | None
    extent: float | None
    points: int | None
    others: tuple[int, int] | None
    seed: int | None
    device: str | None


def surface_config(source: NetworkSource, options: SurfaceArguments) -> SurfaceConfig:
    """Returns the settings of `hardcell surface` from its options.

    For a bundle, data, norm and epsilon default to those of its search.

    Raises:
        ConfigError: an option is missing or invalid.
    """
    norm, epsilon = source.norm or "linf", options["epsilon"]
    if epsilon is None and source.epsilon is None:
        raise ConfigError(["--epsilon must be given for a network that is not a bundle, in pixel units: 8/255, not 8"])
    (attack,) = parse_attacks((options["attack"] or f"{{name: pgd, norm: {norm}}}",), None).values()
    settings: dict[str, Any] = {
        **options,
        "data": data_setting([source], options["data"]),
        "attack": attack,
        "epsilon": source.epsilon if epsilon is None else parse_option("--epsilon", epsilon),
        "others": options["others"] and list(options["others"]),
    }
    config = read_settings(SurfaceConfig, {key: value for key, value in settings.items() if value is not None}, "surface")
    used = config.attack.norm.name
    if epsilon is None and used != norm:
        raise ConfigError([f"--epsilon must be given for an attack in {used}: the bundle's search was in {norm}"])
    return config
