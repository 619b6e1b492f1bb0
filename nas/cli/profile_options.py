"""Parses the options of `hardcell profile`, some of which other commands share."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, final

import yaml

from evaluators.attacks import Attack
from evaluators.engine.scores_only import why_no_gradients
from evaluators.norms import NORMS
from nas.analysis.network_source import common_bundle_data
from nas.analysis.profile import ProfileConfig, parse_profile_config
from nas.analysis.score_attacks import score_attacks
from nas.config.reader import Reader
from nas.config.writer import as_data
from nas.data import SOURCES
from nas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.analysis.network_source import NetworkSource

# Relative tolerance of radii under `--exact`.
EXACT = 0.01


@final
class ProfileArguments(TypedDict):
    """Unparsed options of `hardcell profile` that become settings of `ProfileConfig`.

    An option that is not given is None, () if it is repeatable, and False if it is a flag.

    Attributes:
        data: Name of a data source, a path, or YAML.
        attacks: Names of attacks or YAML, each optionally with `NAME=` in front.
        norm: Norm of the default attacks, or of the attacks that are given by name only.
        epsilons: Numbers or fractions such as 8/255, in pixel units.
        union: `ProfileConfig.union`, as YAML.
        images: `ProfileConfig.images`.
        exact: Sets `ProfileConfig.tolerance` to 1 %.
        corruptions: `ProfileConfig.corruptions`.
        certify: `ProfileConfig.certify`, as a number or a fraction.
        transfer: `ProfileConfig.transfer`.
        seed: `ProfileConfig.seed`.
        device: `ProfileConfig.device`.
    """

    data: str | None
    attacks: tuple[str, ...]
    norm: str | None
    epsilons: tuple[str, ...]
    union: str | None
    images: int | None
    exact: bool
    corruptions: bool
    certify: str | None
    transfer: tuple[str, ...]
    seed: int | None
    device: str | None


def profile_config(source: NetworkSource, options: ProfileArguments) -> ProfileConfig:
    """Returns the settings of `hardcell profile` from its options. For a bundle, the default data are those of its search.

    Raises:
        ConfigError: an option is missing or invalid.
    """
    settings: dict[str, Any] = {
        "data": data_setting([source], options["data"]),
        "union": parse_option("--union", options["union"]),
        "images": options["images"],
        "tolerance": EXACT if options["exact"] else None,
        "corruptions": options["corruptions"],
        "certify": parse_option("--certify", options["certify"]),
        "transfer": list(options["transfer"]),
        "seed": options["seed"],
        "device": options["device"],
    }
    norm = options["norm"]
    if options["attacks"]:
        settings["attacks"] = parse_attacks(options["attacks"], norm)
    elif why_no_gradients(source.network) is not None:
        settings["attacks"] = as_data(score_attacks(norm or "linf"))
    elif norm is not None:
        settings["attacks"] = _default_attacks(norm)
    if options["epsilons"]:
        of = _norm_of(settings.get("attacks"), norm)
        settings["epsilons"] = {of: [parse_option("--epsilon", epsilon) for epsilon in options["epsilons"]]}
    return parse_profile_config({name: value for name, value in settings.items() if value is not None})


def data_setting(sources: Sequence[NetworkSource], option: str | None) -> Any:
    """Returns the setting `data` from `--data`; without the option, the data of the bundles among the networks.

    Raises:
        ConfigError: the option is not valid YAML, or is missing and the bundles do not determine the data.
    """
    if option is not None:
        return parse_data(option)
    data = common_bundle_data(sources)
    if data is None:
        which = "for a network that is not a bundle" if len(sources) == 1 else "if no network is a bundle"
        named = ", ".join(name for name in SOURCES if name not in ("folder", "npz"))
        raise ConfigError([f"--data must be given {which}: {named}, a folder of images or an .npz file"])
    return data


def parse_data(text: str) -> Any:
    """Returns the value of `--data` in the form of the config's section `data`."""
    if text.startswith("{"):
        return parse_option("--data", text)
    if text.endswith(".npz"):
        return {"name": "npz", "path": text}
    if text not in SOURCES and ("/" in text or Path(text).exists()):
        return {"name": "folder", "path": text}
    return {"name": text}


def parse_attacks(texts: Sequence[str], norm: str | None) -> dict[str, Any]:
    """Returns attacks by name, in the form of the config's section `attacks`."""
    by_name: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or "{" in name:
            name, value = "", text
        attack = parse_option("--attack", value)
        if isinstance(attack, str):
            name = name or attack.rpartition(":")[2]
            attack = {"name": attack, "norm": norm} if norm else attack
        elif not name:
            name = str(attack.get("name", "attack") if isinstance(attack, dict) else attack).rpartition(":")[2]
        if name in by_name and not equals:
            name = next(f"{name}_{n}" for n in range(2, len(texts) + 2) if f"{name}_{n}" not in by_name)
        if name in by_name:
            raise ConfigError([f"--attack {text}: there is another attack named {name!r}"])
        by_name[name] = attack
    return by_name


def _default_attacks(norm: str) -> dict[str, Any]:
    """Returns the default attacks in one norm: the attacks of that norm, and the linf attacks that exist in it."""
    converted = {}
    for name, attack in ProfileConfig().attacks.items():
        if attack.norm.name in (norm, "linf"):
            settings = {**as_data(attack), "norm": norm}
            if norm not in NORMS:  # Reported with the other faults.
                converted[name] = settings
                continue
            with suppress(ValueError):  # The attack refuses the norm.
                replace(attack, norm=NORMS[norm]())  # type: ignore[type-var]
                converted[name] = settings
    return converted


def _norm_of(attacks: Mapping[str, Any] | None, norm: str | None) -> str:
    """Returns the norm of the epsilons: the common norm of all attacks, else the norm of the option, else linf."""
    # This reader collects faults and drops them; the later read of all settings reports them.
    read = Reader("", None).read(Mapping[str, Attack], attacks, "attacks", {}) if attacks else ProfileConfig().attacks
    names = {attack.norm.name for attack in read.values()}
    return names.pop() if len(names) == 1 else norm or "linf"


def parse_option(option: str, text: Any) -> Any:
    """Returns the value of an option, parsed as YAML if it is text."""
    if not isinstance(text, str):
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError([f"{option}: not YAML: {text!r}"]) from error
