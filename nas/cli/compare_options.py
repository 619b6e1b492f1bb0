"""Parses the options of `hardcell compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict, final

from nas.analysis.compare.config import CompareConfig, default_attacks, parse_compare_config
from nas.analysis.network_source import searched_norm
from nas.cli.profile_options import data_setting, parse_attacks, parse_option
from nas.config.writer import as_data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.analysis.network_source import NetworkSource


@final
class CompareArguments(TypedDict):
    """Unparsed options of `hardcell compare` that become settings of `CompareConfig`.

    An option that is not given is None, or () if it is repeatable.

    Attributes:
        data: Name of a data source, a path, or YAML.
        attacks: Names of attacks or YAML, each optionally with `NAME=` in front.
        epsilons: Numbers or fractions such as 8/255, in pixel units.
        images: `CompareConfig.images`.
        seed: `CompareConfig.seed`.
        device: `CompareConfig.device`.
    """

    data: str | None
    attacks: tuple[str, ...]
    epsilons: tuple[str, ...]
    images: int | None
    seed: int | None
    device: str | None


def compare_config(sources: Sequence[NetworkSource], options: CompareArguments) -> CompareConfig:
    """Returns the settings of `hardcell compare` from its options.

    By default, the data and the norm of the attacks are those of the bundles' searches.

    Raises:
        ConfigError: an option is missing or invalid.
    """
    attacks = options["attacks"]
    settings: dict[str, Any] = {
        "data": data_setting(sources, options["data"]),
        "attacks": parse_attacks(attacks, None) if attacks else as_data(default_attacks(searched_norm(sources))),
        "epsilons": [parse_option("--epsilon", epsilon) for epsilon in options["epsilons"]] or None,
        "images": options["images"],
        "seed": options["seed"],
        "device": options["device"],
    }
    return parse_compare_config({name: value for name, value in settings.items() if value is not None})
