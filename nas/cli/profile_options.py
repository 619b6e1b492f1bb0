"""What is typed behind `hardcell profile`, as settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from evaluators.attacks import Attack
from nas.analysis.network_source import data_of
from nas.analysis.profile import ProfileConfig, parse_profile_config
from nas.config.reader import Reader
from nas.config.writer import as_data
from nas.data import SOURCES
from nas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


def settings_of(
    network: str,
    *,
    data: str | None,
    attacks: Sequence[str],
    norm: str | None,
    epsilons: Sequence[str],
    others: Mapping[str, Any],
) -> ProfileConfig:
    """Returns the settings that the options of `hardcell profile` stand for.

    Args:
        network: The network's name: a bundle says itself what its data are.
        data: A source's name, a path, or YAML.
        attacks: Names, or YAML, each with `NAME=` before it or not.
        norm: Of attacks given by name alone; None for their own.
        epsilons: Numbers or fractions.
        others: Further settings by name; None is left out.

    Raises:
        ConfigError: with every fault that was found.
        BundleError: the bundle is damaged.
    """
    given = {name: parsed(f"--{name}", value) if name == "certify" else value for name, value in others.items()}
    settings = {name: value for name, value in given.items() if value is not None}
    settings["data"] = data_of_option(data) if data is not None else data_of(network)
    if settings["data"] is None:
        named = ", ".join(name for name in SOURCES if name not in ("folder", "npz"))
        raise ConfigError(
            [f"--data must be given for a network that is no bundle: {named}, a folder of images or an .npz file"]
        )
    if attacks:
        settings["attacks"] = attacks_of(attacks, norm)
    elif norm is not None:
        settings["attacks"] = _default_attacks(norm)
    if epsilons:
        of = _norm_of(settings.get("attacks"), norm)
        settings["epsilons"] = {of: [parsed("--epsilon", epsilon) for epsilon in epsilons]}
    return parse_profile_config(settings)


def data_of_option(text: str) -> Any:
    """Returns what `--data` says, as the config does."""
    if text.startswith("{"):
        return parsed("--data", text)
    if text.endswith(".npz"):
        return {"name": "npz", "path": text}
    if text not in SOURCES and ("/" in text or Path(text).exists()):
        return {"name": "folder", "path": text}
    return {"name": text}


def attacks_of(texts: Sequence[str], norm: str | None) -> dict[str, Any]:
    """Returns attacks by name, as the config holds them."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or "{" in name:
            name, value = "", text
        attack = parsed("--attack", value)
        if isinstance(attack, str):
            name = name or attack.rpartition(":")[2]
            attack = {"name": attack, "norm": norm} if norm else attack
        elif not name:
            name = str(attack.get("name", "attack") if isinstance(attack, dict) else attack).rpartition(":")[2]
        if name in found and not equals:
            name = next(f"{name}_{n}" for n in range(2, len(texts) + 2) if f"{name}_{n}" not in found)
        if name in found:
            raise ConfigError([f"--attack {text}: there is another attack named {name!r}"])
        found[name] = attack
    return found


def _default_attacks(norm: str) -> dict[str, Any]:
    """Returns the default attacks in one norm: those of that norm, and those of linf put into it."""
    attacks = ProfileConfig().attacks
    return {name: {**as_data(a), "norm": norm} for name, a in attacks.items() if a.norm.name in (norm, "linf")}


def _norm_of(attacks: Mapping[str, Any] | None, norm: str | None) -> str:
    """Returns the norm that epsilons belong to: that of all attacks if they share one, else that of the option, or linf."""
    # Faults are noted, and told, when all settings are read.
    read = Reader("", None).read(Mapping[str, Attack], attacks, "attacks", {}) if attacks else ProfileConfig().attacks
    names = {attack.norm.name for attack in read.values()}
    return names.pop() if len(names) == 1 else norm or "linf"


def parsed(option: str, text: Any) -> Any:
    """Returns the value of an option in YAML."""
    if not isinstance(text, str):
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError([f"{option}: not YAML: {text!r}"]) from error
