"""A network with its name and, if it comes from a bundle, the bundle's records: data, norm, epsilon and classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, final

from torch import nn

from nas.analysis.networks.adapter import adapted
from nas.analysis.networks.library import is_library
from nas.analysis.networks.opening import open_network, refuse_adaptations, refuse_weights
from nas.analysis.networks.options import NetworkOptions
from nas.analysis.networks.paths import expand_path
from nas.bundle.load import load_network
from nas.bundle.manifest import epsilon_and_norm, is_bundle
from nas.bundle.source import data_settings, has_place
from nas.data import class_names
from nas.errors import ConfigError, NetworkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.data.config import DataConfig

    Openable: TypeAlias = "str | Path | nn.Module | NetworkSource"


@final
@dataclass(frozen=True)
class NetworkSource:
    """An open network with the records of its bundle. Without a bundle, only `name`, `network` and `in_memory` are set.

    Attributes:
        name: Name that the user gave (a path, FILE.py:NAME, package.module:NAME, or torchvision:MODEL with its file of
            weights), or the class name of a given module.
        network: Network in evaluation mode, from images (N, C, H, W) in [0, 1] to logits (N, K).
        manifest: Content of manifest.json.
        data: Section `data` of the search's config, as plain data.
        norm: Name of the search's norm.
        epsilon: Epsilon of the search, in pixel units.
        classes: Names of the classes.
        in_memory: Whether the network was passed as a module, so that the name is not a path.
        options: Options with which the network was opened.
    """

    name: str
    network: nn.Module
    manifest: Mapping[str, Any] | None = field(default=None, repr=False)
    data: Any = None
    norm: str | None = None
    epsilon: float | None = None
    classes: tuple[str, ...] | None = None
    in_memory: bool = False
    options: NetworkOptions = NetworkOptions()

    @property
    def short_name(self) -> str:
        """Name of the bundle, the model with its file of weights, or the last part of the path."""
        if self.manifest is not None:
            return str(self.manifest["name"])
        if self.options.weights is not None:
            model = self.name.removesuffix(_with_weights(self.options)).partition(":")[2]
            return f"{model} ({self.options.weights.stem})"
        return Path(self.name).name or self.name

    def class_names(self, data: DataConfig) -> tuple[str, ...]:
        """Returns the class names of the data, from the bundle if it was made for that data."""
        if self.classes and isinstance(self.data, dict) and self.data.get("name") == data.name:
            return self.classes
        return class_names(data)


def open_source(network: Openable, *, options: NetworkOptions = NetworkOptions(), trust: bool = False) -> NetworkSource:
    """Returns a network with its name and the records of its bundle.

    Args:
        network: Path or name as for `open_network`, an `nn.Module` (set to evaluation mode), or a source (returned as is).
        options: Adaptations of input and output, and the file of weights.
        trust: Run code that comes with a bundle or a .pt2 file. A function named in `network` always runs, because the
            caller chose it.

    Raises:
        NetworkError: the network cannot be opened, or an option does not apply to it.
        BundleError: the bundle is damaged.
    """
    if isinstance(network, NetworkSource):
        if options not in (NetworkOptions(), network.options):
            raise NetworkError(f"{network.name}: is open already; pass the options when you open it")
        return network
    if isinstance(network, nn.Module):
        name = type(network).__name__
        refuse_weights(name, options)
        return NetworkSource(name, adapted(network.eval(), options), in_memory=True, options=options)
    name = str(network)
    folder = expand_path(name)
    if not is_bundle(folder):
        opened = open_network(name, options=options, trust=trust)
        return NetworkSource(f"{name}{_with_weights(options)}", opened, options=options)
    refuse_adaptations(name, options)
    refuse_weights(name, options)
    loaded = load_network(folder, trust=trust)
    epsilon, norm = epsilon_and_norm(loaded.manifest)
    data = data_settings(folder, loaded.manifest)
    return NetworkSource(name, loaded.network, loaded.manifest, data, norm, epsilon, loaded.stored.classes)


def _with_weights(options: NetworkOptions) -> str:
    """Returns what the name of a source adds for its file of weights."""
    return "" if options.weights is None else f" with {options.weights}"


def check_distinct(networks: Sequence[Openable], names: Sequence[str] = (), options: Sequence[NetworkOptions] = ()) -> None:
    """Checks that there are at least two distinct networks, and a distinct name for each or no names at all.

    Args:
        networks: Networks, as for `open_source`. A model of torchvision or timm may come twice, with different weights.
        names: Display name of each network, or none.
        options: Options of each network, or none.

    Raises:
        NetworkError: there are fewer than two networks, or a network is given twice.
        ConfigError: the number of names differs from that of networks, a name is empty, or a name is given twice.
    """
    if not networks:
        raise NetworkError("a comparison needs at least two networks, got none")
    given = [_name_of(network) for network in networks]
    if len(given) < 2:
        raise NetworkError(f"{given[0]}: a comparison needs at least two networks; name another, or use `hardcell profile`")
    seen: dict[object, str] = {}
    each = options or [NetworkOptions()] * len(given)
    for network, name, one in zip(networks, given, each, strict=True):
        identity = _identity(network, one)
        if identity in seen:
            other = seen[identity]
            raise NetworkError(f"{name}: is given twice{f', also as {other}' * (other != name)}; name each network once")
        seen[identity] = name
    if not names:
        return
    if len(names) != len(given):
        raise ConfigError([f"--name must be given for each network or for none: {len(given)} networks, {len(names)} names"])
    if empty := [name for name in names if not name.strip()]:
        raise ConfigError([f"--name must not be empty, got {empty[0]!r}"])
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError([f"--name {twice[0]}: must be unique, got it twice"])


def _name_of(network: Openable) -> str:
    if isinstance(network, NetworkSource):
        return network.name
    return type(network).__name__ if isinstance(network, nn.Module) else str(network)


def _identity(network: Openable, options: NetworkOptions) -> object:
    """Returns a value that is equal for two names of one network: the absolute path, the module's id, or else the name."""
    if isinstance(network, nn.Module):
        return id(network)
    if isinstance(network, NetworkSource) and network.in_memory:
        return id(network.network)
    name = _name_of(network)
    if is_library(name):
        options = network.options if isinstance(network, NetworkSource) else options
        weights = options.weights
        return name.removesuffix(_with_weights(options)), None if weights is None else weights.expanduser().resolve()
    place, colon, function = name.rpartition(":")
    written, suffix = (place, f":{function}") if colon and place.endswith(".py") else (name, "")
    try:
        path = Path(written).expanduser()
    except RuntimeError:  # The user in ~user does not exist; `open_network` reports that.
        return name
    if path.exists():
        return f"{path.resolve()}{suffix}"
    return name


