"""A network with its name and, if it comes from a bundle, what the bundle records: images, norm, epsilon, classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from torch import nn

from nas.analysis.networks import expand_path, open_network
from nas.bundle.load import load_network
from nas.bundle.manifest import epsilon_and_norm, is_bundle
from nas.data import SOURCES
from nas.errors import ConfigError, NetworkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.data.config import DataConfig


@final
@dataclass(frozen=True)
class NetworkSource:
    """A network, opened once, with what its bundle records. All but the first two are None if it comes from no bundle.

    Attributes:
        name: The network as the user named it: a path, FILE.py:NAME or package.module:NAME.
        network: In evaluation mode: images (N, C, H, W) in [0, 1] to logits (N, K).
        manifest: The content of manifest.json.
        data: The section `data` of the search's config, as plain data.
        norm: Name of the norm of the search.
        epsilon: The epsilon of the search, in pixel units.
        classes: Names of the classes.
    """

    name: str
    network: nn.Module
    manifest: Mapping[str, Any] | None = field(default=None, repr=False)
    data: Any = None
    norm: str | None = None
    epsilon: float | None = None
    classes: tuple[str, ...] | None = None

    @property
    def short_name(self) -> str:
        """The bundle's own name, or the last part of the path."""
        if self.manifest is not None:
            return str(self.manifest["name"])
        return Path(self.name).name or self.name

    def class_names(self, data: DataConfig) -> tuple[str, ...]:
        """Returns the names of the classes of some data: the bundle's if it was made for that data."""
        if self.classes and isinstance(self.data, dict) and self.data.get("name") == data.name:
            return self.classes
        return SOURCES[data.name](None if data.path is None else Path(data.path), "test").classes


def open_source(network: str | Path | nn.Module | NetworkSource) -> NetworkSource:
    """Returns a network with its name and its bundle's records.

    Args:
        network: What `open_network` takes, a module, which is set to evaluation mode, or a source, which is returned.

    Raises:
        NetworkError: there is no such network.
        BundleError: the bundle is damaged.
    """
    if isinstance(network, NetworkSource):
        return network
    if isinstance(network, nn.Module):
        return NetworkSource(type(network).__name__, network.eval())
    name = str(network)
    folder = expand_path(name)
    if not is_bundle(folder):
        return NetworkSource(name, open_network(name))
    loaded = load_network(folder)
    epsilon, norm = epsilon_and_norm(loaded.manifest)
    data = loaded.manifest["config"].get("data")
    return NetworkSource(name, loaded.network, loaded.manifest, data, norm, epsilon, loaded.stored.classes)


def check_distinct(networks: Sequence[str | Path | nn.Module | NetworkSource], names: Sequence[str] = ()) -> None:
    """Checks that there are at least two networks, each once, and that the names fit them.

    Raises:
        NetworkError: there are fewer than two networks, or one is there twice.
        ConfigError: there are not as many names as networks, one is empty, or two are alike.
    """
    written = [network.name if isinstance(network, NetworkSource) else str(network) for network in networks]
    if len(written) < 2:
        raise NetworkError(
            f"{', '.join(written)}: one network alone cannot be compared; name another, or `hardcell profile` it"
        )
    seen: dict[object, str] = {}
    for network, name in zip(networks, written, strict=True):
        identity = id(network) if isinstance(network, nn.Module) else _identity(name)
        if identity in seen:
            other = seen[identity]
            raise NetworkError(f"{name}: is there twice{f', as {other}, too' * (other != name)}; name each network once")
        seen[identity] = name
    if not names:
        return
    if len(names) != len(written):
        raise ConfigError(
            [f"--name must be given for each network or for none: {len(written)} networks, {len(names)} names"]
        )
    if empty := [name for name in names if not name.strip()]:
        raise ConfigError([f"--name must name a network, got {empty[0]!r}"])
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError([f"--name {twice[0]}: must name one network, not two"])


def _identity(name: str) -> str:
    """Returns what is the same for two ways of writing one network."""
    place, colon, function = name.rpartition(":")
    written, suffix = (place, f":{function}") if colon and place.endswith(".py") else (name, "")
    try:
        path = Path(written).expanduser()
    except RuntimeError:  # There is no such user; opening the network says so.
        return name
    return f"{path.resolve()}{suffix}" if path.exists() else name


def name_networks(sources: Sequence[NetworkSource], names: Sequence[str] = ()) -> dict[str, NetworkSource]:
    """Returns networks by name: the names given, or the short ones, in full where two are alike."""
    if names:
        return dict(zip(names, sources, strict=True))
    counts = Counter(source.short_name for source in sources)
    by_name: dict[str, NetworkSource] = {}
    for source in sources:
        name = source.short_name if counts[source.short_name] == 1 else source.name
        # Two modules of one class have nothing but their place to tell them apart.
        by_name[name if name not in by_name else f"{name}_{len(by_name) + 1}"] = source
    return by_name


def common_bundle_data(sources: Sequence[NetworkSource]) -> Any:
    """Returns the section `data` of the bundles among some networks, as plain data; None without a bundle.

    Raises:
        ConfigError: the bundles were made for different images, or for different splits of them.
    """
    by_name = {source.name: source.data for source in sources if source.manifest is not None}
    # The other settings concern training and validation alone.
    deciding = ("name", "path", "test", "split_seed")
    plain = {s: {key: data.get(key) for key in deciding} if isinstance(data, dict) else data for s, data in by_name.items()}
    first = next(iter(plain.values()), None)
    if any(data != first for data in plain.values()):
        raise ConfigError(
            [
                "the bundles were made for different data, or different test splits of them; name the images with --data, "
                "best such as none of the networks was trained on:",
                *(f"{name}: {_data_text(data)}" for name, data in plain.items()),
            ]
        )
    return next(iter(by_name.values()), None)


def _data_text(data: Any) -> str:
    if not isinstance(data, dict):
        return str(data)
    return ", ".join(f"{key} {value}" for key, value in data.items() if value is not None)


def searched_norm(sources: Sequence[NetworkSource]) -> str:
    """Returns the name of the norm of the searches that made the bundles among some networks, linf where they differ."""
    norms = {source.norm for source in sources if source.norm is not None}
    return norms.pop() if len(norms) == 1 else "linf"


def searched_epsilons(sources: Sequence[NetworkSource], norm: str) -> list[float]:
    """Returns the epsilons of the searches that made the bundles among some networks, where they were in this norm."""
    return sorted({source.epsilon for source in sources if source.norm == norm and source.epsilon is not None})
