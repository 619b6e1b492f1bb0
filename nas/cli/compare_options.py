"""What is typed behind `hardcell compare`, as settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.analysis.compare.config import CompareConfig, default_attacks, parse_compare_config
from nas.analysis.network_source import common_bundle_data, searched_norm
from nas.cli.profile_options import attacks_of, data_of_option, parsed
from nas.config.writer import as_data
from nas.data import SOURCES
from nas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def settings_of(
    networks: Sequence[str],
    *,
    data: str | None,
    attacks: Sequence[str],
    epsilons: Sequence[str],
    others: Mapping[str, Any],
) -> CompareConfig:
    """Returns the settings that the options of `hardcell compare` stand for.

    Args:
        networks: The networks' names: the bundles among them say themselves what their data are.
        data: A source's name, a path, or YAML.
        attacks: Names, or YAML, each with `NAME=` before it or not.
        epsilons: Numbers or fractions.
        others: Further settings by name; None is left out.

    Raises:
        ConfigError: with every fault that was found.
        BundleError: a bundle is damaged.
    """
    settings = {name: value for name, value in others.items() if value is not None}
    settings["data"] = data_of_option(data) if data is not None else common_bundle_data(networks)
    if settings["data"] is None:
        named = ", ".join(name for name in SOURCES if name not in ("folder", "npz"))
        raise ConfigError(
            [f"--data must be given where no network is a bundle: {named}, a folder of images or an .npz file"]
        )
    settings["attacks"] = attacks_of(attacks, None) if attacks else as_data(default_attacks(searched_norm(networks)))
    if epsilons:
        settings["epsilons"] = [parsed("--epsilon", epsilon) for epsilon in epsilons]
    return parse_compare_config(settings)
