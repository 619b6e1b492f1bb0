"""The networks of a report's bundles with their test images, opened once for all pictures that ask the networks again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from torch import nn

from nas.bundle.load import Bundle, load
from nas.config import DataConfig
from nas.data import Split, open_test
from nas.device import open_device
from nas.profiling import check_fit, parse_profile_config

if TYPE_CHECKING:
    from collections.abc import Iterable


# Multiply-accumulates of about a second: on one core of a CPU, or on a GPU.
_SECOND = {"cpu": 3e10, "cuda": 3e12, "mps": 3e11}


@final
@dataclass(frozen=True)
class Opened:
    """A bundle's network, ready to be asked.

    Attributes:
        bundle: The bundle.
        network: On the device of the images.
        data: Where the images are from.
        test: Those that its profile was measured on.
    """

    bundle: Bundle
    network: nn.Module
    data: DataConfig
    test: Split

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return max(1, int(self.bundle.profile.record["cost"]["macs"]))

    def passes(self, seconds: float) -> int:
        """Returns how many images pass through the network in about so many seconds."""
        return int(seconds * second_of(self.test) / self.macs)


def second_of(images: Split) -> float:
    """Returns how many multiply-accumulates the device of some images does in about a second."""
    return _SECOND.get(images.x.device.type, _SECOND["cpu"])


def open_bundles(bundles: Iterable[Bundle]) -> dict[str, Opened]:
    """Returns the bundles that can be opened, by name.

    Those are left out whose images are gone or are others by now, or that cannot be loaded: a report can do without.

    Args:
        bundles: Those of one run or of several.
    """
    splits: dict[DataConfig, Split] = {}
    found = {}
    for bundle in bundles:
        try:
            one = _open(bundle, splits)
        except Exception:  # Whatever became of the images, of the network, or of the space that builds it.
            continue
        if one is not None:
            found[bundle.name] = one
    return found


def _open(bundle: Bundle, splits: dict[DataConfig, Split]) -> Opened | None:
    """Returns a bundle's network and images; None where the images are others by now.

    Args:
        bundle: The bundle.
        splits: Test splits that are open already; added to.
    """
    device = open_device("auto")
    data = parse_profile_config({"data": bundle.manifest["config"]["data"]}).data
    if data not in splits:
        splits[data] = open_test(data)
    test = splits[data].first(bundle.profile.record["n"])
    if test.hash != bundle.manifest["data"]["test"]:
        return None
    network, test = load(bundle.folder).to(device), test.to(device)
    check_fit(bundle.name, network, test, data.name)
    return Opened(bundle, network, data, test)