def name_networks(sources: Sequence[NetworkSource], names: Sequence[str] = ()) -> dict[str, NetworkSource]:
    """Returns networks by display name: the given names, or short names, or full names where short ones are equal."""
    if names:
        return dict(zip(names, sources, strict=True))
    counts = Counter(source.short_name for source in sources)
    by_name: dict[str, NetworkSource] = {}
    for source in sources:
        name = source.short_name if counts[source.short_name] == 1 else source.name
        number, unique = 1, name
        while unique in by_name or (number > 1 and unique in counts):  # Modules of the same class are numbered.
            number += 1
            unique = f"{name}_{number}"
        by_name[unique] = source
    return by_name


def common_bundle_data(sources: Sequence[NetworkSource]) -> Any:
    """Returns the common section `data` of all bundles among the networks, as plain data; None if no network is a bundle.

    Raises:
        ConfigError: the bundles were made for different data or test splits, or all their images are on another machine.
    """
    bundles = [source for source in sources if source.manifest is not None]
    tests = [_test_split(source) for source in bundles]
    if any(test != tests[0] for test in tests):
        raise ConfigError(
            [
                "the bundles were made for different data or test splits; give --data, with images on which none of the "
                "networks was trained:",
                *(f"{source.name}: {_data_text(source.data)}" for source in bundles),
            ]
        )
    found = [source.data for source in bundles if has_place(source.data)]
    if bundles and not found:
        raise ConfigError(
            [f"{bundles[0].name}: its images are on the machine that made it; give their place with --data (data)"]
        )
    return next(iter(found), None)


def _test_split(source: NetworkSource) -> Any:
    """Returns values that identify the test images of a bundle: settings of the split, and the images' hash or else path."""
    if not isinstance(source.data, dict) or source.manifest is None:
        return source.data
    hashes = source.manifest.get("data")
    test = hashes.get("test") if isinstance(hashes, Mapping) else None
    return (*(source.data.get(key) for key in ("name", "test", "split_seed")), test or source.data.get("path"))


def bundle_data(sources: Sequence[NetworkSource]) -> Any:
    """Returns the common section `data` of the bundles among the networks, as plain data.

    Raises:
        ConfigError: no network is a bundle, or `common_bundle_data` raises it.
    """
    data = common_bundle_data(sources)
    if data is None:
        raise ConfigError(["config must name the data, because no network is a bundle"])
    return data


def _data_text(data: Any) -> str:
    if not isinstance(data, dict):
        return str(data)
    shown = {key: data.get(key) for key in ("name", "path", "test", "split_seed")}
    return ", ".join(f"{key} {value}" for key, value in shown.items() if value is not None)


def searched_norm(sources: Sequence[NetworkSource]) -> str:
    """Returns the norm name that the searches of all bundles share; linf if their norms differ or there is no bundle."""
    norms = {source.norm for source in sources if source.norm is not None}
    return norms.pop() if len(norms) == 1 else "linf"


def searched_epsilons(sources: Sequence[NetworkSource], norm: str) -> list[float]:
    """Returns the epsilons, in pixel units, of those bundles among the networks whose search used this norm."""
    return sorted({source.epsilon for source in sources if source.norm == norm and source.epsilon is not None})
