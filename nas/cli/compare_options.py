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
    """The options of `hardcell compare` that set what is compared, as they are typed; None where one is left out.

    Attributes:
        data: A source's name, a path, or YAML.
        attacks: Names, or YAML, each with `NAME=` before it or not.
        epsilons: Numbers or fractions.
        images: The setting of that name of `CompareConfig`, as are those that follow.
        seed: A setting.
        device: A setting.
    """

    data: str | None
    attacks: tuple[str, ...]
    epsilons: tuple[str, ...]
    images: int | None
    seed: int | None
    device: str | None


def compare_config(sources: Sequence[NetworkSource], options: CompareArguments) -> CompareConfig:
    """Returns the settings that the options of `hardcell compare` stand for; data and norm of the bundles are the default.

    Raises:
        ConfigError: with every fault that was found.
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
