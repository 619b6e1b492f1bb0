"""Where a network comes from, and what its bundle records: images, norm, epsilon, classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.bundle.load import read_architecture
from nas.bundle.manifest import epsilon_and_norm, is_bundle, read_manifest
from nas.data import SOURCES
from nas.data.config import DataConfig
from nas.errors import ConfigError, NetworkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    pass


def data_of(source: str) -> Any:
    """Returns what the config of a bundle says of its data, as plain data; None where the network is no bundle.

    Raises:
        BundleError: the bundle is damaged.
    """
    folder = Path(source).expanduser()
    return read_manifest(folder)["config"].get("data") if is_bundle(folder) else None


def common_bundle_data(sources: Sequence[str]) -> Any:
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


if TYPE_CHECKING:
    from nas.data.config import DataConfig


def _classes(source: str, data: DataConfig) -> tuple[str, ...]:
    """Returns the names of the classes: a bundle tells them itself."""
    folder = Path(source).expanduser()
    if is_bundle(folder):
        stored = read_architecture(folder)
        if read_manifest(folder)["config"].get("data", {}).get("name") == data.name and "classes" in stored:
            return tuple(map(str, stored["classes"]))
    return SOURCES[data.name](None if data.path is None else Path(data.path), "test").classes


def search_of(source: str) -> tuple[float, str] | None:
    """Returns the epsilon and the norm of the search that made a bundle; None where the network is no bundle.

    Raises:
        BundleError: the bundle is damaged.
    """
    folder = Path(source).expanduser()
    if not is_bundle(folder):
        return None
    return epsilon_and_norm(read_manifest(folder))
