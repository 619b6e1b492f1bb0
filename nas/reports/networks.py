"""Opens the network and the test images of each bundle of a report once.

All pictures that need forward passes use these networks and images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from torch import nn

from nas.analysis.fit import check_compatible
from nas.analysis.profile import parse_profile_config
from nas.bundle.export_formats import WEIGHTS
from nas.bundle.load import Bundle, load
from nas.bundle.source import data_settings
from nas.data import Split, open_test
from nas.data.config import DataConfig
from nas.device import open_device
from nas.errors import DataError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterable


# Approximate number of multiply-accumulates per second, on one core of a CPU or on a GPU.
_SECOND = {"cpu": 3e10, "cuda": 3e12, "mps": 3e11}


@final
@dataclass(frozen=True)
class LoadedBundle:
    """A bundle with its network and test images on one device.

    Attributes:
        bundle: The bundle.
        network: The network, on the device of the images.
        data: Settings of the data source.
        test: The test images that the bundle's profile was measured on.
    """

    bundle: Bundle
    network: nn.Module
    data: DataConfig
    test: Split

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return max(1, int(self.bundle.profile.record["cost"]["macs"] or 0))

    def passes(self, seconds: float) -> int:
        """Returns the approximate number of images that the network classifies in this number of seconds."""
        return int(seconds * macs_per_second(self.test) / self.macs)


def macs_per_second(images: Split) -> float:
    """Returns the approximate number of multiply-accumulates per second of the device that holds the images."""
    return _SECOND.get(images.x.device.type, _SECOND["cpu"])


def load_bundles(bundles: Iterable[Bundle], *, trust: bool = False) -> tuple[dict[str, LoadedBundle], dict[str, str]]:
    """Returns the bundles that can be opened, and the reasons why the others cannot, both by name.

    Args:
        bundles: Bundles of one run or of several runs.
        trust: Import the code of custom search spaces.
    """
    splits: dict[DataConfig, Split] = {}
    opened, reasons = {}, {}
    for bundle in bundles:
        try:
            opened[bundle.name] = _open(bundle, splits, trust)
        except Exception as error:  # The images, the network or a custom space may raise any error.
            reasons[bundle.name] = first_line(error)
    return opened, reasons


def duplicates(bundles: Iterable[Bundle]) -> dict[str, str]:
    """Finds the bundles whose weights equal those of an earlier bundle.

    Returns a dict from the name of each such bundle to the name of the first bundle with these weights.
    """
    first: dict[str, str] = {}
    originals = {}
    for bundle in bundles:
        weights = bundle.manifest["files"].get(WEIGHTS)
        if weights is not None and first.setdefault(weights, bundle.name) != bundle.name:
            originals[bundle.name] = first[weights]
    return originals


def _open(bundle: Bundle, splits: dict[DataConfig, Split], trust: bool) -> LoadedBundle:
    """Returns a bundle's network and images.

    Args:
        bundle: The bundle.
        splits: Test splits opened so far, by their settings; a newly opened one is added.
        trust: Import the code of a custom search space.

    Raises:
        DataError: the test images have changed since the bundle was made.
        Exception: the images or the network cannot be opened.
    """
    device = open_device("auto")
    data = parse_profile_config({"data": data_settings(bundle.folder, bundle.manifest)}).data
    if data not in splits:
        splits[data] = open_test(data)
    test = splits[data].first(bundle.profile.record["n"])
    if test.hash != bundle.manifest["data"]["test"]:
        raise DataError(f"the test images of {data.path or data.name} have changed")
    network, test = load(bundle.folder, trust=trust).to(device), test.to(device)
    check_compatible(bundle.name, network, test, data.name)
    return LoadedBundle(bundle, network, data, test)
