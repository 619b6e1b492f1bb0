"""What is compared, and how: the networks' names, the images of the bundles among them, and the settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from evaluators import FGSM, FMN, NORMS, PGD, Attack
from nas.bundle.manifest import epsilon_and_norm, is_bundle, read_manifest
from nas.config import DataConfig, FinalistsConfig
from nas.config_reader import read_settings
from nas.errors import ConfigError, NetworkError
from nas.settings import FaultsError, check_numbers, number


def usual_attacks(norm: str) -> dict[str, Attack]:
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
    attacks: Mapping[str, Attack] = field(default_factory=lambda: usual_attacks("linf"))
    epsilons: tuple[float, ...] | None = None
    images: int = number(1000, 1)
    seed: int = number(0, 0, 2**31 - 1)
    device: str = "auto"
    threads: int | None = number(None, 1)

    def __post_init__(self) -> None:
        faults = check_numbers(self)
        norms = list(dict.fromkeys(attack.norm.name for attack in self.attacks.values()))
        if len(norms) > 1:
            faults.append(("attacks", f"must share one norm, for their radii are compared; got {' and '.join(norms)}"))
        grids = None if self.epsilons is None else dict.fromkeys(norms[:1], self.epsilons)
        try:
            FinalistsConfig(attacks=self.attacks, epsilons=grids)  # The rules for attacks and epsilons are the same.
        except FaultsError as error:
            faults += [(key.partition(".")[0], message) for key, message in error.faults]
        if faults:
            raise FaultsError(faults)


def parse_compare_config(data: Mapping[str, Any]) -> CompareConfig:
    """Returns the settings of `hardcell compare` that plain data stand for; what they leave out has its default.

    Raises:
        ConfigError: with every fault that was found.
    """
    return read_settings(CompareConfig, data, "compare")


def data_of_all(sources: Sequence[str]) -> Any:
    """Returns what the configs of the bundles among some networks say of their data, as plain data; None without a bundle.

    Raises:
        BundleError: a bundle is damaged.
        ConfigError: the bundles were made for different images, or for different splits of them.
    """
    folders = {source: _expanded(source) for source in sources}
    found = {s: read_manifest(folder)["config"].get("data") for s, folder in folders.items() if is_bundle(folder)}
    # What else the config says of the data concerns training and validation alone.
    deciding = ("name", "path", "test", "split_seed")
    plain = {s: {key: data.get(key) for key in deciding} if isinstance(data, dict) else data for s, data in found.items()}
    first = next(iter(plain.values()), None)
    if any(data != first for data in plain.values()):
        told = [f"{source}: {_told(data)}" for source, data in plain.items()]
        raise ConfigError(
            [
                "the bundles were made for different data, or different test splits of them; name the images with --data, "
                "best such as none of the networks was trained on:",
                *told,
            ]
        )
    return next(iter(found.values()), None)


def _told(data: Any) -> str:
    if not isinstance(data, dict):
        return str(data)
    return ", ".join(f"{key} {value}" for key, value in data.items() if value is not None)


def name_networks(sources: Sequence[str], names: Sequence[str] = ()) -> dict[str, str]:
    """Returns networks by name: those given, or the bundles' own and those of the files, in full where two are alike.

    Raises:
        NetworkError: there are fewer than two networks, or one is there twice.
        ConfigError: there are not as many names as networks, one is empty, or two are alike.
        BundleError: a bundle is damaged.
    """
    if len(sources) < 2:
        raise NetworkError(
            f"{', '.join(sources)}: one network alone cannot be compared; name another, or `hardcell profile` it"
        )
    seen: dict[str, str] = {}
    for source in sources:
        identity = _identity(source)
        if identity in seen:
            other = seen[identity]
            raise NetworkError(f"{source}: is there twice{f', as {other}, too' * (other != source)}; name each network once")
        seen[identity] = source
    if names:
        if len(names) != len(sources):
            raise ConfigError(
                [f"--name must be given for each network or for none: {len(sources)} networks, {len(names)} names"]
            )
        if empty := [name for name in names if not name.strip()]:
            raise ConfigError([f"--name must name a network, got {empty[0]!r}"])
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ConfigError([f"--name {twice[0]}: must name one network, not two"])
        return dict(zip(names, sources, strict=True))
    short = [_short_name(source) for source in sources]
    return {name if short.count(name) == 1 else source: source for name, source in zip(short, sources, strict=True)}


def _identity(source: str) -> str:
    """Returns what is the same for two ways of writing one network."""
    place, colon, name = source.rpartition(":")
    path, of = (place, f":{name}") if colon and place.endswith(".py") else (source, "")
    found = _expanded(path)
    return f"{found.resolve()}{of}" if found.exists() else source


def _short_name(source: str) -> str:
    folder = _expanded(source)
    return str(read_manifest(folder)["name"]) if is_bundle(folder) else folder.name or source


def _expanded(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:  # There is no such user; that is told when the network is opened.
        return Path(source)


def searched_norm(sources: Sequence[str]) -> str:
    """Returns the name of the norm of the searches that made the bundles among some networks, L-infinity where they differ.

    Raises:
        BundleError: a bundle is damaged.
    """
    norms = {epsilon_and_norm(read_manifest(folder))[1] for folder in map(_expanded, sources) if is_bundle(folder)}
    return norms.pop() if len(norms) == 1 else "linf"


def searched_epsilons(sources: Sequence[str], norm: str) -> list[float]:
    """Returns the epsilons of the searches that made the bundles among some networks, where they were in this norm."""
    searches = [epsilon_and_norm(read_manifest(folder)) for folder in map(_expanded, sources) if is_bundle(folder)]
    return sorted({epsilon for epsilon, of in searches if of == norm})
